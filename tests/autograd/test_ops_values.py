"""Every operation's values, element types and gradients against PyTorch.

Hypothesis draws shapes with extents of 0 and 1, broadcasting operands, and inputs that are transposed, strided or
reversed; corner cases (ties, bounds of clip, powers of 0, infinities, NaN) are listed one by one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minirnn as mr
from minirnn import kernels
from minirnn.autograd import Tensor, ops
from minirnn.errors import DTypeError, IndexRangeError, OptionError, ShapeError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
PAIRS = hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4, max_dims=4)
NUMBERS = st.integers(0, 2**31)
UNARY = ("negative", "exp", "tanh", "sigmoid", "softplus", "relu", "abs", "erf", "log", "sqrt", "log1p", "clone")
POSITIVE = ("log", "sqrt", "log1p", "divide", "power")
Check = Callable[..., None]


def in_layout(values: np.ndarray, layout: int) -> np.ndarray:
    """The same values in one of four memory layouts."""
    if layout == 1:
        return np.asfortranarray(values)
    if layout == 2 and values.ndim:
        return np.repeat(values, 2, axis=-1)[..., ::2]
    if layout == 3 and values.ndim:
        return np.flip(np.flip(values).copy())
    return values


def drawn(shape: tuple[int, ...], dtype: np.dtype, seed: int, positive: bool = False) -> np.ndarray:
    """Numbers on a coarse grid, so that ties and exact zeros occur."""
    rng = np.random.default_rng(seed)
    return in_layout((rng.integers(1 if positive else -8, 9, shape) / 4).astype(dtype), seed % 4)


def leaf(array: np.ndarray, device: str = "cpu") -> Tensor:
    """A leaf in the array's memory layout; contiguous on a GPU."""
    return Tensor(kernels.on(device).asarray(array), requires_grad=True, device=device)


class TorchOps:
    """PyTorch under the names of :mod:`minirnn.autograd.ops`."""

    def __init__(self, torch: Any) -> None:
        self.torch, self.power, self.softplus = torch, torch.pow, torch.nn.functional.softplus
        self.linear = torch.nn.functional.linear

    def __getattr__(self, name: str) -> Any:
        return getattr(self.torch, name)

    def where(self, condition: np.ndarray, x: Any, y: Any) -> Any:
        return self.torch.where(self.torch.tensor(condition), x, y)

    def minimum(self, x: Any, y: Any) -> Any:  # torch.minimum divides the gradient of equal elements among both
        return self.torch.where(y < x, y, x)

    def maximum(self, x: Any, y: Any) -> Any:
        return self.torch.where(x < y, y, x)


def compare(torch: Any, device: str, function: Any, arrays: list[np.ndarray], tolerance: float = 2e-6) -> None:
    """``function(ops, *tensors)``: its values, element type, and gradients from a random gradient of the result."""
    xs = [leaf(a, device) for a in arrays]
    ts = [torch.tensor(a.copy(), requires_grad=True) for a in arrays]
    y, t = function(ops, *xs), function(TorchOps(torch), *ts)
    assert y.shape == tuple(t.shape)
    assert str(y.dtype) == str(t.dtype).removeprefix("torch.")
    np.testing.assert_allclose(y.numpy(), t.detach().numpy(), rtol=tolerance, atol=tolerance)
    upstream = np.random.default_rng(7).standard_normal(y.shape).astype(y.dtype)
    y.backward(upstream)
    t.backward(torch.tensor(upstream))
    for x, expected in zip(xs, ts, strict=True):
        assert x.grad is not None
        assert x.grad.dtype == x.dtype
        np.testing.assert_allclose(x.grad.numpy(), expected.grad.numpy(), rtol=10 * tolerance, atol=10 * tolerance)


@pytest.fixture
def check(torch: Any, device: str) -> Check:
    return functools.partial(compare, torch, device)


# ---------------------------------------------------------------------------------------- drawn shapes and values


