"""The engine: long graphs, memory on the way back, modes, leaves, anomalies, and how tensors behave in Python.

Numbers are checked everywhere; what is freed is checked by weak references to the very arrays that were saved.
"""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import Tensor, ops, tape
from minirnn.autograd.tape import record, record_many
from minirnn.errors import (
    AnomalyError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexRangeError,
    MinirnnError,
    OptionError,
    ShapeError,
)
from minirnn.kernels.jit import DISABLED

LENGTHS = [10_000] if DISABLED else [10_000, 100_000]


def leaf(*values: float, dtype: str = "float64") -> Tensor:
    return mr.tensor(list(values), requires_grad=True, dtype=dtype)


def gradient(x: Tensor) -> Any:
    assert x.grad is not None
    return x.grad.tolist()


class Watched(np.ndarray):
    """An array that can be watched by a weak reference."""


def watched_step(x: Tensor, living: list[weakref.ref[Any]], peak: list[int]) -> Tensor:
    saved = np.ones(x.shape).view(Watched)
    living.append(weakref.ref(saved))

    def gradients(g: Any) -> tuple[Any]:
        peak.append(sum(r() is not None for r in living))
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
def test_long_graph_is_dropped_without_backward(kind: str, length: int) -> None:
    x = leaf(1.0, 2.0)
    z = x
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
    """h <- (h + h) / 2 keeps its value; two paths a step must not become 2^length walks."""
    x = leaf(3.0)
    h = x
    for _ in range(length):
        h = (h + h) * 0.5
    h.backward()
    assert h.item() == 3
    assert gradient(x) == [1]


# ------------------------------------------------------------------------------------------------- memory


def test_saved_arrays_go_while_backward_walks() -> None:
    living: list[weakref.ref[Any]] = []
    alive: list[int] = []
    x = mr.tensor(np.ones(8), requires_grad=True, dtype="float64")
    y = x
    for _ in range(20):
        y = watched_step(y, living, alive)
    loss = y.sum()
    del y
    loss.backward()  # the result is still held: it must not hold what backward has used
    assert alive == list(range(20, 0, -1))
    assert sum(r() is not None for r in living) == 0
    assert gradient(x) == [1] * 8


def test_intermediate_values_go_while_backward_walks() -> None:
    """No tensor of the chain is held by the walk once it is past it, gradients in flight included."""
    refs: list[weakref.ref[Any]] = []
    counts: list[int] = []
    x = mr.tensor(np.ones((64, 64)), requires_grad=True)

    def probe(t: Tensor) -> Tensor:
        def gradients(g: Any) -> tuple[Any]:
            counts.append(sum(r() is not None for r in refs))
            return (g,)

        out = record("probe", (t,), t.data, gradients)
        refs.append(weakref.ref(out))
        return out

    y = x
    for _ in range(10):
        y = probe(y) * 1.5  # the product saves what the probe made
    refs_before = len(refs)
    loss = y.sum()
    del y
    gc.disable()
    try:
        loss.backward()
    finally:
        gc.enable()
    assert refs_before == 10
    assert counts == list(range(9, -1, -1))


def test_second_backward_is_refused_and_says_where() -> None:
    x = leaf(1.0, 2.0)
    y = x.exp()
    first, second = y.sum(), (y * 2.0).sum()
    first.backward()
    with pytest.raises(GradientError, match="backward met sum, whose saved values are gone"):
        first.backward()
    with pytest.raises(GradientError, match="backward met exp"):
        second.backward()


# -------------------------------------------------------------------------------------------------- modes


def test_no_grad_block_decorator_nested_and_after_an_exception() -> None:
    x = leaf(2.0)

    @mr.no_grad()
    def square(t: Tensor) -> Tensor:
        """Doc."""
        return t * t

    assert square.__name__ == "square"
    for _ in range(2):
        assert not square(x).requires_grad
    assert (x * x).requires_grad
    with mr.no_grad():
        with mr.no_grad():
            assert not tape._mode.recording
        assert not tape._mode.recording, "the inner block must not switch recording on"
        y = x * x
    assert (y.requires_grad, y.node) == (False, None)
    with pytest.raises(ZeroDivisionError), mr.no_grad():
        1 / 0  # noqa: B018
    assert tape._mode.recording

    @mr.no_grad()
    def fails() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        fails()
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


def test_two_threads_record_and_walk_at_once() -> None:
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


