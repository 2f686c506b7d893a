"""The tape: long graphs, memory in the backward pass, modes, leaves, anomalies, and gradcheck.

What is freed is checked by weak references to the very arrays that were saved.
"""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import Tensor, tape
from minirnn.autograd.tape import record, record_many
from minirnn.errors import AnomalyError, DTypeError, GradientError
from minirnn.kernels.jit import DISABLED

LENGTHS = [10_000] if DISABLED else [10_000, 100_000]


def leaf(*values: float) -> Tensor:
    return mr.tensor(list(values), requires_grad=True, dtype="float64")


def gradient(x: Tensor) -> Any:
    assert x.grad is not None
    return x.grad.tolist()


class Watched(np.ndarray):
    """An array that can be watched by a weak reference."""


def watched_step(x: Tensor, living: list[weakref.ref[Any]], counts: list[int]) -> Tensor:
    """An operation that saves an array, and in backward counts the saved arrays that are still there."""
    saved = np.ones(x.shape).view(Watched)
    living.append(weakref.ref(saved))

    def gradients(g: Any) -> tuple[Any]:
        counts.append(sum(r() is not None for r in living))
        return (g * np.asarray(saved),)

    return record("watched", (x,), np.asarray(x.data) * 1.0, gradients)


# ------------------------------------------------------------------------------------------- long graphs


@pytest.mark.parametrize("length", LENGTHS)
def test_long_chain(length: int) -> None:
    x, y = leaf(1.0), leaf(2.0)
    z = x
    for _ in range(length):
        z = z + y
    assert z.item() == 1 + 2 * length
    z.backward()
    assert gradient(x) == [1]
    assert gradient(y) == [length]


@pytest.mark.parametrize(("kind", "length"), [*(("chain", n) for n in LENGTHS), ("ladder", 10_000), ("views", 10_000)])
def test_long_graph_is_freed_without_backward(kind: str, length: int) -> None:
    z = leaf(1.0, 2.0)
    living: list[weakref.ref[Any]] = []
    for step in range(length):
        if step == 10:
            z = watched_step(z, living, [])
        if kind == "chain":
            z = z * 1.0 + 0.0
        elif kind == "ladder":
            z = (z * z.detach() * 0.0 + z) * 1.0
        else:
            z = z.flip(0)[:2]
    assert living[0]() is not None
    del z
    assert living[0]() is None, "the graph must go without the garbage collector"


@pytest.mark.parametrize("length", [10_000] if DISABLED else [30_000])
def test_long_recurrence_with_a_diamond_at_every_step(length: int) -> None:
    """h <- (h + h) / 2 keeps its value; two paths per step must not become 2^length visits."""
    x = leaf(3.0)
    h = x
    for _ in range(length):
        h = (h + h) * 0.5
    h.backward()
    assert h.item() == 3
    assert gradient(x) == [1]


# ------------------------------------------------------------------------------------------------- memory


def test_saved_arrays_are_freed_during_backward() -> None:
    living: list[weakref.ref[Any]] = []
    counts: list[int] = []
    x = leaf(*[1.0] * 8)
    y = x
    for _ in range(20):
        y = watched_step(y, living, counts)
    loss = y.sum()
    del y
    loss.backward()  # the result is still referenced: it must not keep what backward has used
    assert counts == list(range(20, 0, -1))
    assert sum(r() is not None for r in living) == 0
    assert gradient(x) == [1] * 8


def test_intermediate_tensors_are_freed_during_backward() -> None:
    """No tensor of the chain is referenced once backward is past it, gradients included."""
    refs: list[weakref.ref[Any]] = []
    counts: list[int] = []

    def probe(t: Tensor) -> Tensor:
        def gradients(g: Any) -> tuple[Any]:
            counts.append(sum(r() is not None for r in refs))
            return (g,)

        out = record("probe", (t,), t.data, gradients)
        refs.append(weakref.ref(out))
        return out

    y = mr.tensor(np.ones((64, 64)), requires_grad=True)
    for _ in range(10):
        y = probe(y) * 1.5  # the product saves what the probe returns
    loss = y.sum()
    del y
    gc.disable()
    try:
        loss.backward()
    finally:
        gc.enable()
    assert counts == list(range(9, -1, -1))


def test_second_backward_is_refused_and_names_the_operation() -> None:
    y = leaf(1.0, 2.0).exp()
    first, second = y.sum(), (y * 2.0).sum()
    first.backward()
    with pytest.raises(GradientError, match="saved by sum have been freed by an earlier backward"):
        first.backward()
    with pytest.raises(GradientError, match="saved by exp have been freed"):
        second.backward()


# -------------------------------------------------------------------------------------------------- modes