@pytest.mark.parametrize("name", UNARY)
@given(shape=SHAPES, seed=NUMBERS)
def test_functions_of_one_tensor(check: Check, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int) -> None:
    check(lambda m, x: getattr(m, name)(x), [drawn(shape, dtype, seed, name in POSITIVE)])


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "power", "where", "minimum", "maximum"])
@given(shapes=PAIRS, seed=NUMBERS)
def test_functions_of_two_tensors(check: Check, name: str, dtype: np.dtype, shapes: Any, seed: int) -> None:
    arrays = [drawn(shape, dtype, seed + n, name in POSITIVE) for n, shape in enumerate(shapes.input_shapes)]
    mask = np.random.default_rng(seed).random(shapes.result_shape) < 0.5
    first = [mask] if name == "where" else []
    check(lambda m, x, y: getattr(m, name)(*first, x, y), arrays)


@st.composite
def matmul_shapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    m, k, n = (draw(st.integers(0, 5)) for _ in range(3))
    a = draw(st.sampled_from([(k,), (m, k), (2, m, k), (1, m, k), (3, 1, m, k), (0, m, k)]))
    b = draw(st.sampled_from([(k,), (k, n), (2, k, n), (1, k, n), (2, k, n)]))
    if len(a) > 2 and len(b) > 2 and 0 in (a[0], b[0]) and 2 in (a[0], b[0]):
        b = (1, *b[1:])
    return a, b


@given(shapes=matmul_shapes(), seed=NUMBERS)
def test_matmul(check: Check, dtype: np.dtype, shapes: Any, seed: int) -> None:
    check(lambda m, x, y: m.matmul(x, y), [drawn(s, dtype, seed + n) for n, s in enumerate(shapes)])


@pytest.mark.parametrize("right", [0, 1, 2])  # plain, transposed, strided
@pytest.mark.parametrize("left", [0, 1, 2])
@pytest.mark.parametrize(("m", "k", "n"), [(67, 33, 41), (1, 300, 129), (200, 1, 200)])
def test_matmul_of_larger_matrices(torch: Any, dtype: np.dtype, left: int, right: int, m: int, k: int, n: int) -> None:
    rng, tolerance = np.random.default_rng(3), 1e-4 if dtype == np.float32 else 1e-12
    a = in_layout(rng.standard_normal((m, k)).astype(dtype), left)
    b = in_layout(rng.standard_normal((k, n)).astype(dtype), right)
    for first in (a, np.stack([a, a[::-1]])):
        compare(torch, "cpu", lambda m, x, y: m.matmul(x, y), [first, b], tolerance)


@given(st.tuples(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), *[st.integers(0, 5)] * 2), NUMBERS)
def test_linear(check: Check, dtype: np.dtype, sizes: Any, seed: int) -> None:
    lead, inputs, outputs = sizes
    shapes = [(*lead, inputs), (outputs, inputs), (outputs,)][: 2 + seed % 2]
    arrays = [np.ascontiguousarray(drawn(s, dtype, seed + n)) for n, s in enumerate(shapes)]
    arrays[0] = in_layout(arrays[0], seed // 2 % 4)
    check(lambda m, *tensors: m.linear(*tensors), arrays)


@pytest.mark.parametrize("name", ["sum", "mean"])
@given(shape=SHAPES, seed=NUMBERS, keepdim=st.booleans(), data=st.data())
def test_sums(
    check: Check, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, keepdim: bool, data: Any
) -> None:
    some = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True) if shape else st.none()
    dims = data.draw(st.none() | some)
    options = [] if dims is None else [[d if seed % 2 else d - len(shape) for d in dims], keepdim]
    check(lambda m, x: getattr(m, name)(x, *options), [drawn(shape, dtype, seed)])


