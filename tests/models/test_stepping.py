"""Models step by step and in chunks against the whole sequence at once; sampling that goes on from a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import nn
from minirnn.errors import IndexRangeError, OptionError, ShapeError
from minirnn.nn.pooling import Pooling
from minirnn.nn.state import pack_state, unpack_state

M = mr.models
TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
X = np.random.default_rng(0).standard_normal((7, 3, 5))
TOKENS = np.random.default_rng(1).integers(0, 6, (7, 3))
POOLINGS = ["last", "mean", "max", "attention"]


def outputs_of_steps(model: Any, inputs: Sequence[Any], state: Any) -> tuple[list[np.ndarray], Any]:
    """The outputs of all steps, none of which needs a gradient, and the last state."""
    outputs = []
    for x in inputs:
        y, state = model.step(x, state)
        assert not y.requires_grad
        outputs.append(y.numpy())
    return outputs, state


def assert_members_close(ours: Any, theirs: Any, tolerance: float) -> None:
    for a, b in zip(unpack_state(ours), unpack_state(theirs), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=tolerance)


# --------------------------------------------------------------------------------------- many to many, CharLM


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("embedding_size", [None, 4, 0], ids=["vectors", "embedded", "one-hot"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_many_to_many(cell: str, embedding_size: int | None, batch: int, dtype: np.dtype) -> None:
    """In training mode too, with dropout of everything, steps are those of evaluation."""
    rates = {"zoneout": 0.2, "recurrent_dropout": 0.3}
    options = {"embedding_size": embedding_size, "dropout": 0.5, "dtype": str(dtype)}
    model = M.ManyToMany(5 if embedding_size is None else 6, 9, 4, 2, cell, **options, **rates)
    x = (X.astype(dtype) if embedding_size is None else TOKENS)[:, :batch]
    with model.evaluating():
        expected, final = model(x)
    outputs, state = outputs_of_steps(model, x, model.initial_state(batch))
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=TOLERANCE[str(dtype)])
    assert_members_close(state, final, TOLERANCE[str(dtype)])
    with model.evaluating():  # a call goes on from the state of a step, and a step from that of a call
        _, half = model(x[:3])
        np.testing.assert_allclose(model(x[1:], state=model.step(x[0])[1])[0], expected[1:], rtol=0, atol=1e-6)
    np.testing.assert_allclose(outputs_of_steps(model, x[3:], half)[0], expected[3:], rtol=0, atol=1e-6)


def test_char_lm_steps_with_the_weights_of_the_moment(dtype: np.dtype) -> None:
    lm = M.CharLM(6, 9, dropout=0.5, dtype=str(dtype))
    optimizer = mr.optim.Adam(lm.parameters(), lr=0.1)
    for _ in range(2):
        with lm.evaluating():
            expected, final = lm(TOKENS)
        outputs, state = outputs_of_steps(lm, TOKENS, lm.initial_state(3))
        np.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=TOLERANCE[str(dtype)])
        assert_members_close(state, final, TOLERANCE[str(dtype)])
        lm.loss(TOKENS, TOKENS)[0].backward()
        optimizer.step()
    assert np.abs(lm.step(TOKENS[0])[0].numpy() - outputs[0]).max() > 1e-3


def test_modules_as_cells() -> None:
    """A stack of cells, and a module whose state is not known in advance."""

    class Doubled(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.GRU(5, 9, dtype="float64")

        def forward(self, x: Any, state: Any = None, lengths: Any = None) -> Any:
            y, state = self.inner(x, state, lengths)
            return 2 * y, state

    stack = nn.Recurrent([nn.GRUCell(5, 4, dtype="float64"), nn.LSTMCell(4, 9, dtype="float64")])
    for cell in (stack, Doubled(), nn.GRU(5, 9, dtype="float64"), nn.LSTMCell(5, 9, dtype="float64")):
        model = M.ManyToMany(5, 9, 2, cell=cell, dtype="float64")
        outputs, _ = outputs_of_steps(model, map(mr.tensor, X, [False] * 7, ["float64"] * 7), model.initial_state(3))
        np.testing.assert_allclose(outputs, model(mr.tensor(X, dtype="float64"))[0].numpy(), rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"seed": 7}, {"seed": 7, "top_k": 3, "top_p": 0.9}])
def test_a_text_in_parts_is_that_of_one_call(options: dict[str, Any], cell: str) -> None:
    lm = M.CharLM(6, 9, cell=cell)
    for prime in ([1, 2, 3], [[1, 2], [3, 0]]):
        whole = lm.generate(prime, 30, **options)
        first = lm.stream(prime, 11, chunk=4, **options)
        text = np.concatenate([next(first), next(first)])
        np.testing.assert_array_equal(text, whole[:8])
        rest = lm.stream(text[-1:], 22, chunk=5, **options, state=first.state, position=8)
        np.testing.assert_array_equal(np.concatenate(list(rest)), whole[8:])
        np.testing.assert_array_equal(next(first), whole[8:11])  # which the other has not disturbed
        with pytest.raises(StopIteration):
            next(first)


def test_the_state_of_a_stream_is_that_of_the_model(dtype: np.dtype) -> None:
    """After all tokens but the last; so calls, steps and streams go on from one another."""
    lm = M.CharLM(6, 9, num_layers=3, zoneout=0.3, dtype=str(dtype)).eval()
    stream = lm.stream([[1, 2], [3, 0]], 5, seed=1)
    assert_members_close(stream.state, lm.initial_state(2), 0.0)
    made = next(stream)
    read = np.concatenate([[[1, 2], [3, 0]], made[:-1]])
    assert_members_close(stream.state, lm(read)[1], TOLERANCE[str(dtype)])
    before = [member.numpy().copy() for member in unpack_state(stream.state)]
    logits, _ = lm.step(made[-1], stream.state)
    after = lm.generate(made[-1:], 1, temperature=0, state=stream.state)
    np.testing.assert_array_equal(after[0], logits.numpy().argmax(1))
    np.testing.assert_array_equal(lm.generate(TOKENS[1:2, :2], 4, 0, state=lm(TOKENS[:1, :2])[1]),
                                  lm.generate(TOKENS[:2, :2], 4, 0))  # fmt: skip
    assert_members_close(stream.state, pack_state([mr.tensor(m, dtype=dtype) for m in before]), 0.0)


def test_sampling_goes_on_from_a_state_on_gpu(gpu: str) -> None:
    lm = M.CharLM(6, 9).to(gpu)
    whole = lm.generate([1, 2, 3], 9, seed=3)
    first = lm.stream([1, 2, 3], 4, seed=3)
    text = next(first)
    state = first.state
    np.testing.assert_array_equal(text, whole[:4])
    np.testing.assert_array_equal(lm.generate(text[-1:], 5, seed=3, state=state, position=4), whole[4:])
    read = np.concatenate([[1, 2, 3], text[:-1]])[:, None]
    assert_members_close(state, lm(read)[1], 1e-5)
    np.testing.assert_allclose(outputs_of_steps(lm, read, None)[0], lm(read)[0].numpy(), rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------------------------- many to one


def many_to_one(pooling: str, dtype: str = "float64", **options: Any) -> mr.models.ManyToOne:
    return M.ManyToOne(5, 9, 2, 2, pooling=pooling, dropout=0.5, dtype=dtype, **options)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_many_to_one_gives_the_output_so_far(pooling: str, dtype: np.dtype) -> None:
    model, x = many_to_one(pooling, str(dtype)), X.astype(dtype)
    outputs, state = outputs_of_steps(model, x, model.initial_state(3))
    model.eval()
    for t, output in enumerate(outputs, 1):
        np.testing.assert_allclose(output, model(x[:t]).numpy(), rtol=0, atol=TOLERANCE[str(dtype)])
    again, _ = model.step(x[0], model.step(x[1], state)[1])  # a state of steps is one of chunks
    chunk, _ = model(x[[1, 0]], state=state, return_state=True)
    np.testing.assert_allclose(again, chunk, rtol=0, atol=TOLERANCE[str(dtype)])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("cell", ["gru", nn.Recurrent("gru", 5, [4, 9], 2, dtype="float64")], ids=["gru", "module"])
def test_chunks_of_ragged_batches_give_the_output_and_gradients_of_the_whole(cell: Any, pooling: str) -> None:
    """One sequence ends in the first chunk, one has no step at all."""
    model, lengths = many_to_one(pooling, cell=cell).eval(), np.array([7, 2, 0])
    weight = np.random.default_rng(2).standard_normal((3, 2))

    def gradients(output: mr.Tensor) -> dict[str, np.ndarray]:
        model.zero_grad()
        (output * weight).sum().backward()
        return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}

    expected, state = model(X, lengths), None
    for first, last in ((0, 3), (3, 4), (4, 7)):
        output, state = model(X[first:last], np.clip(lengths - first, 0, last - first), state, return_state=True)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
    ours, theirs = gradients(output), gradients(expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        np.testing.assert_allclose(ours[name], gradient, rtol=1e-9, atol=1e-12, err_msg=name)


def test_running_softmax_of_large_scores() -> None:
    """Scores of 1,000, in rising and in falling order, neither overflow nor lose the smaller ones' mean."""
    pooling = Pooling("attention", 2, dtype="float64")
    pooling.memory.weight.data[...], pooling.score.data[...] = np.eye(2), 1000
    y = mr.tensor(np.linspace(-1, 1, 8).reshape(4, 1, 2), dtype="float64")
    for rows in ([0, 1, 2, 3], [3, 2, 1, 0]):
        state: Any = None
        for row in rows:
            pooled, state = pooling.update(y[[row]], None, state)
        np.testing.assert_allclose(pooled, pooling(y), rtol=1e-12)