def test_no_grad_as_a_block_as_a_decorator_nested_and_after_an_exception() -> None:
    x = leaf(2.0)

    @mr.no_grad()
    def square(t: Tensor, divisor: float = 1.0) -> Tensor:
        return t * (t.item() / divisor)

    assert square.__name__ == "square"
    for _ in range(2):
        assert not square(x).requires_grad
    assert (x * x).requires_grad
    with mr.no_grad():
        with mr.no_grad():
            assert not tape._mode.recording
        assert not tape._mode.recording, "the inner block must not turn recording on"
        y = x * x
        with tape.enable_grad():
            assert (x * x).requires_grad
    assert (y.requires_grad, y.node) == (False, None)
    with pytest.raises(ZeroDivisionError), mr.no_grad():
        1 / 0  # noqa: B018
    assert tape._mode.recording
    with pytest.raises(ZeroDivisionError):
        square(x, 0.0)
    assert tape._mode.recording


def test_modes_belong_to_their_thread() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with mr.no_grad(), mr.detect_anomaly():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    try:
        assert tape._mode.recording
        x = mr.tensor([-1.0], requires_grad=True)
        assert np.isnan(x.log().item())
        assert (x * x).requires_grad
    finally:
        leave.set()
        thread.join()


def test_threads_record_and_backpropagate_at_once() -> None:
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        x = leaf(float(number))
        y = x
        for _ in range(300):
            y = y * 1.0 + x
        y.backward()
        results[number] = gradient(x)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {n: [301] for n in range(4)}


# ------------------------------------------------------------------------------------------ leaves, graphs


def test_detach_shares_values_and_stops_gradients() -> None:
    x = leaf(3.0)
    y = x * x
    (y.detach() * x).backward()
    assert gradient(x) == [9]
    assert y.detach().data is y.data
    assert not y.detach().requires_grad


def test_leaves_accumulate_in_place_over_two_backwards() -> None:
    x = leaf(3.0)
    (x * x).backward()
    grad = x.grad
    (x * 2.0).backward()
    assert gradient(x) == [8]
    assert grad is x.grad, "an optimiser holds it"


def test_gradient_of_a_leaf_is_its_own_array() -> None:
    upstream = np.ones(2)
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x + y).backward(upstream)
    assert x.grad is not None
    x.grad.data += 5
    assert gradient(y) == [1, 1]
    assert upstream.tolist() == [1, 1]
    z = leaf(1.0)
    z.backward([7.0])
    assert gradient(z) == [7]


def test_grad_slot_receives_the_gradient() -> None:
    buffer = np.full(4, 9.0)
    x = leaf(1.0, 2.0)
    x.grad_slot = buffer[1:3]
    for expected in ([9, 3, 3, 9], [9, 6, 6, 9]):
        (x * 3.0).sum().backward()
        assert buffer.tolist() == expected


def test_backward_of_several_elements_needs_a_gradient() -> None:
    x = leaf(1.0, 2.0)
    with pytest.raises(GradientError, match=r"a tensor of shape \[2\] has no gradient of its own"):
        (x * x).backward()
    with pytest.raises(GradientError, match=r"the tensor has shape \[2\], its gradient \[3\]"):
        (x * x).backward([1.0, 1.0, 1.0])
    (x * x).backward(mr.tensor([1.0, 10.0]))
    assert gradient(x) == [2, 40]
    with pytest.raises(GradientError, match="requires_grad=True"):
        mr.tensor([1.0]).backward()
    with pytest.raises(GradientError, match="only of leaves"):
        (x * x).requires_grad_()


def test_diamond_adds_both_paths() -> None:
    x = leaf(2.0)
    a, b = x * 3.0, x * x
    (a * b + a).backward()  # 3 x^3 + 3 x
    assert gradient(x) == [9 * 4 + 3]


def test_only_what_needs_a_gradient_is_recorded() -> None:
    x, c = leaf(2.0), mr.tensor([3.0], dtype="float64")
    assert (c * c).node is None
    (x * c).backward()
    assert c.grad is None


def test_gradients_of_views_reach_the_whole() -> None:
    x = mr.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    (x[0] * x[:, 1].sum() + x.T[2, 1]).sum().backward()
    # x0 . (x01 + x11) + 3 x12: d/dx0j = 5, with 3 more (the sum of row 0) at both of column 1, and 3 at [1, 2]
    assert gradient(x) == [[5, 5 + 3, 5], [0, 3, 3]]