@pytest.mark.parametrize("name", ["max", "min"])
@given(shape=SHAPES, seed=NUMBERS, keepdim=st.booleans(), data=st.data())
def test_extremes_and_ties(
    check: Check, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, keepdim: bool, data: Any
) -> None:
    function, array = getattr(ops, name), drawn(shape, dtype, seed)
    if array.size:
        check(lambda m, x: getattr(m, name)(x), [array])
    else:
        with pytest.raises(ShapeError, match=name):
            function(array)
    if not shape:
        return
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    if shape[dim] == 0:
        with pytest.raises(ShapeError, match=name):
            function(array, dim)
        return
    check(lambda m, x: getattr(m, name)(x, dim, keepdim).values, [array])
    values, index = function(array, dim, keepdim)
    selected = np.take_along_axis(array, index.numpy().reshape(np.sum(array, dim, keepdims=True).shape), dim)
    np.testing.assert_array_equal(selected.reshape(index.shape), values.numpy())
    if name == "max":
        np.testing.assert_array_equal(ops.argmax(array, dim, keepdim).numpy(), np.argmax(array, dim, keepdims=keepdim))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5), seed=NUMBERS, data=st.data())
def test_softmax(check: Check, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(lambda m, x: getattr(m, name)(x, dim), [drawn(shape, dtype, seed) * 10])


@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5), seed=NUMBERS, data=st.data())
def test_shapes(torch: Any, check: Check, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any) -> None:
    array = drawn(shape, dtype, seed)
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    order = data.draw(st.permutations(range(len(shape))))
    functions: list[Any] = [
        lambda m, x: x.permute(*order),
        lambda m, x: x.transpose(0, dim),
        lambda m, x: x.unsqueeze(dim),
        lambda m, x: x.squeeze(dim),
        lambda m, x: x.squeeze(),
        lambda m, x: x.flip(dim),
        lambda m, x: x.reshape(array.size),
        lambda m, x: m.cat([x, x], dim),
        lambda m, x: m.stack([x, x], dim),
    ]
    for function in functions:
        check(function, [array])
    size = data.draw(st.integers(1, 4))
    for name in ("split", "chunk"):
        pieces = getattr(Tensor(array), name)(size, dim)
        expected = getattr(torch.tensor(array.copy()), name)(size, dim)
        if array.shape[dim]:  # PyTorch gives several empty chunks of nothing, minirnn one
            assert [p.tolist() for p in pieces] == [w.tolist() for w in expected]


@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5), seed=NUMBERS, data=st.data())
def test_gather(torch: Any, check: Check, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    window = tuple(data.draw(st.integers(0, 6 if d == dim else n)) for d, n in enumerate(shape))
    index = np.random.default_rng(seed).integers(0, shape[dim], window)
    check(lambda m, x: x.gather(dim, index if m is ops else torch.tensor(index)), [drawn(shape, dtype, seed)])


@pytest.mark.parametrize("kind", ["basic", "integer arrays"])
@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5), seed=NUMBERS, data=st.data())
def test_indexing_equals_numpy(device: str, kind: str, shape: tuple[int, ...], seed: int, data: Any) -> None:
    """Gradients too, where an element is taken several times."""
    basic = hnp.basic_indices(shape, allow_newaxis=True)
    key = data.draw(basic if kind == "basic" else hnp.integer_array_indices(shape))
    array = drawn(shape, np.dtype("float64"), seed)
    x = leaf(array, device)
    y = x[key]
    np.testing.assert_array_equal(y.numpy(), array[key])
    upstream = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(upstream)
    expected = np.zeros(shape)
    np.add.at(expected, key, upstream)
    np.testing.assert_allclose(np.asarray(x.grad), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"])
@given(shapes=PAIRS, seed=NUMBERS)
def test_comparisons_equal_numpy(name: str, shapes: Any, seed: int) -> None:
    a, b = (drawn(s, np.dtype("float32"), seed + n) for n, s in enumerate(shapes.input_shapes))
    mask = ops.compare(name, leaf(a), b)
    assert mask.dtype == np.bool_
    assert not mask.requires_grad
    np.testing.assert_array_equal(mask.numpy(), getattr(np, name)(a, b))


# --------------------------------------------------------------------------------------------------- corner cases


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (None, 0.5), (-0.25, None), (1.0, -1.0)])
def test_clip_at_its_bounds(check: Check, dtype: np.dtype, bounds: tuple[float | None, float | None]) -> None:
    array = (np.arange(-8, 9) / 4).astype(dtype)  # the bounds are among them
    check(lambda m, x: m.clip(x, *bounds), [array])


