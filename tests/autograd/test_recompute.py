"""``recompute``: the same numbers as when everything is stored, to the last bit, in less memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import GradientError, OptionError
from minirnn.kernels import memory
from minirnn.nn.state import unpack_state


def results(run: Callable[[], mr.Tensor], leaves: list[mr.Tensor]) -> list[np.ndarray]:
    """A loss and the gradients of the leaves."""
    for leaf in leaves:
        leaf.grad = None
    loss = run()
    loss.backward()
    return [loss.numpy().copy(), *(leaf.grad.numpy().copy() for leaf in leaves if leaf.grad is not None)]


def store(function: Callable[..., Any], *inputs: mr.Tensor) -> Any:
    return function(*inputs)


def test_values_and_gradients_of_inputs_and_parameters() -> None:
    x = mr.tensor([0.3, -1.2, 2.0], requires_grad=True, dtype="float64")
    w = mr.tensor([1.5, 0.5, -0.7], requires_grad=True, dtype="float64")
    constant = mr.tensor([2.0, 3.0, 4.0], dtype="float64")

    def part(x: mr.Tensor, constant: mr.Tensor) -> tuple[mr.Tensor, mr.Tensor]:
        y = (x * w).tanh()
        return y * constant, y.sum()

    y, total = mr.recompute(part, x, constant)
    (y.sum() * total).backward()
    # y = tanh(x w), s = sum y, c = constant: d(s * sum(c y))/dy = sum(c y) + s c
    t = np.tanh(x.numpy() * w.numpy())
    slope = ((constant.numpy() * t).sum() + t.sum() * constant.numpy()) * (1 - t * t)
    np.testing.assert_allclose(x.grad.numpy(), slope * w.numpy(), rtol=1e-14)
    np.testing.assert_allclose(w.grad.numpy(), slope * x.numpy(), rtol=1e-14)
    assert constant.grad is None


def test_gradcheck_through_a_chain_with_an_unused_and_a_returned_input() -> None:
    def f(a: mr.Tensor, b: mr.Tensor) -> mr.Tensor:
        returned, c, _ = mr.recompute(lambda a, b: (a, a * b, b.exp()), a, b)
        inner = mr.recompute(lambda c: mr.recompute(lambda c: c.sigmoid(), c) * c, c)  # nested
        return (inner + returned).sum()

    inputs = [mr.tensor(np.random.default_rng(n).standard_normal(4), True, "float64") for n in range(2)]
    assert mr.gradcheck(f, inputs)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("every", [1, 4, 5, 12])
def test_segments_of_a_sequence_are_equal_to_the_last_bit(cell: str, dropout: float, every: int) -> None:
    """Stored or computed again, with a state and dropout; the random numbers after it are the same."""
    tokens, targets = np.random.default_rng(1).integers(7, size=(2, 12, 3))
    both = []
    for segments in (store, mr.recompute):
        mr.manual_seed(5)
        model = mr.models.CharLM(7, 9, 2, cell, dropout=dropout)
        first = unpack_state(model(tokens[:2])[1])

        def run(segments: Any = segments, model: Any = model, state: Any = first) -> mr.Tensor:
            losses = []
            for start in range(0, 12, every):
                part = slice(start, start + every)
                loss, *state = segments(lambda *s, part=part: model._segment(tokens[part], targets[part], *s), *state)
                losses.append(loss)
            return mr.stack(losses).sum()

        both.append([*results(run, list(model.parameters())), mr.random.draw_seed()])
    for stored, again in zip(*both, strict=True):
        np.testing.assert_array_equal(stored, again)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("every", [1, 3, 7, 11, 50])
def test_char_lm_loss_equals_the_whole_sequence_at_once(cell: str, every: int) -> None:
    tokens, targets = np.random.default_rng(2).integers(7, size=(2, 11, 4))
    mr.manual_seed(5)
    model = mr.models.CharLM(7, 9, 2, cell, dtype="float64")
    with mr.no_grad():
        state = model(tokens[:3])[1]
    finals = []

    def run(every: int | None) -> mr.Tensor:
        loss, after = model.loss(tokens, targets, state, every)
        finals.append([part.numpy() for part in unpack_state(after)])
        return loss

    parameters = list(model.parameters())
    whole, segments = (results(lambda n=n: run(n), parameters) for n in (None, every))
    for a, b in zip([*whole, *finals[0]], [*segments, *finals[1]], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.needs_jit
def test_memory_is_that_of_a_segment() -> None:
    def peak(every: int | None) -> int:
        tokens = np.zeros((600, 8), np.int64)
        model = mr.models.CharLM(5, 32, 1)
        memory.release()
        tracemalloc.start()
        model.loss(tokens, tokens, recompute_every=every)[0].backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(20) < peak(None) / 4


def test_under_no_grad_and_without_a_leaf() -> None:
    x = mr.tensor([1.0, 2.0], requires_grad=True)
    with mr.no_grad():
        assert not mr.recompute(lambda x: x * 2, x).requires_grad
    plain = mr.recompute(lambda x: x * 2, mr.tensor([1.0, 2.0]))
    plain.sum().backward()  # nothing gets a gradient, and nothing breaks
    np.testing.assert_array_equal(plain.numpy(), [2, 4])


def test_second_backward_is_refused() -> None:
    y = mr.recompute(lambda x: x * 2, mr.tensor([1.0, 2.0], requires_grad=True)).sum()
    y.backward()
    with pytest.raises(GradientError, match="freed by an earlier backward"):
        y.backward()


@pytest.mark.parametrize(
    ("function", "x", "message"),
    [
        (lambda x: x, 2.0, "input 0 is a float"),
        (lambda x: (x, 3), mr.tensor([1.0]), "output 1 is a int"),
        (lambda x: None, mr.tensor([1.0]), "output 0 is a NoneType"),
        (lambda x: (), mr.tensor([1.0]), "returned no tensor"),
    ],
)
def test_inputs_and_outputs_must_be_tensors(function: Any, x: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        mr.recompute(function, x)


def test_bad_recompute_every() -> None:
    model = mr.models.CharLM(5, 4, 1)
    tokens = np.zeros((3, 1), np.int64)
    for value in (0, -1, 1.5, True):
        with pytest.raises(OptionError, match="recompute_every"):
            model.loss(tokens, tokens, recompute_every=value)  # type: ignore[arg-type]
    with pytest.raises(mr.errors.ShapeError, match="one shape"):
        model.loss(tokens, tokens[:2])
