"""Tensors as Python objects: construction, conversion, operators, protocols, copies and devices."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import Tensor, ops
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


def leaf(*values: float) -> Tensor:
    return mr.tensor(list(values), requires_grad=True, dtype="float64")


@pytest.mark.parametrize(
    ("data", "dtype", "expected"),
    [
        ([1.0], None, np.float32),
        (np.zeros(2), None, np.float32),
        (np.zeros(2), "float64", np.float64),
        ([1.0], np.float64, np.float64),
        ([1, 2], None, np.int64),
        (np.zeros(2, np.int8), None, np.int64),
        ([1], "int32", np.int32),
        ([True], None, np.bool_),
    ],
)
def test_element_types_of_new_tensors(data: Any, dtype: Any, expected: Any) -> None:
    assert mr.tensor(data, dtype=dtype).dtype == expected


def test_data_of_new_tensors() -> None:
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


def test_integers_out_of_range_are_refused() -> None:
    """NumPy takes them modulo 2^bits: 2^64 - 1 would be -1."""
    assert mr.tensor(np.array([7], np.uint64)).tolist() == [7]
    assert mr.tensor(np.array([2**64 - 1], np.uint64), dtype="uint64").tolist() == [2**64 - 1]
    for data in (np.array([1, 2**64 - 1], np.uint64), [2**63]):
        with pytest.raises(OptionError, match="out of range for int64"):
            mr.tensor(data)
    with pytest.raises(OptionError, match="300 is out of range for int8"):
        mr.tensor([1, 300], dtype="int8")


@pytest.mark.parametrize("make", [mr.zeros, mr.ones, mr.randn])
def test_shapes_as_numbers_or_as_one_tuple(make: Any) -> None:
    assert make((2, 3)).shape == make([2, 3]).shape == make(2, 3).shape == (2, 3)
    assert make().shape == make(()).shape == ()


def test_new_tensors_own_their_values() -> None:
    source = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    x = mr.tensor(source)
    source[:] = 0
    assert x.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert x.data.flags.c_contiguous  # type: ignore[attr-defined]


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
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(x)


def test_numpy_reads_tensors_and_gradients(dtype: np.dtype) -> None:
    x = mr.tensor([1.0, 2.0], requires_grad=True, dtype=dtype)
    (x * x).sum().backward()
    np.testing.assert_array_equal(np.asarray(x), np.array([1, 2], dtype))
    np.testing.assert_array_equal(np.asarray(x.grad), np.array([2, 4], dtype))
    assert np.asarray(x).dtype == dtype
    assert np.asarray(x, dtype=np.int64).tolist() == [1, 2]
    assert np.array(x) is not x.data
    assert np.shares_memory(np.asarray(x), x.data)
    assert isinstance(x.sum().numpy(), np.ndarray), "a single number too"


OPERATORS = ("add", "sub", "mul", "truediv", "pow", "matmul", "gt", "le", "eq", "ne")


@pytest.mark.parametrize("operation", [getattr(operator, name) for name in OPERATORS])
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
    for bad in (float, bool, int):
        with pytest.raises(ShapeError, match=r"item: expected a tensor of one element, got shape \[2, 2\]"):
            bad(x)
    with pytest.raises(DTypeError, match="an index must be an integer"):
        [1, 2][mr.tensor(1.0)]
    with pytest.raises(ShapeError, match="len"):
        len(mr.tensor(1.0))
    with pytest.raises(ShapeError):
        list(mr.tensor(1.0))


def test_operations_are_methods_with_docstrings() -> None:
    x = mr.tensor([[1.5, 2.0], [3.0, 4.0]])
    assert x.pow(2).tolist() == [[2.25, 4], [9, 16]]
    assert x.clamp(2, 3).tolist() == [[2, 2], [3, 3]]
    assert x.matmul(x).tolist() == (x @ x).tolist()
    assert x.argmax().item() == 3
    for name in ops.__all__:
        assert getattr(ops, name).__doc__, name
    for name in ("tanh", "sum", "reshape", "clip", "gather", "dropout"):
        assert getattr(Tensor, name) is getattr(ops, name)


def test_repr_shows_type_and_origin() -> None:
    x = mr.tensor([1.0, 2.5], requires_grad=True)
    assert repr(x) == "tensor([1. , 2.5], requires_grad=True)"
    assert repr(x * 2) == "tensor([2., 5.], made by multiply)"
    assert repr(mr.tensor([1.0], dtype="float64")) == "tensor([1.], dtype=float64)"
    assert repr(mr.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(mr.tensor([True])) == "tensor([ True])"
    assert repr(x.detach().sum()) == "tensor(3.5)"


def test_conversion_to_types_and_devices() -> None:
    x = leaf(1.0, 2.0)
    (x.to("float32") * 3.0).sum().backward()
    assert np.asarray(x.grad).tolist() == [3, 3]
    assert np.asarray(x.grad).dtype == np.float64
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


def test_errors_also_derive_from_built_in_exceptions() -> None:
    builtin = {ShapeError: ValueError, DTypeError: TypeError, IndexRangeError: IndexError, GradientError: RuntimeError}
    for error, base in (builtin | {AnomalyError: ArithmeticError, DeviceError: RuntimeError}).items():
        assert issubclass(error, MinirnnError)
        assert issubclass(error, base)
