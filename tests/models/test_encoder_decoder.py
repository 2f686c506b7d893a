"""The encoder-decoder: against PyTorch one sequence at a time, ragged batches, scheduled sampling, decoding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.data.vocabulary import END, PAD, START
from minirnn.errors import IndexRangeError, OptionError, ShapeError
from minirnn.models import EncoderDecoder
from minirnn.models.encoder_decoder import teacher_forcing_ratio

SOURCE_SIZE, TARGET_SIZE = 9, 8
SOURCE_LENGTHS = [4, 1, 6, 3]
TARGET_LENGTHS = [2, 5, 3, 7]
ATTENTIONS = ("additive", "dot", None)


def make_model(**options: Any) -> EncoderDecoder:
    options = {"num_layers": 2, "embedding_size": 3, "dtype": "float64"} | options
    return EncoderDecoder(SOURCE_SIZE, TARGET_SIZE, 5, **options)


def make_batch(
    source_lengths: list[int] = SOURCE_LENGTHS, target_lengths: list[int] = TARGET_LENGTHS
) -> tuple[np.ndarray, np.ndarray, list[int], list[int]]:
    """Sources [S, N] and targets [T, N]; padding holds tokens too, which must not be read."""
    rng = np.random.default_rng(11)
    source = rng.integers(4, SOURCE_SIZE, (max(source_lengths), len(source_lengths)))
    target = rng.integers(4, TARGET_SIZE, (max(target_lengths), len(target_lengths)))
    target[0] = START
    for n, length in enumerate(target_lengths):
        if length > 1:
            target[length - 1, n] = END
    return source, target, source_lengths, target_lengths


def alone(batch: tuple, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Source [s, 1] and target [t, 1] of one sequence, without padding."""
    source, target, source_lengths, target_lengths = batch
    return source[: source_lengths[n], n : n + 1], target[: target_lengths[n], n : n + 1]


def with_large_weights(model: EncoderDecoder) -> EncoderDecoder:
    """Large enough that inputs matter, and an end that comes now and then."""
    for parameter in model.parameters():
        parameter.data *= 4
    model.head.bias.data[END] += 2
    return model