@pytest.mark.parametrize("exponent", [0, 1, 2, 0.5, -1, 3.0])
def test_powers_of_zero_and_negative_numbers(check: Check, dtype: np.dtype, exponent: float) -> None:
    check(lambda m, x: x**exponent, [np.array([0.0, -2.0, 3.0], dtype)])


def test_power_gradients_at_zero(torch: Any, check: Check, dtype: np.dtype) -> None:
    base, exponent = np.array([0.0, 0.0, 2.0, 2.0], dtype), np.array([0.0, 2.0, 0.0, -1.0], dtype)
    check(lambda m, x, y: m.power(x, y), [base, exponent])
    check(lambda m, y: (0.0 if m is ops else torch.tensor(0.0, dtype=y.dtype)) ** y, [exponent[:2]])


def test_abs_relu_and_max_at_kinks(dtype: np.dtype) -> None:
    x = leaf(np.array([0.0, -0.0, 2.0, 2.0], dtype))
    (x.abs().sum() + 10 * x.relu().sum() + 100 * x.max()).backward()
    assert np.asarray(x.grad).tolist() == [0, 0, 61, 61]


@pytest.mark.parametrize("name", UNARY)
def test_infinities_and_nan(torch: Any, device: str, dtype: np.dtype, name: str) -> None:
    array = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e4, -1e4, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    expected = getattr(TorchOps(torch), name)(torch.tensor(array)).numpy()
    np.testing.assert_allclose(getattr(ops, name)(leaf(array, device)).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["minimum", "maximum"])
def test_minimum_and_maximum_of_infinities_nan_and_ties(torch: Any, device: str, dtype: np.dtype, name: str) -> None:
    a, b = np.array([np.nan, 1, np.nan, np.inf, -np.inf, 0], dtype), np.array([1, np.nan, np.nan, 3, 3, 0], dtype)
    expected = getattr(torch, name)(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_array_equal(getattr(mr, name)(leaf(a, device), leaf(b, device)).numpy(), expected)
    x, y = (leaf(np.array([2.0, -1.0], dtype), device) for _ in range(2))
    getattr(mr, name)(x, y).backward(np.array([3.0, 4.0]))
    assert np.asarray(x.grad).tolist() == [3, 4], "the gradient of equal elements goes to the first"
    assert np.asarray(y.grad).tolist() == [0, 0]


def test_gradients_of_erf_and_log1p_at_infinity(device: str, dtype: np.dtype) -> None:
    x = leaf(np.array([np.inf, np.finfo(dtype).max, 0], dtype), device)
    y = leaf(np.array([np.inf, -1, 0], dtype), device)
    x.erf().backward(np.ones(3))
    y.log1p().backward(np.ones(3))
    np.testing.assert_allclose(np.asarray(x.grad), [0, 0, 2 / math.sqrt(math.pi)], rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(y.grad), [0, np.inf, 1])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_extremes(torch: Any, dtype: np.dtype, name: str) -> None:
    for row in ([np.inf, 0, 1], [-np.inf, 0, 1], [-np.inf] * 3, [np.nan, 0, 1], [1e30, -1e30, 0], [1000, 999, 0]):
        expected = getattr(torch, name)(torch.tensor(np.array(row, dtype)), -1).numpy()
        np.testing.assert_allclose(getattr(ops, name)(np.array(row, dtype)).numpy(), expected, rtol=1e-6)


def test_masked_rows_get_no_nan_gradient(torch: Any, dtype: np.dtype) -> None:
    """A row that is masked entirely is NaN after softmax; its scores must get 0 all the same, as in PyTorch."""
    mask = np.array([[True, False, False], [True, True, True]])
    scores = drawn((2, 3), dtype, 5)
    x, t = leaf(scores), torch.tensor(scores.copy(), requires_grad=True)
    y = x.masked_fill(mask, -math.inf).softmax()
    expected = t.masked_fill(torch.tensor(mask), -math.inf).softmax(-1)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-6)
    (y * [1.0, 2.0, 3.0]).sum().backward()
    (expected * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    np.testing.assert_allclose(np.asarray(x.grad), t.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_gradient_of_max_of_nan_goes_to_the_nan() -> None:
    x = mr.tensor([1.0, math.nan, math.nan], requires_grad=True)
    y = x.max()
    assert math.isnan(y.item())
    y.backward()
    assert np.asarray(x.grad).tolist() == [0, 0.5, 0.5]


def test_dropout_keeps_the_mean_and_applies_its_mask_in_backward(dtype: np.dtype) -> None:
    x = leaf(np.ones((200, 101), dtype))
    y = ops.dropout(x, 0.3)
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.7) < 0.02
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.7, rtol=1e-4)
    y.sum().backward()
    np.testing.assert_array_equal(np.asarray(x.grad), y.numpy())
    assert not np.array_equal(kept, ops.dropout(x, 0.3).numpy() != 0), "a second draw must differ"
    mr.manual_seed(1337)
    np.testing.assert_array_equal(ops.dropout(x, 0.3).numpy(), y.numpy())
    assert ops.dropout(x, 0.0) is x
    assert ops.dropout(x, 0.9, training=False) is x
    assert not ops.dropout(x, 1.0).numpy().any()