# ------------------------------------------------------------------------------- one to many, encoder-decoder


def test_one_to_many_on_its_own_outputs() -> None:
    model = M.OneToMany(5, 9, 4, 2, "gru", dropout=0.5, activation="sigmoid", dtype="float64")
    state, x, outputs = model.initial_state(X[0]), None, []
    for _ in range(4):
        y, state = model.step(x, state)
        outputs.append(y.numpy())
        x = y.sigmoid()
    model.eval()
    np.testing.assert_allclose(outputs, model(X[0], length=4).numpy(), rtol=0, atol=1e-12)


def test_one_to_many_on_tokens() -> None:
    model = M.OneToMany(6, 9, 4, embedding_size=3, dtype="float64")
    inputs = [None, *(TOKENS[:3] % 4)]
    outputs, _ = outputs_of_steps(model, inputs, model.initial_state(TOKENS[0]))
    np.testing.assert_allclose(outputs, model(TOKENS[0], TOKENS[:4] % 4).numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("attention", [None, "additive", "dot"])
def test_encoder_decoder(attention: str | None, bidirectional: bool, dtype: np.dtype) -> None:
    options = {"attention": attention, "bidirectional": bidirectional, "dropout": 0.5, "dtype": str(dtype)}
    model, lengths = M.EncoderDecoder(6, 8, 9, 2, **options), [7, 3, 5]
    target = np.concatenate([np.ones((1, 3), np.int64), TOKENS[:4]])
    outputs, _ = outputs_of_steps(model, target[:-1], model.initial_state(TOKENS, lengths))
    model.eval()
    expected = model(TOKENS, target, lengths)
    np.testing.assert_allclose(outputs, expected.numpy(), rtol=0, atol=TOLERANCE[str(dtype)])


# ---------------------------------------------------------------------------------------------------- errors

TAGGER, LM = M.ManyToMany(5, 9, 4, bidirectional=True), M.CharLM(6, 9)
MEAN, TRANSLATOR = M.ManyToOne(5, 9, 2, pooling="mean"), M.EncoderDecoder(6, 8, 9)
BOTH = M.ManyToOne(5, 9, 2, cell=nn.Bidirectional(nn.GRUCell(5, 4), nn.GRUCell(5, 5)))
ROW, THREE = np.zeros((3, 5), np.float32), LM.initial_state(3)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (OptionError, r"one direction \(bidirectional=False\)", lambda: TAGGER.step(ROW)),
        (OptionError, r"one direction \(bidirectional=False\)", lambda: TAGGER.initial_state(3)),
        (OptionError, r"one direction \(bidirectional=False\)", lambda: BOTH.step(ROW)),
        (OptionError, r"one direction \(bidirectional=False\)", lambda: BOTH(ROW[None], return_state=True)),
        (IndexRangeError, "index 6 is out of range; the table has 6 rows", lambda: LM.step([1, 6])),
        (IndexRangeError, "index -1 is out of range", lambda: LM.step([-1])),
        (ShapeError, r"expected tokens \[N\] of one step, got \[1, 2\]", lambda: LM.step([[1, 2]])),
        (ShapeError, r"expected an initial state \[2, 1, 9\], got \[2, 3, 9\]", lambda: LM.step([1], THREE)),
        (ShapeError, r"state \[2, 1, 9\], got \[2, 3, 9\]", lambda: LM.stream([1], 2, state=THREE)),
        (OptionError, "generate: position: expected", lambda: LM.stream([1], 2, position=-1)),
        (ShapeError, r"a pair \(state of the layers, state of the pooling\) as state, got 1",
         lambda: MEAN.step(ROW, mr.zeros(1))),
        (ShapeError, r"Pooling: expected a pair \(sum, count\) as state",
         lambda: MEAN.step(ROW, (None, mr.zeros(3, 9)))),
        (ShapeError, r"sum \[3, 9\] in the state, got \[2, 9\]",
         lambda: MEAN.step(ROW, (None, (mr.zeros(2, 9), mr.zeros(2, 1))))),
        (ShapeError, r"state of initial_state\(source\)", lambda: TRANSLATOR.step([1], LM.initial_state(1))),
        (ShapeError, r"OneToMany: expected a pair \(h, c\) as state, got 0",
         lambda: M.OneToMany(5, 9, 4).step(None, None)),
    ],
)  # fmt: skip
def test_errors(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()