def gradients(model: EncoderDecoder) -> dict[str, np.ndarray]:
    return {name: np.zeros(p.shape) if p.grad is None else np.array(p.grad) for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------------------------- against PyTorch


class Reference:
    """The equations of the docstring in PyTorch, for one sequence without padding."""

    def __init__(self, torch: Any, model: EncoderDecoder) -> None:
        config = model.config
        self.torch, self.cell, self.layers = torch, config["cell"], config["num_layers"]
        self.kind, self.bidirectional, self.merge = config["attention"], config["bidirectional"], config["merge"]
        self.weights = {name: torch.tensor(array, requires_grad=True) for name, array in model.state_dict().items()}
        layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[self.cell]
        self.parts = {}
        for part, both in (("encoder", self.bidirectional), ("decoder", False)):
            rnn = layer(3, 5, self.layers, bidirectional=both, dtype=torch.float64)
            names = [name for name, _ in rnn.named_parameters()]
            rnn.load_state_dict({name: self.weights[f"{part}.rnn.{name}"].detach() for name in names})
            self.weights |= {f"{part}.rnn.{name}": parameter for name, parameter in rnn.named_parameters()}
            self.parts[part] = rnn

    def linear(self, x: Any, name: str) -> Any:
        return self.torch.nn.functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def start(self, source: np.ndarray) -> tuple[Any, Any]:
        """The encoder's outputs [s, M] and the decoder's first state."""
        torch = self.torch
        y, state = self.parts["encoder"](self.weights["encoder.embedding.weight"][torch.tensor(source)])
        y = y[:, 0]
        if self.bidirectional and self.merge != "concat":
            a, b = y[:, :5], y[:, 5:]
            y = {"sum": a + b, "mul": a * b, "ave": (a + b) / 2}[self.merge]
        if not self.bidirectional:
            return y, state
        members = state if self.cell == "lstm" else (state,)
        carried, number = [], 0
        for which, member in enumerate(members):  # [2 L, 1, H]: layer 0 forward, layer 0 backward, layer 1 ...
            rows = []
            for layer in range(self.layers):
                row = self.linear(torch.cat([member[2 * layer], member[2 * layer + 1]], 1), f"bridge.{number}")
                rows.append(torch.tanh(row) if which == 0 else row)
                number += 1
            carried.append(torch.stack(rows))
        return y, tuple(carried) if self.cell == "lstm" else carried[0]

    def attended(self, h: Any, y: Any) -> tuple[Any, Any]:
        """Context [M] and weights [s] for one state [H]."""
        torch = self.torch
        query = self.linear(h, "attention.query")
        if self.kind == "dot":
            scores = y @ query / y.shape[1] ** 0.5
        else:
            score = self.weights[next(name for name in self.weights if name.startswith("attention.score"))]
            scores = torch.tanh(query + self.linear(y, "attention.memory")) @ score.reshape(-1)
        weights = torch.softmax(scores, 0)
        return weights @ y, weights

    def logits(self, inputs: np.ndarray, y: Any, state: Any) -> tuple[Any, Any]:
        """Logits [t, V] of the steps that read ``inputs`` [t], and the state after them."""
        torch = self.torch
        table = self.weights["decoder.embedding.weight"]
        h, state = self.parts["decoder"](table[torch.tensor(inputs)][:, None], state)
        h = h[:, 0]
        if self.kind is not None:
            contexts = torch.stack([self.attended(row, y)[0] for row in h])
            h = torch.tanh(self.linear(torch.cat([contexts, h], 1), "combine"))
        return self.linear(h, "head"), state

    def losses(self, batch: tuple, smoothing: float = 0.0) -> list[Any]:
        """The loss of every target token of every sequence."""
        losses = []
        for n, length in enumerate(batch[3]):
            if length > 1:
                source, target = alone(batch, n)
                logits, _ = self.logits(target[:-1, 0], *self.start(source))
                labels, options = self.torch.tensor(target[1:, 0]), {"label_smoothing": smoothing, "reduction": "none"}
                losses.append(self.torch.nn.functional.cross_entropy(logits, labels, **options))
        return losses

    def gradients(self, loss: Any) -> dict[str, np.ndarray]:
        loss.backward()
        return {name: np.zeros(w.shape) if w.grad is None else w.grad.numpy() for name, w in self.weights.items()}


@pytest.mark.needs_torch
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("cell", "layers", "bidirectional", "merge"),
    [
        ("lstm", 2, True, "concat"),
        ("gru", 1, True, "concat"),
        ("rnn", 2, True, "sum"),
        ("lstm", 1, True, "mul"),
        ("gru", 2, True, "ave"),
        ("lstm", 1, False, "concat"),
        ("gru", 2, False, "concat"),
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_and_gradients_match_pytorch(
    torch: Any, cell: str, layers: int, bidirectional: bool, merge: str, attention: str | None, smoothing: float
) -> None:
    """The mean over all target tokens; or with label smoothing their sum, and targets without a token or <start>."""
    model = make_model(cell=cell, num_layers=layers, bidirectional=bidirectional, merge=merge, attention=attention)
    reference = Reference(torch, model)
    batch = make_batch([4, 1, 6, 3, 2], [1, 5, 3, 7, 0]) if smoothing else make_batch()
    loss = model.loss(*batch, label_smoothing=smoothing, reduction="sum" if smoothing else "mean")
    losses = torch.cat(reference.losses(batch, smoothing))
    expected = losses.sum() if smoothing else losses.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    theirs, ours = reference.gradients(expected), gradients(model)
    assert theirs.keys() == ours.keys()
    for name, gradient in theirs.items():
        assert ours[name].any(), name
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-10, atol=1e-13 if smoothing else 1e-14, err_msg=name)


@pytest.mark.needs_torch
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_greedy_decoding_matches_pytorch(torch: Any, attention: str | None) -> None:
    """Step by step, each reading the most likely token of the one before; the attention's weights too."""
    model = with_large_weights(make_model(attention=attention))
    reference = Reference(torch, model)
    source, _, lengths, _ = make_batch()
    found = model.generate(source, lengths, max_length=6)
    assert len({tuple(one.tokens.tolist()) for one in found}) > 1
    assert min(len(one.tokens) for one in found) < 6
    for n, one in enumerate(found):
        with torch.no_grad():
            y, state = reference.start(source[: lengths[n], n : n + 1])
            token, tokens, log_prob, weights = START, [], 0.0, []
            while token != END and len(tokens) < 6:
                if attention is not None:
                    h, _ = reference.parts["decoder"](
                        reference.weights["decoder.embedding.weight"][torch.tensor([[token]])], state
                    )
                    weights.append(reference.attended(h[0, 0], y)[1].numpy())
                logits, state = reference.logits(np.array([token]), y, state)
                log_probs = torch.log_softmax(logits[0], 0).numpy()
                log_probs[[PAD, START]] = -np.inf
                token = int(log_probs.argmax())
                log_prob += log_probs[token]
                tokens.append(token)
        body = [token for token in tokens if token != END]
        assert one.tokens.tolist() == body
        assert one.log_prob == pytest.approx(log_prob, rel=1e-12)
        if attention is None:
            assert one.attention is None
        else:
            rows = np.array(weights[: len(body)]).reshape(-1, lengths[n])
            np.testing.assert_allclose(one.attention, rows, rtol=1e-10)


# ------------------------------------------------------------------------------------------------ padding


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("ratio", [1.0, 0.0])
def test_loss_and_gradients_of_a_batch_are_those_of_its_sequences(attention: str | None, ratio: float) -> None:
    """With targets as inputs, and with the model's own predictions."""
    model, batch = make_model(attention=attention), make_batch()
    total = model.loss(*batch, teacher_forcing_ratio=ratio, reduction="sum")
    total.backward()
    together = gradients(model)
    each = model.loss(*batch, teacher_forcing_ratio=ratio, reduction="none").numpy()
    model.zero_grad()
    losses, rows = 0.0, np.repeat(np.arange(4)[None], 6, 0)[np.arange(6)[:, None] < np.array(TARGET_LENGTHS) - 1]
    for n in range(4):
        loss = model.loss(*alone(batch, n), teacher_forcing_ratio=ratio, reduction="sum")
        loss.backward()
        losses += loss.item()
        assert each[rows == n].sum() == pytest.approx(loss.item(), rel=1e-12)
        logits = model(*batch, teacher_forcing_ratio=ratio).numpy()[: TARGET_LENGTHS[n] - 1, n]
        expected = model(*alone(batch, n), teacher_forcing_ratio=ratio).numpy()[:, 0]
        np.testing.assert_allclose(logits, expected, rtol=1e-11, atol=1e-14)
    assert total.item() == pytest.approx(losses, rel=1e-12)
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(together[name], gradient, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_a_source_without_tokens_counts_as_padding(attention: str | None) -> None:
    """The decoder starts from the bridge of zeros and attends to nothing, whatever the padding holds."""
    model = make_model(attention=attention)
    target = np.array([[START, START], [5, 6], [END, END]])
    losses = model.loss([[4, 7], [5, 8]], target, [2, 0], reduction="none")
    losses.sum().backward()
    assert all(np.isfinite(gradient).all() for gradient in gradients(model).values())
    alone = model.loss([[6]], target[:, 1:], [0], reduction="none").numpy()
    np.testing.assert_allclose(losses.numpy()[1::2], alone, rtol=1e-12)
    (one,) = model.generate([[6], [6]], [0], max_length=3)
    assert one.attention is None if attention is None else one.attention.shape == (len(one.tokens), 0)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("max_length", [None, 4])
def test_each_source_of_a_batch_is_decoded_as_alone(attention: str | None, width: int, max_length: int | None) -> None:
    model = with_large_weights(make_model(attention=attention))
    source, _, lengths, _ = make_batch()
    for n, one in enumerate(model.generate(source, lengths, max_length, width, 0.7)):
        (alone,) = model.generate(source[: lengths[n], n : n + 1], None, max_length, width, 0.7)
        assert one.tokens.tolist() == alone.tokens.tolist()
        assert one.score == pytest.approx(alone.score, rel=1e-11)
        assert (one.attention is None) == (attention is None)
        if one.attention is not None and alone.attention is not None:
            assert one.attention.shape == (len(one.tokens), lengths[n])
            np.testing.assert_allclose(one.attention, alone.attention, rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(one.attention.sum(1), 1)


def test_decoding_without_an_end_stops_by_the_length_of_each_source() -> None:
    model = make_model()
    model.head.bias.data[END] = -1e3
    source, _, lengths, _ = make_batch()
    for width in (1, 2):
        assert [len(one.tokens) for one in model.generate(source, lengths, beam_width=width)] == [18, 12, 22, 16]
        assert [len(one.tokens) for one in model.generate(source, lengths, 7, width)] == [7] * 4


def test_a_full_beam_finds_the_best_sequence() -> None:
    """By the log-probabilities of all sequences under teacher forcing."""
    model = with_large_weights(EncoderDecoder(6, 5, 4, embedding_size=3, dtype="float64"))
    source = np.array([[4], [5], [4]])
    best: dict[tuple[int, ...], float] = {}
    bodies = [body for n in range(4) for body in itertools.product([3, 4], repeat=n)]
    for body in bodies:
        target = np.array([START, *body, END])[:, None]
        log_probs = model(source, target).log_softmax(2).numpy()[:, 0]
        expected = np.take_along_axis(log_probs, target[1:], 1)[:, 0]
        if len(body) < 3:
            best[body] = expected.sum() / ((5 + len(body) + 1) / 6) ** 0.5
        else:  # of maximum length, without an end
            best[body] = expected[:-1].sum() / ((5 + 3) / 6) ** 0.5
    (found,) = model.generate(source, max_length=3, beam_width=100, length_penalty=0.5)
    most_likely = max(best, key=best.__getitem__)
    assert tuple(found.tokens.tolist()) == most_likely
    assert found.score == pytest.approx(best[most_likely], rel=1e-12)


def test_an_empty_batch_gives_no_hypotheses() -> None:
    model = make_model()
    assert model.generate(np.zeros((3, 0), np.int64)) == []
    (one,) = model.generate([[5]], max_length=1)
    assert len(one.tokens) <= 1
    with pytest.raises(ShapeError, match=r"expected a source \[S, N\] with S at least 1, got \[0, 2\]"):
        model.generate(np.zeros((0, 2), np.int64))


# ---------------------------------------------------------------------------------------------- teacher forcing


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("ratio", [0.0, 0.5])
@pytest.mark.parametrize("draw", ["step", "sequence"])
def test_scheduled_sampling_is_a_loop_over_the_steps(attention: str | None, ratio: float, draw: str) -> None:
    """One step at a time on a tape, each reading the target or the prediction of the one before."""
    model, batch = make_model(attention=attention), make_batch()
    source, target, source_lengths, target_lengths = batch
    steps = len(target) - 1
    mr.manual_seed(6)
    loss = model.loss(*batch, teacher_forcing_ratio=ratio, draw=draw)
    loss.backward()
    found = gradients(model)

    mr.manual_seed(6)
    numbers = mr.random.uniform(*(steps, 4) if draw == "step" else (4,))
    forced = np.broadcast_to(numbers < ratio, (steps, 4))
    model.zero_grad()
    memory, state = model.encode(source, source_lengths)
    losses, prediction, mixed = [], None, 0
    for t in range(steps):
        inputs = target[t] if prediction is None else np.where(forced[t], target[t], prediction)
        mixed += int((inputs != target[t]).sum())
        h, _, state = model.decode(inputs[None], memory, state)
        logits = model.head(h[0])
        prediction = logits.numpy().argmax(1)
        rows = np.flatnonzero(np.array(target_lengths) - 1 > t)
        losses.append(mr.nn.functional.cross_entropy(logits[rows], target[t + 1, rows], reduction="sum"))
    assert mixed > 3
    total = sum(losses[1:], losses[0]) / float(sum(target_lengths) - 4)
    assert loss.item() == pytest.approx(total.item(), rel=1e-12)
    total.backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-10, atol=1e-13, err_msg=name)


def forced_steps(ratio: float, draw: str, steps: int = 41, batch: int = 500) -> np.ndarray:
    """Which steps [T, N] after the first read the target, in a model that always predicts another token."""
    model = EncoderDecoder(5, 6, 2, embedding_size=1, attention=None)
    model.head.weight.data[...] = 0
    model.head.bias.data[...] = [0, 0, 0, 0, 0, 9]
    target = np.full((steps + 2, batch), 4)
    memory, state = model.encode(np.full((1, batch), 4))
    inputs = model._scheduled_sampling(target[:-1], memory, state, ratio, draw)
    assert (inputs[0] == 4).all()
    assert np.isin(inputs, [4, 5]).all()
    return inputs[1:] == 4


@pytest.mark.parametrize("ratio", [0.25, 0.8])
def test_targets_are_read_as_often_as_the_ratio_says(ratio: float) -> None:
    by_step, by_sequence = forced_steps(ratio, "step"), forced_steps(ratio, "sequence")
    deviation = np.sqrt(ratio * (1 - ratio))
    assert abs(by_step.mean() - ratio) < 4 * deviation / np.sqrt(by_step.size)
    assert np.abs(by_step.mean(0) - ratio).max() < 5 * deviation / np.sqrt(len(by_step))
    assert np.abs(by_step.mean(1) - ratio).max() < 5 * deviation / np.sqrt(500)
    assert abs(np.corrcoef(by_step[:-1].ravel(), by_step[1:].ravel())[0, 1]) < 0.03
    assert (by_sequence == by_sequence[0]).all()
    assert abs(by_sequence[0].mean() - ratio) < 4 * deviation / np.sqrt(500)


@pytest.mark.parametrize("draw", ["step", "sequence"])
def test_scheduled_sampling_depends_on_the_seed(draw: str) -> None:
    choices = []
    for seed in (1, 1, 2):
        mr.manual_seed(seed)
        choices.append(forced_steps(0.5, draw, 11, 50))
    assert (choices[0] == choices[1]).all()
    assert (choices[0] != choices[2]).any()
    assert forced_steps(0.0, draw, 11, 50).sum() == 0
    assert forced_steps(1.0, draw, 11, 50).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_dropout_falls_in_training_and_not_on_predictions(attention: str | None) -> None:
    model, batch = make_model(attention=attention, dropout=0.4), make_batch()
    before = model.state_dict()
    model.loss(*batch, teacher_forcing_ratio=0.5).backward()
    assert all(module.training for module in model.modules())
    np.testing.assert_equal(model.state_dict(), before)
    assert all(gradient.any() for gradient in gradients(model).values())
    assert len({model.loss(*batch).item() for _ in range(3)}) == 3
    plain = make_model(attention=attention)
    plain.load_state_dict(before)
    assert model.eval().loss(*batch).item() == plain.loss(*batch).item()


def test_teacher_forcing_schedules_by_hand() -> None:
    for progress in (0.0, 0.3, 1.0):
        assert teacher_forcing_ratio("constant", 0.9, 0.1, progress) == 0.9
    for progress, ratio in [(0.0, 0.9), (0.25, 0.7), (0.5, 0.5), (1.0, 0.1)]:
        assert teacher_forcing_ratio("linear", 0.9, 0.1, progress) == pytest.approx(ratio)
    # 15 / (15 + e^(100 p / 15)): e^0 = 1; e^(20/3) = 785.772; at p = 0.15 ln 15 the two terms are equal
    for progress, share in [(0.0, 15 / 16), (1.0, 15 / 800.772), (0.15 * np.log(15), 0.5)]:
        assert teacher_forcing_ratio("inverse-sigmoid", 1.0, 0.0, progress) == pytest.approx(share, rel=1e-5)
        assert teacher_forcing_ratio("inverse-sigmoid", 0.8, 0.2, progress) == pytest.approx(0.2 + 0.6 * share)
    assert teacher_forcing_ratio("linear", 0.2, 1.0, 0.5) == pytest.approx(0.6)  # it may rise, too


# ------------------------------------------------------------------------------------------- cells, mistakes


@pytest.mark.parametrize("cell", ["slstm", "layer_norm_gru"])
def test_states_of_any_cell_reach_the_decoder(cell: str) -> None:
    """h through tanh of a linear layer, c through a linear layer, other states as the mean of both directions."""
    model, batch = make_model(cell=cell), make_batch()
    source, _, lengths, _ = batch
    states = model.encode(source, lengths)[1]
    final = model.encoder(source, lengths)[1]
    count = {"slstm": 4, "layer_norm_gru": 1}[cell]
    carried, finals = (one if count > 1 else (one,) for one in (states, final))
    assert len(carried) == count
    for number, (state, both) in enumerate(zip(carried, finals, strict=True)):
        forward, backward = both.numpy()[0::2], both.numpy()[1::2]
        for layer in range(2):
            expected = (forward[layer] + backward[layer]) / 2
            if number < 2:
                bridge = model.bridge[2 * number + layer]
                expected = bridge(np.concatenate([forward[layer], backward[layer]], 1)).numpy()
            expected = np.tanh(expected) if number == 0 else expected
            np.testing.assert_allclose(state.numpy()[layer], expected, rtol=1e-12)
    model.loss(*batch).backward()
    assert all(np.isfinite(gradient).all() for gradient in gradients(model).values())
    assert len(model.generate(source, lengths)) == len(lengths)


def test_one_hot_is_an_embedding_that_is_the_identity() -> None:
    model = make_model(embedding_size=0, num_layers=1)
    same = EncoderDecoder(SOURCE_SIZE, TARGET_SIZE, 5, embedding_size=SOURCE_SIZE, dtype="float64")
    weights = same.state_dict()
    for part, size in (("encoder", SOURCE_SIZE), ("decoder", TARGET_SIZE)):
        weights[f"{part}.embedding.weight"] = np.eye(size, SOURCE_SIZE)
    for name, array in model.state_dict().items():
        weights[name] = np.pad(array, [(0, 0), (0, 1)]) if name == "decoder.rnn.weight_ih_l0" else array
    same.load_state_dict(weights)
    assert model.loss(*make_batch()).item() == pytest.approx(same.loss(*make_batch()).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: EncoderDecoder(2, 5, 3), OptionError, "source_size: expected an int of at least 3, got 2"),
        (lambda m: EncoderDecoder(5, 5, 3, attention="loud"), OptionError, "got 'loud'"),
        (lambda m: EncoderDecoder(5, 5, 3, cell="qrnn"), OptionError, "cell must be one of coupled_lstm, gru"),
        (lambda m: m.loss([[4, 4]], [[1]]), ShapeError, r"expected a target \[T, 2\] with T at least 2 .*got \[1, 1\]"),
        (lambda m: m.loss([[4]], [[1]]), ShapeError, r"with T at least 2 \(<start> and <end>\), got \[1, 1\]"),
        (lambda m: m.loss([4], [[1], [2]]), ShapeError, r"expected a target \[T, N\]"),
        (lambda m: m.loss([[9]], [[1], [2]]), IndexRangeError, "index 9 is out of range; the table has 9 rows"),
        (lambda m: m.loss([[4]], [[8], [2]]), IndexRangeError, "index 8 is out of range; the table has 8 rows"),
        (lambda m: m.loss([[4]], [[1], [8]]), IndexRangeError, "target 8 is out of range for 8 classes"),
        (lambda m: m.loss([[4]], [[1], [2]], [2]), OptionError, "source: expected lengths from 0 to 1, got 2 to 2"),
        (
            lambda m: m.loss([[4]], [[1], [2]], [1], [3]),
            OptionError,
            "target: expected lengths from 0 to 2, got 3 to 3",
        ),
        (lambda m: m.loss([[4]], [[1], [2]], teacher_forcing_ratio=1.5), OptionError, "at most 1, got 1.5"),
        (lambda m: m.loss([[4]], [[1], [2]], draw="coin"), OptionError, "draw: expected one of step, sequence, got 'c"),
        (lambda m: m.generate([[4]], beam_width=0), OptionError, "width: expected an int of at least 1, got 0"),
        (lambda m: m.generate([4]), ShapeError, r"expected a source \[S, N\] with S at least 1, got \[1\]"),
        (lambda m: teacher_forcing_ratio("cosine", 1, 0, 0), OptionError, "one of constant, linear, inverse-sigmoid"),
        (lambda m: teacher_forcing_ratio("linear", 1, -0.1, 0), OptionError, "forcing end: .* at most 1, got -0.1"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(make_model(attention=None))