@pytest.mark.parametrize("dims", [(), (0,), (1,), (0, 1), (1, 2), (-3, -2), (0, 0), (2,)])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 3), (1, 1, 5)])
def test_flatten(check: Check, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    check(lambda m, x: x.flatten(*dims), [np.arange(math.prod(shape), dtype=np.float32).reshape(shape)])
    assert mr.tensor(1.0).flatten().shape == (1,)


@pytest.mark.parametrize("dims", [(0,), (0, 2), (-1, 1), (0, 1, 2), ()])
def test_squeeze_of_several_dimensions(check: Check, dims: tuple[int, ...]) -> None:
    check(lambda m, x: x.squeeze(dims) * 1.0, [np.arange(3, dtype=np.float32).reshape(1, 3, 1)])


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_argmin_and_argmax(torch: Any, dim: int | None, keepdim: bool) -> None:
    array = np.random.default_rng(0).permutation(12).reshape(3, 4).astype(np.float32)
    for name in ("argmin", "argmax"):
        expected = getattr(torch.tensor(array), name)(dim, keepdim).tolist()
        assert getattr(mr.tensor(array), name)(dim, keepdim).tolist() == expected
        assert getattr(mr, name)(array, dim, keepdim).tolist() == expected


def test_where_as_a_method(torch: Any, check: Check) -> None:
    mask = np.array([True, False, True])
    arrays = [np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)]
    check(lambda m, x, y: x.where(mask if m is ops else torch.tensor(mask), y), arrays)


# -------------------------------------------------------------------------------------------------- element types


@pytest.mark.parametrize("name", ["add", "multiply", "divide", "power"])
def test_element_types_of_two_operands_follow_pytorch(torch: Any, name: str) -> None:
    """float32 unless asked, float64 kept, integers stay integers, numbers and integers never widen a float."""
    mine, theirs = getattr(ops, name), getattr(TorchOps(torch), name)
    arrays = [np.array([1, 2], kind) for kind in ("float32", "float64", "int64", "int32")]
    for a in [*arrays, *([] if name == "power" else [np.array([True, False])])]:
        for b in arrays:
            result, expected = mine(Tensor(a), Tensor(b)), theirs(torch.tensor(a), torch.tensor(b))
            assert str(result.dtype) == str(expected.dtype)[6:], (a.dtype, b.dtype)
            np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=1e-6)
        for number in (2, 2.5, 0, *([] if name == "power" else [True])):
            expected = theirs(torch.tensor(a), number)
            assert str(mine(Tensor(a), number).dtype) == str(expected.dtype)[6:], (a.dtype, number)


