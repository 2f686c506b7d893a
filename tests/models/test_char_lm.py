"""The character model: against single steps in primitive operations, states passed on, sampling.

Representative cells; tests/cells covers every one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import ops
from minirnn.cells import Cell, dropout, layer_norm, product, sigmoid, tanh
from minirnn.errors import IndexRangeError, OptionError, ShapeError
from minirnn.kernels.jit import DISABLED
from minirnn.nn.state import unpack_state


@mr.cell
def deep(a, g_x, g_h, /, h, s, *, p=0.5):  # type: ignore[no-untyped-def]
    """All that a cell can have: parts of a gate, a vector, a product inside the step, a normalisation, two states."""
    s = s + sigmoid(layer_norm(g_x * g_h)) * (dropout(tanh(product(tanh(a + p * h)))) - s)
    return tanh(s) + 0.1 * h, s


LENGTH = 8 if DISABLED else 60
cells = pytest.mark.parametrize("cell", ["lstm", "gru", "min_gru", deep], ids=lambda cell: getattr(cell, "name", cell))


def make_model(cell: str | Cell, dtype: str = "float32", layers: int = 2) -> mr.models.CharLM:
    mr.manual_seed(3)
    return mr.models.CharLM(11, 13, num_layers=layers, cell=cell, embedding_size=7, dtype=dtype)


def step_by_step(model: mr.models.CharLM, tokens: np.ndarray) -> mr.Tensor:
    """The same logits in primitive operations, one step of one layer after the other."""
    assert model.embedding is not None
    steps = [step.squeeze(0) for step in model.embedding(tokens).split(1)]
    for layer in range(model.num_layers):
        cell = mr.nn.RecurrentCell(model.layers.cell, steps[0].shape[-1], model.hidden_size)
        for name in dict(cell.named_parameters()):
            setattr(cell, name, getattr(model.rnn, f"{name}_l{layer}"))
        state, outputs = None, []
        for step in steps:
            state = cell(step, state)
            outputs.append(unpack_state(state)[0])
        steps = outputs
    return model.head(ops.stack(steps))


@cells
@pytest.mark.parametrize("shape", [(4, 1), (9, 5)], ids=["few tokens", "more tokens than vocabulary"])
def test_forward_and_gradients_match_single_steps(cell: str | Cell, shape: tuple[int, int]) -> None:
    """Whether the first layer works on a table of tokens or on rows; and in two parts, the state passed on."""
    model = make_model(cell, "float64")
    tokens = np.random.default_rng(0).integers(11, size=shape)
    weight = np.random.default_rng(1).standard_normal((*shape, 11))
    first, state = model(tokens[:3])
    in_parts = ops.concatenate([first, model(tokens[3:], state)[0]])
    results = []
    for logits in (step_by_step(model, tokens), model(tokens)[0], in_parts):
        model.zero_grad()
        (logits * weight).sum().backward()
        results.append([logits.numpy(), *(p.grad.numpy().copy() for p in model.parameters())])
    for expected, whole, parts in zip(*results, strict=True):
        np.testing.assert_allclose(whole, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(parts, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("cell", "row"), [("lstm", 1), ("coupled_lstm", 0), ("slstm", 1), ("mgu", None)])
def test_forget_gates_of_lstms_start_open(cell: str, row: int | None) -> None:
    model = make_model(cell)
    for layer in range(2):
        biases = model.state_dict()[f"rnn.bias_ih_l{layer}"], model.state_dict()[f"rnn.bias_hh_l{layer}"]
        ones = (biases[0] + biases[1]).reshape(-1, 13) == 1
        assert np.flatnonzero(ones.all(1)).tolist() == ([] if row is None else [row])


def test_dropout_falls_on_outputs_not_on_embeddings() -> None:
    seen = []

    class Spy(mr.nn.Module):
        def forward(self, x: mr.Tensor, *_: Any) -> Any:
            seen.append(x.numpy())
            return x, None

    model = mr.models.CharLM(11, 64, cell=Spy(), dropout=0.5)
    model.head = mr.nn.Sequential()  # type: ignore[assignment]
    y = model([[3], [4]])[0].numpy()
    np.testing.assert_array_equal(seen[0][:, 0], model.state_dict()["embedding.weight"][[3, 4]])
    assert 0.3 < (y == 0).mean() < 0.7
    np.testing.assert_array_equal(y[y != 0], 2 * seen[0][y != 0])


@cells
@pytest.mark.parametrize("layers", [1, 3])
def test_greedy_sampling_is_repeated_argmax(cell: str | Cell, layers: int) -> None:
    model, sequence = make_model(cell, layers=layers), [1, 5, 2]
    with mr.no_grad():
        for _ in range(8):
            sequence.append(int(step_by_step(model, np.array(sequence)).numpy()[-1].argmax()))
    sampled = model.generate([1, 5, 2], LENGTH, temperature=0)
    assert sampled[:8].tolist() == sequence[3:]
    forward = model(np.concatenate([[1, 5, 2], sampled]))[0].numpy().argmax(1)
    assert (forward[2:-1] == sampled).all()
    assert (model.generate([1, 5, 2], LENGTH, top_k=1, seed=0) == sampled).all()


def test_sampling_uses_expected_values_in_place_of_training_noise() -> None:
    rates = {"zoneout": 0.3, "recurrent_dropout": 0.5, "weight_drop": 0.5}
    model = mr.models.CharLM(11, 13, cell="peephole_lstm", dropout=0.5, **rates)
    text = model.generate([1], 20, temperature=0)
    assert model.training
    with model.evaluating():
        forward = model(np.concatenate([[1], text]))[0].numpy().argmax(1)
    assert (forward[:-1] == text).all()
    drawn = [model([1, 2, 3])[0].numpy() for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_sampling_depends_on_the_seed_alone(cell: str, set_threads: Any) -> None:
    """Not on the chunks it comes in, on the other streams, or on the threads."""
    model = make_model(cell)
    text = model.generate([3], LENGTH, seed=7)
    assert (np.concatenate(list(model.stream([3], LENGTH, seed=7, chunk=7))) == text).all()
    assert (model.generate([3], LENGTH, seed=8) != text).any()
    together = model.generate(np.full((1, 5), 3), LENGTH, seed=7)
    assert (together[:, 0] == text).all()
    assert (together[:, 1] != text).any()
    set_threads(3)
    assert (model.generate(np.full((1, 5), 3), LENGTH, seed=7) == together).all()
    mr.manual_seed(5)
    drawn = model.generate([3], LENGTH)
    mr.manual_seed(5)
    assert (model.generate([3], LENGTH) == drawn).all()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, None), (0.5, None, None), (1.0, 3, None), (1.0, None, 0.6), (2.0, 8, 0.5)],
)
def test_samples_follow_the_distribution(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """First tokens of many streams: frequencies of softmax(logits / temperature), also restricted by k and by p."""
    model, streams = make_model("gru"), 300 if DISABLED else 20_000
    logits = model([4])[0].numpy()[-1].astype(np.float64)
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")[:top_k]
    kept = order[: int(np.searchsorted(np.cumsum(p[order]) / p[order].sum(), top_p or 1.0 - 1e-12)) + 1]
    expected = np.zeros(11)
    expected[kept] = p[kept] / p[kept].sum()
    drawn = model.generate(np.full((1, streams), 4), 1, temperature, top_k, top_p, seed=1)[0]
    frequency = np.bincount(drawn, minlength=11) / streams
    assert (frequency[expected == 0] == 0).all()
    np.testing.assert_allclose(frequency, expected, atol=4 * np.sqrt(0.25 / streams))


def test_config_of_an_own_cell_makes_the_same_model() -> None:
    model = make_model(deep)
    config = json.loads(json.dumps(model.config))
    assert config["cell"]["name"] == "deep"
    again = mr.models.CharLM(**config)
    again.load_state_dict(model.state_dict())
    assert again.config == config
    assert (again.generate([1], 9, seed=1) == model.generate([1], 9, seed=1)).all()


def test_a_length_of_zero_gives_no_tokens() -> None:
    model = make_model("lstm")
    assert model.generate([1], 0).shape == (0,)
    assert model.generate([[1, 2]], 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate([], 3), ShapeError, "P at least 1, got"),
        (lambda m: m.generate([11], 3), IndexRangeError, "index 11 is out of range; the table has 11 rows"),
        (lambda m: m.generate([1], -1), OptionError, "length: expected an int of at least 0, got -1"),
        (lambda m: m.generate([1], 3.5), OptionError, "length: expected an int of at least 0, got 3.5"),
        (lambda m: m.generate([1], 3, seed=-1), OptionError, "seed: expected an int of at least 0, got -1"),
        (lambda m: m.generate([1], 3, seed=0.5), OptionError, "seed: expected an int of at least 0, got 0.5"),
        (lambda m: m.generate([1], 3, top_k=1.5), OptionError, "top_k: expected an int of at least 1, got 1.5"),
        (lambda m: m.generate([1], 3, top_k=0), OptionError, "top_k: expected an int of at least 1, got 0"),
        (lambda m: m.stream([1], 3, chunk=0), OptionError, "chunk: expected an int of at least 1, got 0"),
        (lambda m: m.generate([1], 3, temperature=-1), OptionError, "temperature: expected a finite .* 0, got -1"),
        (lambda m: m.generate([1], 3, top_p=0), OptionError, "top_p: expected a number above 0 and at most 1, got 0"),
        (lambda m: m.generate([1], 3, weights="bf16"), OptionError, "weights: expected one of float32, bfloat16, int8"),
        (lambda m: m.to("float64").generate([1], 3, weights="int8"), OptionError, "weights: int8 is for a .* float64"),
        (lambda m: m.to("float64").rounded("bfloat16"), OptionError, "weights: bfloat16 is for a model of float32"),
        (lambda m: m.loss([[1]], [[1, 2]]), ShapeError, r"tokens \[1, 1\] and targets \[1, 2\] must have one shape"),
        (lambda m: m.loss([[1]], [[1]], reduction="none"), OptionError, "reduction: expected one of mean, sum"),
        (lambda m: m([[-1]]), IndexRangeError, "index -1 is out of range"),
        (lambda m: mr.models.CharLM(3, 4, cell="qrnn"), OptionError, "cell must be one of coupled_lstm, .* got 'qrnn'"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(make_model("lstm"))


# ------------------------------------------------------------------------------------------------ tied weights


def test_tied_weights_have_the_gradients_of_both_uses() -> None:
    """They are those of an embedding and a head of equal weights, added up."""
    arguments: dict[str, Any] = {"cell": "gru", "num_layers": 1, "dtype": "float64"}
    tied, free = (mr.models.CharLM(11, 6, tie_weights=tie, **arguments) for tie in (True, False))
    free.load_state_dict(tied.state_dict())
    assert free.num_parameters() - tied.num_parameters() == 66
    tokens, targets = np.random.default_rng(0).integers(11, size=(2, 9, 5))
    losses = [model.loss(tokens, targets)[0] for model in (tied, free)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    assert tied.embedding is not None
    assert free.embedding is not None
    assert tied.head.weight is tied.embedding.weight
    both = free.embedding.weight.grad + free.head.weight.grad
    np.testing.assert_allclose(tied.head.weight.grad.numpy(), both.numpy(), rtol=1e-10, atol=1e-14)
    parameters = dict(free.named_parameters())
    for name, parameter in tied.named_parameters():
        if not name.endswith("g.weight"):
            np.testing.assert_allclose(parameter.grad.numpy(), parameters[name].grad.numpy(), rtol=1e-10, atol=1e-14)


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    """In training, in another dtype, in a file, and in the model made of it."""
    model = mr.models.CharLM(11, 6, tie_weights=True, dropout=0.2)
    optimizer = mr.optim.SGD(model.parameters(), lr=0.5)
    before, tokens = model.head.weight.numpy().copy(), np.random.default_rng(0).integers(11, size=(9, 5))
    model.loss(tokens, tokens)[0].backward()
    optimizer.step()
    assert (model.head.weight.numpy() != before).all()
    mr.save(tmp_path / "model.safetensors", model.to("float64").eval())
    again = mr.load(tmp_path / "model.safetensors")
    for one in (model, again):
        assert one.embedding.weight is one.head.weight
    np.testing.assert_array_equal(again(tokens)[0].numpy(), model(tokens)[0].numpy())
    with pytest.raises(OptionError, match="expected embedding_size 6, the hidden_size, got 5"):
        mr.models.CharLM(11, 6, embedding_size=5, tie_weights=True)


def test_embeddings_are_dropped_out_only_where_they_are_tied() -> None:
    """One unit of an embedding that is not zero is dropped or not: of many first states there are two, or one."""
    for tie, different in ((True, 2), (False, 1)):
        model = mr.models.CharLM(3, 1, num_layers=1, tie_weights=tie, dropout=0.5)
        _, (h, _) = model(np.zeros((1, 100), int))
        assert len(np.unique(h.numpy())) == different


# --------------------------------------------------------------------------------------------- excluded tokens


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"top_k": 2}, {"top_p": 0.4}], ids=str)
def test_excluded_tokens_are_never_sampled(options: dict[str, Any]) -> None:
    """The others are as likely as they are among themselves: as if the logits of the excluded ones were very low."""
    model, bias = make_model("gru", layers=1), np.zeros(11, np.float32)
    assert model.head.bias is not None
    before, excluded = model.head.bias.numpy().copy(), [7, 0, 3]
    model.head.bias.data[...] += np.array([3, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0], np.float32)
    assert set(excluded) <= set(model.generate([1], 200, 2.0, seed=1))
    found = model.generate([1], 400, seed=1, exclude=excluded, **options)
    assert not set(excluded) & set(found)
    bias[excluded] = -1e4
    model.head.bias.data[...] = before + bias
    np.testing.assert_array_equal(found, model.generate([1], 400, seed=1, **options))
    with pytest.raises(IndexRangeError, match="generate exclude"):
        model.generate([1], 4, exclude=[11])


@pytest.mark.parametrize("recorded", [False, True])
def test_rates_set_in_training_are_those_of_a_model_made_with_them(recorded: bool) -> None:
    """Also of a model whose calls are recorded: the next call is recorded again."""
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 7, (2, 5, 3))
    made = mr.models.CharLM(7, 6, dropout=0.3, weight_drop=0.4)
    model = mr.models.CharLM(7, 6)
    made.load_state_dict(model.state_dict())
    for _ in range(4 if recorded else 0):
        model.loss(tokens, targets)[0].backward()
    model.zero_grad()
    model.set_dropout(0.3, 0.4)
    assert model.config == made.config
    for _ in range(4):
        results = []
        for one in (model, made):
            mr.manual_seed(5)
            loss = one.loss(tokens, targets)[0]
            loss.backward()
            results.append((loss.item(), [p.grad.numpy() for p in one.parameters()]))
            one.zero_grad()
        assert results[0][0] == results[1][0]
        for got, expected in zip(results[0][1], results[1][1], strict=True):
            np.testing.assert_array_equal(got, expected)
    model.set_dropout(weight_drop=0.0)
    assert (model.config["dropout"], model.config["weight_drop"], model.rnn.weight_drop) == (0.3, 0.0, 0.0)


def test_refused_rates_change_nothing() -> None:
    def rates() -> list[float]:
        return [
            model.dropout.p,
            model.rnn.dropout,
            model.rnn.weight_drop,
            model.config["dropout"],
            model.config["weight_drop"],
        ]

    for cell, refused, message in (
        ("gru", (1.5, 0.1), "at least 0 and at most 1"),
        ("gru", (0.1, -0.1), "at least 0 and at most 1"),
        ("min_gru", (0.1, 0.1), "no recurrent weights"),
    ):
        model = mr.models.CharLM(7, 6, cell=cell, dropout=0.3)
        before = rates()
        with pytest.raises(OptionError, match=message):
            model.set_dropout(*refused)
        assert rates() == before
    for module in (mr.nn.LSTMCell(6, 6), mr.nn.LSTM(6, 6, dropout=0.2)):
        with pytest.raises(OptionError, match="module"):
            mr.models.CharLM(7, 6, cell=module).set_dropout(weight_drop=0.1)