def test_unused_outputs_of_split_have_gradients_of_zero() -> None:
    x = leaf(*np.arange(10.0))
    pieces = x.split([2, 3, 5])
    (pieces[1] * 2.0).sum().backward()
    assert gradient(x) == [0, 0, 2, 2, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(("kind", "used"), [(k, u) for k in ("RNN", "GRU", "LSTM") for u in "hy"] + [("LSTM", "c")])
def test_unused_outputs_of_a_recurrent_layer(kind: str, used: str) -> None:
    rnn = getattr(mr.nn, kind)(2, 3, dtype="float64")
    x = mr.tensor(np.linspace(-1, 1, 4 * 2 * 2).reshape(4, 2, 2), requires_grad=True, dtype="float64")

    def last(x: Tensor) -> Tensor:
        y, state = rnn(x, lengths=[4, 2])
        h, c = state if kind == "LSTM" else (state, None)
        return {"h": h, "c": c, "y": y}[used]

    assert mr.gradcheck(last, x)


def test_operations_with_several_outputs_get_none_for_unused_ones() -> None:
    x = leaf(2.0)
    seen: list[Any] = []

    def gradients(*gs: Any) -> tuple[Any]:
        seen.extend(gs)
        return (gs[1] * 5.0,)

    _, second, _ = record_many("three", (x,), (x.data, x.data * 5.0, x.data), gradients)
    second.backward()
    assert [g is None for g in seen] == [True, False, True]
    assert gradient(x) == [5]


def test_same_seed_gives_the_same_gradients_to_the_last_bit() -> None:
    def once() -> Any:
        mr.manual_seed(3)
        x = mr.randn(5, 4, requires_grad=True)
        (x.tanh() @ mr.randn(4, 3)).dropout(0.5).sum().backward()
        return gradient(x)

    assert once() == once()


# ----------------------------------------------------------------------------------------------- anomalies


def test_detect_anomaly_names_the_operation_forward() -> None:
    x = mr.tensor([-1.0, 2.0], requires_grad=True)
    with mr.detect_anomaly():
        with pytest.raises(AnomalyError, match=r"log made a NaN from inputs without one: \[2\]"):
            x.log()
        with pytest.raises(AnomalyError, match="divide made a NaN"):
            mr.zeros(2) / mr.zeros(2)
        nan = mr.tensor([float("nan")])
        assert np.isnan((nan * 2.0).item()), "a NaN of the input is not this operation's doing"
    assert np.isnan(x.log().numpy()[0])


def test_detect_anomaly_names_the_operation_and_call_site_backward() -> None:
    with mr.detect_anomaly():
        x = leaf(0.0)
        y = (x.sqrt() * 0.0).sum()  # the line to be named
        with pytest.raises(AnomalyError) as caught:
            y.backward()
    message = str(caught.value)
    assert "the gradient of sqrt made a NaN" in message
    assert __file__ in message
    assert "(x.sqrt() * 0.0).sum()  # the line to be named" in message


def test_infinite_gradients_do_not_warn() -> None:
    x = leaf(0.0, 1.0)
    (x**0.5 * 0.0).sum().backward()
    assert np.isnan(gradient(x)[0])
    y = mr.tensor([100.0], requires_grad=True)
    y.exp().backward([0.0])
    assert np.isnan(gradient(y)[0])


# ----------------------------------------------------------------------------------------------- gradcheck


def times(factor: float | None) -> Any:
    """2 x with a gradient of ``factor``; of None, no gradient."""
    return lambda x: record("twice", (x,), x.data * 2, lambda g: (None if factor is None else g * factor,))


def wrong_square(x: Tensor) -> Tensor:
    return record("wrong", (x,), x.data * x.data, lambda g: (g * x.data * 2.001,))


def test_gradcheck_tolerance() -> None:
    assert mr.gradcheck(wrong_square, leaf(1.0), rtol=1e-2)
    with pytest.raises(GradientError, match=r"d output 0\[1\] / d input 0\[1\] is 4\.002.* by backward and [43]\."):
        mr.gradcheck(wrong_square, leaf(0.0, 2.0), rtol=1e-4)
    with pytest.raises(GradientError, match="d output 1"):
        mr.gradcheck(lambda x: (x * 2.0, wrong_square(x)), leaf(100.0), rtol=1e-4)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (times(None), r"is 0\.0 by backward and (2\.0|1\.9)"),
        (times(np.nan), "nan by backward"),
        (lambda x: x.detach() * 2.0 + x * 0.0, r"is 0\.0 by backward"),
        (lambda x: x.detach() * 2.0, r"is 0\.0 by backward and (2\.0|1\.9)"),
    ],
)
def test_gradcheck_finds_missing_and_invalid_gradients(function: Any, message: str) -> None:
    with pytest.raises(GradientError, match=message):
        mr.gradcheck(function, leaf(1.0))


def test_gradcheck_refuses_what_it_cannot_check() -> None:
    with pytest.raises(DTypeError, match="input 0 is float32; differences need float64"):
        mr.gradcheck(mr.tanh, mr.tensor([1.0], requires_grad=True))
    with pytest.raises(GradientError, match="no input has requires_grad"):
        mr.gradcheck(mr.tanh, mr.tensor([1.0]))
    with pytest.raises(GradientError, match=r"input 1 was computed by multiply.*input\.detach\(\)\.requires_grad_\(\)"):
        mr.gradcheck(mr.maximum, [leaf(1.0), leaf(1.0) * 2.0])


def test_gradcheck_leaves_inputs_as_they_were() -> None:
    x = leaf(1.0, -2.0)
    assert mr.gradcheck(lambda t: (t * t, mr.tensor([1.0])), x), "a constant output has no gradient"
    assert x.tolist() == [1, -2]
    assert x.grad is None