def test_element_types_of_results() -> None:
    f32, f64, i64 = (Tensor(np.array([1, 2], kind)) for kind in ("float32", "float64", "int64"))
    for name in ("exp", "log", "log1p", "sqrt", "tanh", "sigmoid", "softplus", "erf"):
        assert getattr(ops, name)(i64).dtype == np.float32
        assert getattr(ops, name)(f64).dtype == np.float64
    for name in ("abs", "negative", "relu", "sum", "clone"):
        assert getattr(ops, name)(i64).dtype == np.int64
    assert ops.cat([i64, f32]).dtype == ops.matmul(f32, i64).dtype == np.float32
    assert ops.stack([f32, f64]).dtype == np.float64
    assert (f32 * np.int64(3)).dtype == (f32 * np.float64(3)).dtype == np.float32
    assert ops.where([True, False], f32, 0).dtype == np.float32
    assert ops.exp([0.0, 1.0]).dtype == np.float32, "without a tensor"
    assert ops.where([True, False], 1.0, 0.0).tolist() == [1, 0]
    assert ops.sum([1, 2, 3]).item() == 6


def test_constants_of_other_precision(dtype: np.dtype) -> None:
    """float16 is widened, more than float64 refused, as for tensors."""
    half = np.array([0.0, 1.0], np.float16)
    assert mr.exp(half).dtype == (mr.zeros(2) + half).dtype == ops.exp(half[0]).dtype == np.float32
    assert (mr.zeros(2, dtype=dtype) + half).dtype == dtype
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(DTypeError, match=r"constants of .*float"):
            mr.exp(np.zeros(2, np.longdouble))


@pytest.mark.parametrize("bounds", [(0.5, 1.5), (None, 1.5), (0.5, 3), (1, 2), (np.float64(0.5), np.float64(1.5))])
@pytest.mark.parametrize("data", [[1, 2], [1.0, 2.0]])
def test_clip_promotes_types_like_pytorch(torch: Any, bounds: tuple[Any, Any], data: list[Any]) -> None:
    plain = tuple(None if b is None else float(b) if isinstance(b, float) else b for b in bounds)
    expected = torch.tensor(data).clip(*plain)
    result = mr.tensor(data).clip(*bounds)
    assert (str(result.dtype), result.tolist()) == (str(expected.dtype)[6:], expected.tolist())


def test_linear_takes_arrays_and_lists() -> None:
    weight, bias = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([10.0, 20.0], np.float32)
    for x in (np.array([[1.0, 1.0]], np.float32), [[1.0, 1.0]]):
        assert ops.linear(x, mr.tensor(weight)).tolist() == [[3, 7]]
        assert ops.linear(x, mr.tensor(weight), bias).tolist() == [[13, 27]]
    assert ops.linear(mr.ones(1, 2), weight, bias).tolist() == [[13, 27]]


# --------------------------------------------------------------------------------------------------------- errors

