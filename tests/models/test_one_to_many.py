"""OneToMany as a writer: conditioning, losses of ragged targets, sequences that end, sampling and beam search."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.data.sequences import pad
from minirnn.decode import length_penalty
from minirnn.errors import OptionError, ShapeError
from minirnn.models import OneToMany

INPUT, TOKENS, END = 3, 5, 2
FIRST = np.random.default_rng(0).standard_normal((4, INPUT))
SEQUENCES = [[0, 1, 4, END], [3, END], [], [4, 4, 1, 0, 3, END]]
TARGETS, LENGTHS = pad(SEQUENCES)
CONDITIONS = ("start", "every_step")


def make(condition: str = "every_step", cell: str = "lstm", **options: Any) -> OneToMany:
    """A model with weights large enough that choices differ."""
    given = {"embedding_size": 3, "end": END, "dtype": "float64"} | options
    model = OneToMany(INPUT, 5, TOKENS, 2, cell, condition=condition, **given)
    for number, parameter in enumerate(model.parameters()):
        parameter.data[...] = np.random.default_rng(number).normal(0, 1.2, parameter.shape)
    return model


def log_probs(model: OneToMany, first: np.ndarray, tokens: list[int]) -> np.ndarray:
    """Of the token after each prefix of ``tokens``, by teacher forcing [T + 1, V]; one token more is read by none."""
    with model.evaluating():
        return model(first[None], targets=np.array([*tokens, 0])[:, None]).log_softmax(2).numpy()[:, 0]


# ----------------------------------------------------------------------------------------------- conditioning


@pytest.mark.parametrize("embedding_size", [None, 0, 3])
def test_every_step_by_hand(embedding_size: int | None) -> None:
    """h_t = tanh(W [x_t; first] + U h_{t-1} + b), from h_0 = tanh(A first + a)."""
    model = OneToMany(INPUT, 4, TOKENS, cell="rnn", embedding_size=embedding_size, condition="every_step",
                      dtype="float64")  # fmt: skip
    w = {name.rpartition(".rnn.")[2]: array for name, array in model.state_dict().items()}
    rng = np.random.default_rng(1)
    if embedding_size is None:
        targets = rng.standard_normal((3, 4, TOKENS))
        rows = np.concatenate([np.zeros((1, 4, TOKENS)), targets[:-1]])
    else:
        targets = rng.integers(0, TOKENS, (3, 4))
        table = w["body.embedding.weight"] if embedding_size else np.eye(TOKENS + 1)
        rows = table[np.concatenate([np.full((1, 4), TOKENS), targets[:-1]])]
    h, expected = np.tanh(FIRST @ w["start.weight"].T + w["start.bias"]), []
    for x in rows:
        read = np.concatenate([x, FIRST], 1) @ w["weight_ih_l0"].T + w["bias_ih_l0"]
        h = np.tanh(read + h @ w["weight_hh_l0"].T + w["bias_hh_l0"])
        expected.append(h @ w["head.weight"].T + w["head.bias"])
    np.testing.assert_allclose(model(FIRST, targets=targets), expected, rtol=1e-12)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_label_is_one_hot_at_every_step(cell: str) -> None:
    model, labels = make(cell=cell), np.array([2, 0, 1, 1])
    expected = model(np.eye(INPUT)[labels], targets=TARGETS).numpy()
    np.testing.assert_allclose(model(labels, targets=TARGETS), expected, rtol=1e-12)
    np.testing.assert_array_equal(model.generate(labels, 5, seed=1), model.generate(np.eye(INPUT)[labels], 5, seed=1))


@pytest.mark.parametrize("embedding_size", [None, 0, 3])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_steps_are_the_sequence(cell: str, embedding_size: int | None) -> None:
    """The state brings the first input along; a step leaves it, and the tape, alone."""
    model = make(cell=cell, embedding_size=embedding_size, end=None)
    targets = TARGETS if embedding_size is not None else np.random.default_rng(2).standard_normal((6, 4, TOKENS))
    start = model.initial_state(mr.tensor(FIRST, dtype="float64", requires_grad=True))
    before, outputs, state = [np.array(member.detach()) for member in start], [], start
    for x in [None, *targets[:-1]]:
        output, state = model.step(x, state)
        outputs.append(output)
    assert not output.requires_grad
    np.testing.assert_allclose(outputs, model(FIRST, targets=targets).numpy(), rtol=1e-11)
    for member, array in zip(start, before, strict=True):
        np.testing.assert_array_equal(member.detach(), array)
    names = {"gru": r"a pair \(h, first\)", "lstm": r"\(h, c, first\)"}[cell]
    with pytest.raises(ShapeError, match=f"OneToMany: expected {names} as state, got 1"):
        model.step(None, state[0])


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(("cell", "options"), [("lstm", {}), ("gru", {"embedding_size": 0}), ("rnn", {})])
def test_gradients(condition: str, cell: str, options: dict[str, Any]) -> None:
    """Of all parameters and of the first input, through the loss of ragged targets."""
    model = OneToMany(INPUT, 3, TOKENS, cell=cell, condition=condition, end=END,
                      **{"embedding_size": 2, "dtype": "float64"} | options)  # fmt: skip
    first = mr.tensor(FIRST, dtype="float64", requires_grad=True)
    assert mr.gradcheck(lambda x, *_: model.loss(x, TARGETS, LENGTHS), [first, *model.parameters()])


def test_gradients_through_vectors_fed_back() -> None:
    model = OneToMany(INPUT, 3, 2, activation="sigmoid", condition="every_step", dtype="float64")
    first = mr.tensor(FIRST, dtype="float64", requires_grad=True)
    assert mr.gradcheck(lambda x, *_: (model(x, length=3) ** 2).sum(), [first, *model.parameters()])


def test_dropout_leaves_the_first_input() -> None:
    model = make(dropout=0.99, cell="rnn")
    seen = []
    model.body.rnn.forward = lambda x, *_: seen.append(x.numpy()) or (x[..., :5], None)  # type: ignore
    model._recur(mr.Tensor(TARGETS), None, model.initial_state(FIRST))
    assert (seen[0][..., :3] == 0).mean() > 0.9
    np.testing.assert_array_equal(seen[0][..., 3:], np.broadcast_to(FIRST, (*TARGETS.shape, INPUT)))


# ----------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ragged_loss_is_that_of_one_sequence_at_a_time(condition: str, smoothing: float) -> None:
    model = make(condition)
    padded = np.where(np.arange(len(TARGETS))[:, None] < LENGTHS, TARGETS, 4)  # padding holds tokens, too
    model.loss(FIRST, padded, LENGTHS, smoothing, "sum").backward()
    ragged = {name: np.array(p.grad) for name, p in model.named_parameters()}
    model.zero_grad()
    losses = []
    for first, sequence in zip(FIRST, SEQUENCES, strict=True):
        if sequence:
            losses.append(model.loss(first[None], np.array(sequence)[:, None], None, smoothing, "none"))
            losses[-1].sum().backward()
    for name, parameter in model.named_parameters():
        assert ragged[name].any(), name
        np.testing.assert_allclose(ragged[name], parameter.grad, rtol=1e-9, atol=1e-12, err_msg=name)
    mean = np.concatenate([loss.numpy() for loss in losses]).mean()
    assert model.loss(FIRST, padded, LENGTHS, smoothing).item() == pytest.approx(mean, rel=1e-12)
    expected = -sum(log_probs(model, FIRST[0], SEQUENCES[0])[n, token] for n, token in enumerate(SEQUENCES[0]))
    assert smoothing or losses[0].sum().item() == pytest.approx(expected, rel=1e-12)


# -------------------------------------------------------------------------------------------------- generate


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_greedy_decoding_by_hand(condition: str, cell: str) -> None:
    model, steps = make(condition, cell), 7
    model.head.bias.data[END] += 0.6
    firsts = np.random.default_rng(3).standard_normal((30, INPUT)) * 2
    found = model.generate(firsts, steps, beam_width=1)
    drawn = model.generate(firsts, steps, temperature=0)
    ended = 0
    for first, hypothesis, column in zip(firsts, found, drawn.T, strict=True):
        tokens, total = list[int](), 0.0
        while len(tokens) < steps and END not in tokens:
            scores = log_probs(model, first, tokens)[-1]
            tokens.append(int(scores.argmax()))
            total += scores[tokens[-1]]
        assert column.tolist() == (tokens + [END] * steps)[: len(drawn)]
        ended += END in tokens
        score = total / length_penalty(len(tokens), 1.0)
        assert hypothesis.tokens.tolist() == [token for token in tokens if token != END]
        assert (hypothesis.log_prob, hypothesis.score) == pytest.approx((total, score), rel=1e-10)
    assert 0 < ended < 30


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(condition: str, alpha: float) -> None:
    """Of up to four tokens, where greedy decoding does not."""
    model, steps = make(condition), 4
    others = [token for token in range(TOKENS) if token != END]
    every = [[*some, END] for n in range(steps) for some in itertools.product(others, repeat=n)]
    every += [list(some) for some in itertools.product(others, repeat=steps)]
    greedy, better = model.generate(FIRST, steps, beam_width=1, length_penalty=alpha), 0
    targets, lengths = pad(every)
    for n, best in enumerate(model.generate(FIRST, steps, beam_width=len(every), length_penalty=alpha)):
        with model.evaluating():
            nats = model.loss(np.tile(FIRST[n], (len(every), 1)), targets, lengths, reduction="none").numpy()
        totals = np.zeros(len(every))
        np.add.at(totals, np.nonzero(np.arange(len(targets))[:, None] < lengths)[1], -nats)
        scores = [total / length_penalty(len(tokens), alpha) for total, tokens in zip(totals, every, strict=True)]
        assert best.tokens.tolist() == [token for token in every[int(np.argmax(scores))] if token != END]
        assert best.score == pytest.approx(max(scores), rel=1e-10)
        better += best.score > greedy[n].score + 1e-9
    assert better


def test_sampled_sequences_end_and_follow_the_seed() -> None:
    model = make()
    first = np.repeat(FIRST[:1], 4000, 0)
    drawn = model.generate(first, 6, seed=3)
    np.testing.assert_array_equal(drawn, model.generate(first, 6, seed=3))
    assert (drawn != model.generate(first, 6, seed=4)).any()
    after = np.cumsum(drawn == END, 0) - (drawn == END) > 0
    assert after.any()
    assert (drawn[after] == END).all()
    expected = np.exp(log_probs(model, FIRST[0], [int(drawn[0, 0])])[1])  # at the second step, given the first
    second = drawn[1, drawn[0] == drawn[0, 0]]
    np.testing.assert_allclose(np.bincount(second, minlength=TOKENS) / len(second), expected, atol=0.05)


def test_generation_stops_when_all_have_ended() -> None:
    model = make()
    model.head.bias.data[END] = 100
    assert model.generate(FIRST, 50).tolist() == [[END] * 4]
    assert [one.tokens.size for one in model.generate(FIRST, 50, beam_width=3)] == [0] * 4
    model.head.bias.data[END] = -100
    assert model.generate(FIRST, 6).shape == (6, 4)
    assert [one.tokens.size for one in model.generate(FIRST, 6, beam_width=3)] == [6] * 4


def test_a_configuration_from_before_there_were_ends_makes_the_same_model() -> None:
    model = make("start", end=None)
    config = {name: value for name, value in model.config.items() if name not in ("condition", "end")}
    again = OneToMany(**config)
    again.load_state_dict(model.state_dict())
    assert again.config == model.config
    np.testing.assert_array_equal(again.generate(FIRST, 6, 1.0, 5), model.generate(FIRST, 6, seed=5))


def test_mistakes_are_named() -> None:
    with pytest.raises(OptionError, match="condition: expected one of start, every_step, got 'always'"):
        make("always")
    with pytest.raises(OptionError, match="end=2 is a token, but outputs are vectors; give an embedding_size"):
        make(embedding_size=None)
    with pytest.raises(OptionError, match="end: expected an int from 0 to 4, got 5"):
        make(end=TOKENS)
    with pytest.raises(OptionError, match=r"beam_width needs a model of tokens with an end: OneToMany\(..., end=END\)"):
        make(end=None).generate(FIRST, 3, beam_width=2)
    with pytest.raises(OptionError, match=r"loss expects a model of tokens \(embedding_size\)"):
        make(embedding_size=None, end=None).loss(FIRST, TARGETS)
    with pytest.raises(ShapeError, match=r"expected targets \['T', 4\], got \[6, 3\]"):
        make().loss(FIRST, TARGETS[:, 1:])
    with pytest.raises(OptionError, match="expected lengths from 0 to 6, got 0 to 7"):
        make().loss(FIRST, TARGETS, [4, 2, 0, 7])