def test_leaves_accumulate_over_two_backwards() -> None:
    x = leaf(3.0)
    (x * x).backward()
    held = x.grad
    (x * 2.0).backward()
    assert gradient(x) == [8]
    assert held is x.grad, "accumulated in place: an optimiser holds it"


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
    (x * 3.0).sum().backward()
    assert buffer.tolist() == [9, 3, 3, 9]
    (x * 3.0).sum().backward()
    assert buffer.tolist() == [9, 6, 6, 9]


def test_backward_of_more_than_one_number_wants_a_gradient() -> None:
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


def test_only_what_is_needed_is_recorded() -> None:
    x, c = leaf(2.0), mr.tensor([3.0], dtype="float64")
    assert (c * c).node is None
    (x * c).backward()
    assert c.grad is None


def test_unused_outputs_of_split() -> None:
    x = mr.tensor(np.arange(10.0), requires_grad=True)
    pieces = x.split([2, 3, 5])
    (pieces[1] * 2.0).sum().backward()
    assert gradient(x) == [0, 0, 2, 2, 2, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("used", ["h", "c", "y"])
def test_unused_outputs_of_a_recurrent_layer(kind: str, used: str) -> None:
    if used == "c" and kind != "LSTM":
        pytest.skip("only the LSTM has a c")
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


# ------------------------------------------------------------------------------- anomalies and gradcheck


def test_detect_anomaly_names_the_operation_forward() -> None:
    x = mr.tensor([-1.0, 2.0], requires_grad=True)
    with mr.detect_anomaly():
        with pytest.raises(AnomalyError, match=r"log made a NaN from inputs without one: \[2\]"):
            x.log()
        with pytest.raises(AnomalyError, match="divide made a NaN"):
            mr.zeros(2) / mr.zeros(2)
        nan = mr.tensor([float("nan")])
        assert np.isnan((nan * 2.0).item()), "what came in as NaN is not this operation's doing"
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


def wrong_square(x: Tensor) -> Tensor:
    return record("wrong", (x,), x.data * x.data, lambda g: (g * x.data * 2.001,))


def test_gradcheck_catches_wrong_gradients() -> None:
    assert mr.gradcheck(wrong_square, leaf(1.0), rtol=1e-2)
    with pytest.raises(GradientError, match=r"d output 0\[1\] / d input 0\[1\] is 4\.002.* by backward and [43]\."):
        mr.gradcheck(wrong_square, leaf(0.0, 2.0), rtol=1e-4)
    with pytest.raises(GradientError, match="d output 1"):
        mr.gradcheck(lambda x: (x * 2.0, wrong_square(x)), leaf(100.0), rtol=1e-4)

    def forgotten(x: Tensor) -> Tensor:
        return record("forgotten", (x,), x.data * 2, lambda g: (None,))

    with pytest.raises(GradientError, match=r"is 0\.0 by backward"):
        mr.gradcheck(forgotten, leaf(1.0))
    with pytest.raises(GradientError, match=r"is 0\.0 by backward"):
        mr.gradcheck(lambda x: x.detach() * 2.0 + x * 0.0, leaf(1.0))

    def nan(x: Tensor) -> Tensor:
        return record("nan", (x,), x.data * 2, lambda g: (g * np.nan,))

    with pytest.raises(GradientError, match="nan by backward"):
        mr.gradcheck(nan, leaf(1.0))


def test_gradcheck_of_a_result_cut_off_from_its_input() -> None:
    with pytest.raises(GradientError, match=r"is 0\.0 by backward and 2\.0|is 0\.0 by backward and 1\.9"):
        mr.gradcheck(lambda x: x.detach() * 2.0, leaf(1.0))
    assert mr.gradcheck(lambda x: (x * 2.0, mr.tensor([1.0])), leaf(1.0)), "a constant output has no gradient"


def test_gradcheck_refuses_what_it_cannot_check() -> None:
    with pytest.raises(DTypeError, match="input 0 is float32; differences need float64"):
        mr.gradcheck(mr.tanh, mr.tensor([1.0], requires_grad=True))
    with pytest.raises(GradientError, match="no input has requires_grad"):
        mr.gradcheck(mr.tanh, mr.tensor([1.0]))


def test_gradcheck_leaves_inputs_as_they_were() -> None:
    x = leaf(1.0, -2.0)
    assert mr.gradcheck(lambda t: t * t, x)
    assert x.tolist() == [1, -2]
    assert x.grad is None


# ---------------------------------------------------------------------------------- tensors as Python objects


def test_element_types_of_new_tensors() -> None:
    assert mr.tensor([1.0]).dtype == np.float32
    assert mr.tensor(np.zeros(2)).dtype == np.float32
    assert mr.tensor(np.zeros(2), dtype="float64").dtype == np.float64
    assert mr.tensor([1.0], dtype=np.float64).dtype == np.float64
    assert mr.tensor([1, 2]).dtype == np.int64
    assert mr.tensor(np.zeros(2, np.int8)).dtype == np.int64
    assert mr.tensor([1], dtype="int32").dtype == np.int32
    assert mr.tensor([True]).dtype == np.bool_
    assert mr.tensor([[1, 2.5]]).tolist() == [[1, 2.5]]
    assert mr.tensor(mr.tensor([1.5])).tolist() == [1.5]
    for bad in ("float16", "complex64", "nonsense", object):
        with pytest.raises(DTypeError):
            mr.tensor([1.0], dtype=bad)
    for data in ("text", ["a"], [1j], [None]):
        with pytest.raises(DTypeError, match="expected numbers"):
            mr.tensor(data)
    with pytest.raises(DTypeError, match="only floating-point tensors have gradients, got int64"):
        mr.tensor([1], requires_grad=True)
    with pytest.raises(DTypeError, match="only floating-point"):
        mr.tensor([1]).requires_grad_()


def test_integers_that_do_not_fit_are_refused() -> None:
    """NumPy takes them modulo 2^bits: 2^64 - 1 would be -1."""
    assert mr.tensor(np.array([7], np.uint64)).tolist() == [7]
    assert mr.tensor(np.array([2**64 - 1], np.uint64), dtype="uint64").tolist() == [2**64 - 1]
    for data in (np.array([1, 2**64 - 1], np.uint64), [2**63]):
        with pytest.raises(OptionError, match="out of range for int64"):
            mr.tensor(data)
    with pytest.raises(OptionError, match="300 is out of range for int8"):
        mr.tensor([1, 300], dtype="int8")


def test_shapes_as_numbers_or_as_one_tuple() -> None:
    for make in (mr.zeros, mr.ones, mr.randn):
        assert make((2, 3)).shape == make([2, 3]).shape == make(2, 3).shape == (2, 3)
        assert make().shape == make(()).shape == ()


def test_no_tensor_equals_none() -> None:
    x = mr.tensor([1.0, 2.0])
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert x not in [None]


def test_deep_copies_of_leaves() -> None:
    x = leaf(1.0, 2.0)
    mr.optim.SGD([x], lr=1.0)
    (x * x).sum().backward()
    one, other = copy.deepcopy([x, x])
    assert one is other
    assert (one.tolist(), one.dtype, one.requires_grad, one.grad, one.grad_slot) == ([1, 2], x.dtype, True, None, None)
    assert not np.shares_memory(one.data, x.data)
    with pytest.raises(GradientError, match="deepcopy: only of leaves"):
        copy.deepcopy(x * 2.0)


def test_new_tensors_own_their_values() -> None:
    source = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    x = mr.tensor(source)
    source[:] = 0
    assert x.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert x.data.flags.c_contiguous


def test_numpy_sees_tensors_and_gradients(dtype: np.dtype) -> None:
    x = mr.tensor([1.0, 2.0], requires_grad=True, dtype=dtype)
    (x * x).sum().backward()
    np.testing.assert_array_equal(np.asarray(x), np.array([1, 2], dtype))
    np.testing.assert_array_equal(np.asarray(x.grad), np.array([2, 4], dtype))
    assert np.asarray(x).dtype == dtype
    assert np.asarray(x, dtype=np.int64).tolist() == [1, 2]
    assert np.array(x) is not x.data
    assert np.shares_memory(np.asarray(x), x.data)
    assert isinstance(x.sum().numpy(), np.ndarray), "a single number too"


@pytest.mark.parametrize("operation", [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, lambda a, b: a**b,
    lambda a, b: a @ b, lambda a, b: a > b, lambda a, b: a <= b, lambda a, b: a == b, lambda a, b: a != b,
])  # fmt: skip
def test_arrays_and_numbers_on_either_side(operation: Any) -> None:
    array, other = np.array([1.0, 2.0, 4.0], np.float32), np.array([2.0, 2.0, 0.5], np.float32)
    expected = operation(array, other)
    for a, b in ((mr.tensor(array), other), (array, mr.tensor(other)), (mr.tensor(array), mr.tensor(other))):
        result = operation(a, b)
        assert isinstance(result, Tensor)
        np.testing.assert_array_equal(result.numpy(), expected)
    if expected.ndim:
        for number in (2, 2.0, np.float32(2), np.float64(2), np.int64(2)):
            np.testing.assert_array_equal(operation(mr.tensor(array), number).numpy(), operation(array, np.float32(2)))
            np.testing.assert_array_equal(operation(number, mr.tensor(array)).numpy(), operation(np.float32(2), array))


def test_python_protocols() -> None:
    x = mr.tensor([[1.5, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    assert [row.tolist() for row in x] == [[1.5, 2], [3, 4]]
    assert float(x[0, 0]) == 1.5
    assert int(x[1, 1]) == 4
    assert [10, 20, 30][mr.tensor(1)] == 20
    assert bool(mr.tensor(1.0))
    assert not mr.tensor([[0.0]])
    assert x.T.tolist() == [[1.5, 3], [2, 4]]
    assert (x.numel(), x.ndim, x.shape, x.device) == (4, 2, (2, 2), "cpu")
    assert (-x).tolist() == [[-1.5, -2], [-3, -4]]
    assert abs(-x).tolist() == x.tolist()
    assert {x: 1}[x] == 1, "hashed by identity"
    assert x.pow(2).tolist() == [[2.25, 4], [9, 16]]
    assert x.clamp(2, 3).tolist() == [[2, 2], [3, 3]]
    assert x.matmul(x).tolist() == (x @ x).tolist()
    assert x.argmax().item() == 3
    for bad, kind in ((float, ShapeError), (bool, ShapeError), (int, ShapeError)):
        with pytest.raises(kind, match=r"item: expected a tensor of one element, got shape \[2, 2\]"):
            bad(x)
    with pytest.raises(DTypeError, match="an index must be an integer"):
        [1, 2][mr.tensor(1.0)]
    with pytest.raises(ShapeError, match="len"):
        len(mr.tensor(1.0))
    with pytest.raises(ShapeError):
        list(mr.tensor(1.0))
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(x)


def test_repr_tells_type_and_origin() -> None:
    x = mr.tensor([1.0, 2.5], requires_grad=True)
    assert repr(x) == "tensor([1. , 2.5], requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 5.], made by multiply)"
    assert repr(mr.tensor([1.0], dtype="float64")) == "tensor([1.], dtype=float64)"
    assert repr(mr.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(mr.tensor([True])) == "tensor([ True])"
    assert repr(x.detach().sum()) == "tensor(3.5)"


def test_types_and_devices() -> None:
    x = leaf(1.0, 2.0)
    (x.to("float32") * 3.0).sum().backward()
    assert gradient(x) == [3, 3]
    assert x.grad is not None
    assert x.grad.dtype == np.float64
    assert x.to("cpu") is x
    assert x.to("float64") is x
    assert x.to("int64").tolist() == [1, 2]
    assert not x.to("int64").requires_grad, "integers have no gradient: as in PyTorch, converting detaches"
    assert not (x * 2.0).to("bool").requires_grad
    with pytest.raises(DTypeError):
        x.to("nowhere")
    with pytest.raises(DeviceError, match="device 'tpu' is unknown"):
        mr.tensor([1.0], device="tpu")
    with pytest.raises(DeviceError, match="elsewhere"):
        ops.add(x, Tensor(np.zeros(2), device="elsewhere"))


def test_errors_are_both_ours_and_pythons() -> None:
    for kind, builtin in (
        (ShapeError, ValueError), (DTypeError, TypeError), (IndexRangeError, IndexError), (GradientError, RuntimeError),
        (AnomalyError, ArithmeticError), (DeviceError, RuntimeError),
    ):  # fmt: skip
        assert issubclass(kind, MinirnnError)
        assert issubclass(kind, builtin)


def test_gradients_of_views_reach_the_whole() -> None:
    x = mr.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    (x[0] * x[:, 1].sum() + x.T[2, 1]).sum().backward()
    # x0 . (x01 + x11) + 3 x12: d/dx0j = 5, with 3 more (the sum of row 0) at both of column 1, and 3 at [1, 2]
    assert gradient(x) == [[5, 5 + 3, 5], [0, 3, 3]]


def test_bitwise_the_same_again() -> None:
    def once() -> np.ndarray:
        mr.manual_seed(3)
        x = mr.randn(5, 4, requires_grad=True)
        (x.tanh() @ mr.randn(4, 3)).dropout(0.5).sum().backward()
        assert x.grad is not None
        return x.grad.numpy().copy()

    np.testing.assert_array_equal(once(), once())