ERRORS: list[tuple[type[Exception], str, Callable[[], Any]]] = [
    (ShapeError, r"add: shapes \[2\] and \[3\] do not broadcast", lambda: mr.zeros(2) + mr.zeros(3)),
    (ShapeError, r"matmul: cannot multiply \[2, 3\] by \[2\]", lambda: mr.zeros(2, 3) @ mr.zeros(2)),
    (ShapeError, "leading ones must broadcast", lambda: mr.zeros(2, 1, 3) @ mr.zeros(3, 3, 1)),
    (ShapeError, "matmul", lambda: mr.tensor(1.0) @ mr.zeros(2)),
    (ShapeError, r"linear: expected input \[..., 3\], got \[2\]", lambda: ops.linear(mr.zeros(2), mr.zeros(4, 3))),
    (ShapeError, r"linear: expected a weight \[O, I\], got \[3\]", lambda: ops.linear(mr.zeros(3), mr.zeros(3))),
    (DTypeError, "linear: the input is float64, the weight float32", lambda: ops.linear(F64, mr.zeros(4, 3))),
    (DTypeError, r"softmax: expected a floating-point tensor, got int64; .*\.to\('float32'\)", lambda: INTS.softmax()),
    (
        ShapeError,
        "softmax: dimension 2 is out of range for a tensor of 2 dimensions",
        lambda: mr.zeros(2, 2).softmax(2),
    ),
    (DTypeError, "mean", lambda: INTS.mean()),
    (ShapeError, "sum: dimension given twice", lambda: mr.zeros(2, 2).sum((0, -2))),
    (OptionError, "clip: give min, max or both", lambda: mr.zeros(2).clip()),
    (OptionError, "dropout: p must be from 0 to 1, got 1.5", lambda: mr.zeros(2).dropout(1.5)),
    (DTypeError, "dropout", lambda: INTS.dropout(0.5)),
    (ShapeError, r"reshape: \[2, 3\] has 6 elements, \[4\] does not", lambda: mr.zeros(2, 3).reshape(4)),
    (ShapeError, "permute: expected an order of 2 dimensions", lambda: mr.zeros(2, 3).permute(0)),
    (IndexRangeError, r"index: .*out of bounds.*shape \[2\]", lambda: mr.zeros(2)[2]),
    (IndexRangeError, "index: too many", lambda: mr.zeros(2)[0, 0]),
    (IndexRangeError, "index", lambda: mr.zeros(2)[1.5]),
    (ShapeError, r"concatenate: shapes \[2, 2\], \[2, 3\] differ", lambda: mr.cat([mr.zeros(2, 2), mr.zeros(2, 3)])),
    (ShapeError, "concatenate: expected at least one", lambda: mr.cat([])),
    (ShapeError, "concatenate", lambda: mr.cat([mr.tensor(1.0)])),
    (ShapeError, "stack: expected tensors of one shape", lambda: mr.stack([mr.zeros(2), mr.zeros(3)])),
    (ShapeError, "stack", lambda: mr.stack([])),
    (ShapeError, r"split: sizes \[1, 2\] do not add up to 4", lambda: mr.zeros(4).split([1, 2])),
    (OptionError, "split: the size must be at least 1", lambda: mr.zeros(4).split(0)),
    (ShapeError, "split: expected a tensor of at least one dimension", lambda: mr.tensor(1.0).split(1)),
    (OptionError, "chunk", lambda: mr.zeros(4).chunk(0)),
    (ShapeError, "chunk", lambda: mr.tensor(1.0).chunk(1)),
    (DTypeError, "gather index: expected integers", lambda: mr.zeros(2).gather(0, [0.5])),
    (IndexRangeError, "gather: index 2 is out of range", lambda: mr.zeros(2).gather(0, [2])),
    (IndexRangeError, "gather: index -1", lambda: mr.zeros(2).gather(0, [-1])),
    (ShapeError, r"gather: an index of shape \[1, 1\] does not fit", lambda: mr.zeros(2).gather(0, [[0]])),
    (IndexRangeError, "embedding: index 5 is out of range; the table has 4 rows, 0 to 3", lambda: rows_of_four([0, 5])),
    (DTypeError, "embedding: expected integers, got float", lambda: rows_of_four([0.5])),
    (ShapeError, r"where: the condition \[2\] does not", lambda: mr.where([True, False], mr.zeros(3), mr.zeros(3))),
    (ShapeError, "squeeze: dimension 3", lambda: mr.zeros(2).squeeze(3)),
    (ShapeError, "squeeze: dimension given twice", lambda: mr.zeros(1, 1).squeeze((0, -2))),
    (ShapeError, "flatten: start_dim 1 comes after end_dim 0 in 2", lambda: mr.zeros(2, 2).flatten(1, 0)),
    (OptionError, "power: an integer to a negative power", lambda: mr.tensor([2]) ** -1),
    (DTypeError, "expected a tensor or numbers, got str", lambda: mr.zeros(2) + "no"),
    (ShapeError, r"max: a tensor of shape \[0\] has no elements", lambda: mr.zeros(0).max()),
    (ShapeError, "argmax", lambda: mr.argmax(mr.zeros(0))),
    (ShapeError, "argmin", lambda: mr.argmin(mr.zeros(0))),
]
INTS, F64 = mr.tensor([1, 2]), mr.zeros(3, dtype="float64")


def rows_of_four(tokens: Any) -> Tensor:
    return ops.embedding(mr.zeros(4, 2), tokens)


@pytest.mark.parametrize(("error", "message", "call"), ERRORS)
def test_errors_say_what_was_expected_and_what_was_given(
    error: type[Exception], message: str, call: Callable[[], Any]
) -> None:
    with pytest.raises(error, match=message):
        call()
