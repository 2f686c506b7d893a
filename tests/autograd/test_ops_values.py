"""Every operation's values, element types and upstream gradients against live PyTorch.

Hypothesis draws shapes with extents of 0 and 1, broadcasting operands, and inputs that are transposed, strided or
reversed; corner cases (ties, clip borders, powers of 0, infinities, NaN) are listed one by one.
"""

from __future__ import annotations

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
NUMBERS = st.integers(0, 2**31)


def laid_out(values: np.ndarray, layout: int) -> np.ndarray:
    """The same values, and four ways for them to lie in memory."""
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
    whole = rng.integers(1 if positive else -8, 9, shape)
    return laid_out((whole / 4).astype(dtype), seed % 4)


def leaf(array: np.ndarray, device: str) -> Tensor:
    """A leaf that lies as the array does; contiguous on a GPU."""
    return Tensor(kernels.on(device).asarray(array), requires_grad=True, device=device)


def check(
    torch: Any, device: str, mine: Callable[..., Any], theirs: Callable[..., Any], arrays: list[np.ndarray],
    tolerance: float = 2e-6,
) -> None:  # fmt: skip
    """Values, element type, and the gradients that follow from a random upstream gradient."""
    xs = [leaf(a, device) for a in arrays]
    ts = [torch.tensor(a.copy(), requires_grad=True) for a in arrays]
    y, t = mine(*xs), theirs(*ts)
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


UNARY: dict[str, str | None] = {
    "negative": None, "exp": None, "tanh": None, "sigmoid": None, "relu": None, "abs": None, "log": "positive",
    "sqrt": "positive", "log1p": "positive", "erf": None, "clone": None,
}  # fmt: skip


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", [*UNARY, "softplus"])
@given(shape=SHAPES, seed=NUMBERS)
def test_functions_of_one_tensor(
    torch: Any, device: str, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int
) -> None:
    theirs = torch.nn.functional.softplus if name == "softplus" else getattr(torch, name)
    check(torch, device, getattr(ops, name), theirs, [drawn(shape, dtype, seed, bool(UNARY.get(name)))])


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "power", "where", "minimum", "maximum"])
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4, max_dims=4), seed=NUMBERS)
def test_functions_of_two_tensors(torch: Any, device: str, name: str, dtype: np.dtype, shapes: Any, seed: int) -> None:
    a, b = shapes.input_shapes
    positive = name in ("divide", "power")
    arrays = [drawn(a, dtype, seed, positive), drawn(b, dtype, seed + 1, positive)]
    others = {  # PyTorch's own minimum and maximum divide the gradient of equal elements among both
        "power": torch.pow, "minimum": lambda x, y: torch.where(y < x, y, x),
        "maximum": lambda x, y: torch.where(x < y, y, x),
    }  # fmt: skip
    mine, theirs = getattr(ops, name), others.get(name) or getattr(torch, name)
    if name == "where":
        mask = np.random.default_rng(seed).random(shapes.result_shape) < 0.5
        check(torch, device, lambda x, y: mine(mask, x, y), lambda x, y: theirs(torch.tensor(mask), x, y), arrays)
    else:
        check(torch, device, mine, theirs, arrays)


@st.composite
def matmul_shapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    m, k, n = (draw(st.integers(0, 5)) for _ in range(3))
    a = draw(st.sampled_from([(k,), (m, k), (2, m, k), (1, m, k), (3, 1, m, k), (0, m, k)]))
    b = draw(st.sampled_from([(k,), (k, n), (2, k, n), (1, k, n), (2, k, n)]))
    if len(a) > 2 and len(b) > 2 and 0 in (a[0], b[0]) and 2 in (a[0], b[0]):
        b = (1, *b[1:])
    return a, b


@pytest.mark.needs_torch
@given(shapes=matmul_shapes(), seed=NUMBERS)
def test_matmul(torch: Any, device: str, dtype: np.dtype, shapes: Any, seed: int) -> None:
    check(torch, device, ops.matmul, torch.matmul, [drawn(s, dtype, seed + n) for n, s in enumerate(shapes)])


@pytest.mark.needs_torch
@pytest.mark.parametrize("right", ["plain", "transposed", "strided"])
@pytest.mark.parametrize("left", ["plain", "transposed", "strided"])
@pytest.mark.parametrize(("m", "k", "n"), [(67, 33, 41), (1, 300, 129), (200, 1, 200)])
def test_matmul_beyond_the_small_size(
    torch: Any, dtype: np.dtype, left: str, right: str, m: int, k: int, n: int
) -> None:
    lie = {"plain": 0, "transposed": 1, "strided": 2}
    rng = np.random.default_rng(3)
    a = laid_out(rng.standard_normal((m, k)).astype(dtype), lie[left])
    b = laid_out(rng.standard_normal((k, n)).astype(dtype), lie[right])
    check(torch, "cpu", ops.matmul, torch.matmul, [a, b], 1e-4 if dtype == np.float32 else 1e-12)
    stacked = np.stack([a, a[::-1]])
    check(torch, "cpu", ops.matmul, torch.matmul, [stacked, b], 1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.needs_torch
@given(
    lead=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), inputs=st.integers(0, 5),
    outputs=st.integers(0, 5), seed=NUMBERS, bias=st.booleans(),
)  # fmt: skip
def test_linear(
    torch: Any, device: str, dtype: np.dtype, lead: tuple[int, ...], inputs: int, outputs: int, seed: int, bias: bool
) -> None:
    shapes = [(*lead, inputs), (outputs, inputs), (outputs,)][: 3 if bias else 2]
    arrays = [np.ascontiguousarray(drawn(s, dtype, seed + n)) for n, s in enumerate(shapes)]
    arrays[0] = laid_out(arrays[0], seed % 4)
    check(torch, device, ops.linear, torch.nn.functional.linear, arrays)


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["sum", "mean"])
@given(shape=SHAPES, seed=NUMBERS, keepdim=st.booleans(), data=st.data())
def test_sums(
    torch: Any, device: str, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, keepdim: bool, data: Any
) -> None:
    dims = data.draw(st.none() | st.lists(st.sampled_from(range(len(shape))), min_size=1, unique=True) if shape
                     else st.none())  # fmt: skip
    mine, theirs = getattr(ops, name), getattr(torch, name)
    array = drawn(shape, dtype, seed)
    if dims is None:
        check(torch, device, mine, theirs, [array])
    else:
        mixed = [d if seed % 2 else d - len(shape) for d in dims]
        check(torch, device, lambda x: mine(x, mixed, keepdim), lambda t: theirs(t, mixed, keepdim), [array])


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["max", "min"])
@given(shape=SHAPES, seed=NUMBERS, keepdim=st.booleans(), data=st.data())
def test_extremes_and_ties(
    torch: Any, device: str, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, keepdim: bool, data: Any
) -> None:
    mine, theirs = getattr(ops, name), getattr(torch, name)
    array = drawn(shape, dtype, seed)
    if array.size:
        check(torch, device, mine, theirs, [array])
    else:
        with pytest.raises(ShapeError, match=name):
            mine(Tensor(array))
    if not shape:
        return
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    if shape[dim] == 0:
        with pytest.raises(ShapeError, match=name):
            mine(Tensor(array), dim)
        return
    check(torch, device, lambda x: mine(x, dim, keepdim).values, lambda t: theirs(t, dim, keepdim).values, [array])
    index = mine(Tensor(array), dim, keepdim).indices
    reached = np.take_along_axis(array, index.numpy().reshape(np.sum(array, dim, keepdims=True).shape), dim)
    np.testing.assert_array_equal(reached.reshape(index.shape), mine(Tensor(array), dim, keepdim).values.numpy())
    if name == "max":
        np.testing.assert_array_equal(ops.argmax(array, dim, keepdim).numpy(), np.argmax(array, dim, keepdims=keepdim))


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5), seed=NUMBERS, data=st.data())
def test_softmax(
    torch: Any, device: str, name: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any
) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    mine, theirs = getattr(ops, name), getattr(torch, name)
    check(torch, device, lambda x: mine(x, dim), lambda t: theirs(t, dim), [drawn(shape, dtype, seed) * 10])


@pytest.mark.needs_torch
@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5), seed=NUMBERS, data=st.data())
def test_shapes(torch: Any, device: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any) -> None:
    array = drawn(shape, dtype, seed)
    count = len(shape)
    dim = data.draw(st.integers(-count, count - 1))
    order = data.draw(st.permutations(range(count)))
    size = data.draw(st.integers(1, 4))
    check(torch, device, lambda x: x.permute(*order), lambda t: t.permute(*order), [array])
    check(torch, device, lambda x: x.transpose(0, dim), lambda t: t.transpose(0, dim), [array])
    check(torch, device, lambda x: x.unsqueeze(dim), lambda t: t.unsqueeze(dim), [array])
    check(torch, device, lambda x: x.squeeze(dim), lambda t: t.squeeze(dim), [array])
    check(torch, device, lambda x: x.squeeze(), lambda t: t.squeeze(), [array])
    check(torch, device, lambda x: x.flip(dim), lambda t: t.flip(dim), [array])
    check(torch, device, lambda x: x.reshape(array.size), lambda t: t.reshape(array.size), [array])
    check(torch, device, lambda x: ops.cat([x, x], dim), lambda t: torch.cat([t, t], dim), [array])
    check(torch, device, lambda x: ops.stack([x, x], dim), lambda t: torch.stack([t, t], dim), [array])
    for mine, theirs in (("split", size), ("chunk", size)):
        pieces = getattr(ops, mine)(Tensor(array), theirs, dim)
        expected = getattr(torch.tensor(array.copy()), mine)(theirs, dim)
        if array.shape[dim]:  # PyTorch gives several empty chunks of nothing, minirnn one
            assert [p.tolist() for p in pieces] == [w.tolist() for w in expected]


@pytest.mark.needs_torch
@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5), seed=NUMBERS, data=st.data())
def test_gather(torch: Any, device: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    window = tuple(data.draw(st.integers(0, 6 if d == dim else n)) for d, n in enumerate(shape))
    index = np.random.default_rng(seed).integers(0, shape[dim], window)
    at = torch.tensor(index)
    check(torch, device, lambda x: x.gather(dim, index), lambda t: t.gather(dim, at), [drawn(shape, dtype, seed)])


@given(shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5), seed=NUMBERS, data=st.data())
def test_basic_indices_are_numpys(device: str, shape: tuple[int, ...], seed: int, data: Any) -> None:
    array = drawn(shape, np.dtype("float64"), seed)
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True))
    x = leaf(array, device)
    y = x[key]
    np.testing.assert_array_equal(y.numpy(), array[key])
    upstream = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(upstream)
    expected = np.zeros(shape)
    expected[key] += upstream
    np.testing.assert_array_equal(x.grad.numpy(), expected)


@given(shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=5), seed=NUMBERS, data=st.data())
def test_integer_array_indices_count_repeats(device: str, shape: tuple[int, ...], seed: int, data: Any) -> None:
    array = drawn(shape, np.dtype("float64"), seed)
    key = data.draw(hnp.integer_array_indices(shape))
    x = leaf(array, device)
    y = x[key]
    np.testing.assert_array_equal(y.numpy(), array[key])
    upstream = np.random.default_rng(1).standard_normal(y.shape)
    y.backward(upstream)
    expected = np.zeros(shape)
    np.add.at(expected, key, upstream)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.needs_torch
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (None, 0.5), (-0.25, None), (1.0, -1.0)])
def test_clip_at_its_borders(
    torch: Any, device: str, dtype: np.dtype, bounds: tuple[float | None, float | None]
) -> None:
    array = (np.arange(-8, 9) / 4).astype(dtype)  # the borders are among them
    check(torch, device, lambda x: ops.clip(x, *bounds), lambda t: torch.clip(t, *bounds), [array])


@pytest.mark.needs_torch
@pytest.mark.parametrize("exponent", [0, 1, 2, 0.5, -1, 3.0])
def test_powers_of_zero_and_negative_numbers(torch: Any, device: str, dtype: np.dtype, exponent: float) -> None:
    array = np.array([0.0, -2.0, 3.0], dtype)
    check(torch, device, lambda x: x**exponent, lambda t: t**exponent, [array])


@pytest.mark.needs_torch
def test_power_gradients_at_zero(torch: Any, device: str, dtype: np.dtype) -> None:
    base, exponent = np.array([0.0, 0.0, 2.0, 2.0], dtype), np.array([0.0, 2.0, 0.0, -1.0], dtype)
    check(torch, device, ops.power, torch.pow, [base, exponent])
    check(torch, device, lambda y: 0.0**y, lambda y: torch.tensor(0.0, dtype=y.dtype) ** y, [exponent[:2]])


def test_abs_relu_and_extremes_at_kinks(dtype: np.dtype) -> None:
    x = Tensor(np.array([0.0, -0.0, 2.0, 2.0], dtype), requires_grad=True)
    (x.abs().sum() + 10 * x.relu().sum() + 100 * x.max()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0, 61, 61]


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "relu", "abs", "softplus", "sqrt", "log", "negative",
                                  "log1p", "erf"])  # fmt: skip
def test_infinities_and_nan(torch: Any, device: str, dtype: np.dtype, name: str) -> None:
    array = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e4, -1e4, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    theirs = torch.nn.functional.softplus if name == "softplus" else getattr(torch, name)
    expected = theirs(torch.tensor(array)).numpy()
    np.testing.assert_allclose(getattr(ops, name)(leaf(array, device)).numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.needs_torch
@pytest.mark.parametrize("name", ["minimum", "maximum"])
def test_minimum_and_maximum_of_infinities_and_nan(torch: Any, device: str, dtype: np.dtype, name: str) -> None:
    a, b = np.array([np.nan, 1, np.nan, np.inf, -np.inf, 0], dtype), np.array([1, np.nan, np.nan, 3, 3, 0], dtype)
    expected = getattr(torch, name)(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_array_equal(getattr(mr, name)(leaf(a, device), leaf(b, device)).numpy(), expected)


@pytest.mark.parametrize("name", ["minimum", "maximum"])
def test_gradient_of_equal_elements_goes_to_the_first(device: str, dtype: np.dtype, name: str) -> None:
    a, b = leaf(np.array([2.0, -1.0], dtype), device), leaf(np.array([2.0, -1.0], dtype), device)
    getattr(mr, name)(a, b).backward(np.array([3.0, 4.0]))
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.tolist(), b.grad.tolist()) == ([3, 4], [0, 0])


def test_gradients_of_erf_and_log1p_at_extremes(device: str, dtype: np.dtype) -> None:
    x = leaf(np.array([np.inf, np.finfo(dtype).max, 0], dtype), device)
    y = leaf(np.array([np.inf, -1, 0], dtype), device)
    x.erf().backward(np.ones(3))
    y.log1p().backward(np.ones(3))
    assert x.grad is not None
    assert y.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 2 / math.sqrt(math.pi)], rtol=1e-6)
    np.testing.assert_array_equal(y.grad.numpy(), [0, np.inf, 1])


@pytest.mark.needs_torch
@pytest.mark.parametrize("row", [
    [np.inf, 0.0, 1.0], [-np.inf, 0.0, 1.0], [-np.inf] * 3, [np.nan, 0.0, 1.0], [1e30, -1e30, 0.0],
    [1000.0, 999.0, 0.0],
])  # fmt: skip
def test_softmax_of_extremes(torch: Any, dtype: np.dtype, row: list[float]) -> None:
    for name in ("softmax", "log_softmax"):
        expected = getattr(torch, name)(torch.tensor(np.array(row, dtype)), -1).numpy()
        np.testing.assert_allclose(getattr(ops, name)(np.array(row, dtype)).numpy(), expected, rtol=1e-6)


@pytest.mark.needs_torch
def test_masked_rows_get_no_nan_gradient(torch: Any, dtype: np.dtype) -> None:
    """A row that is masked altogether is NaN after softmax; its scores must get 0 all the same, as in PyTorch."""
    mask = np.array([[True, False, False], [True, True, True]])
    scores = drawn((2, 3), dtype, 5)
    x, t = Tensor(scores, requires_grad=True), torch.tensor(scores.copy(), requires_grad=True)
    y = x.masked_fill(mask, -math.inf).softmax()
    expected = t.masked_fill(torch.tensor(mask), -math.inf).softmax(-1)
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-6)
    (y * [1.0, 2.0, 3.0]).sum().backward()
    (expected * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_extreme_of_nan_sends_its_gradient_to_the_nan() -> None:
    x = mr.tensor([1.0, math.nan, math.nan], requires_grad=True)
    y = x.max()
    assert math.isnan(y.item())
    y.backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("name", ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"])
@given(shapes=hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4, max_dims=3), seed=NUMBERS)
def test_comparisons_are_numpys(name: str, shapes: Any, seed: int) -> None:
    a, b = (drawn(s, np.dtype("float32"), seed + n) for n, s in enumerate(shapes.input_shapes))
    mask = ops.compare(name, Tensor(a, requires_grad=True), b)
    assert mask.dtype == np.bool_
    assert not mask.requires_grad
    np.testing.assert_array_equal(mask.numpy(), getattr(np, name)(a, b))


def test_dropout_keeps_the_mean_and_its_mask_goes_back(dtype: np.dtype) -> None:
    x = Tensor(np.ones((200, 101), dtype), requires_grad=True)
    y = ops.dropout(x, 0.3)
    kept = y.numpy() != 0
    assert abs(kept.mean() - 0.7) < 0.02
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.7, rtol=1e-4)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, y.numpy())
    assert not np.array_equal(kept, ops.dropout(x, 0.3).numpy() != 0), "a second draw must differ"
    mr.manual_seed(1337)
    np.testing.assert_array_equal(ops.dropout(x, 0.3).numpy(), y.numpy())
    assert ops.dropout(x, 0.0) is x
    assert ops.dropout(x, 0.9, training=False) is x
    assert not ops.dropout(x, 1.0).numpy().any()


@pytest.mark.needs_torch
def test_element_types_follow_pytorch(torch: Any) -> None:
    """float32 unless asked, float64 kept, integers stay integers, numbers and integers never widen a float."""
    f32, f64, i64 = np.array([1.0, 2.0], np.float32), np.array([1.0, 2.0]), np.array([1, 2])
    i32, mask = i64.astype(np.int32), np.array([True, False])
    numbers: list[Any] = [2, 2.5, True, 0]
    for a in (f32, f64, i64, i32, mask):
        for operation in ("add", "multiply", "divide", "power"):
            if a is mask and operation == "power":
                continue
            theirs = {"power": "pow"}.get(operation, operation)
            for b in (f32, f64, i64, i32):
                mine = getattr(ops, operation)(Tensor(a), Tensor(b))
                expected = getattr(torch, theirs)(torch.tensor(a), torch.tensor(b))
                assert str(mine.dtype) == str(expected.dtype)[6:], (operation, a.dtype, b.dtype)
                np.testing.assert_allclose(mine.numpy(), expected.numpy(), rtol=1e-6)
            for number in numbers:
                if operation == "power" and number is True:
                    continue
                mine = getattr(ops, operation)(Tensor(a), number)
                expected = getattr(torch, theirs)(torch.tensor(a), number)
                assert str(mine.dtype) == str(expected.dtype)[6:], (operation, a.dtype, number)
    for name in ("exp", "log", "log1p", "sqrt", "tanh", "sigmoid", "softplus", "erf"):
        assert getattr(ops, name)(Tensor(i64)).dtype == np.float32
        assert getattr(ops, name)(Tensor(f64)).dtype == np.float64
    for name in ("abs", "negative", "relu", "sum", "clone"):
        assert getattr(ops, name)(Tensor(i64)).dtype == np.int64
    assert ops.cat([Tensor(i64), Tensor(f32)]).dtype == np.float32
    assert ops.stack([Tensor(f32), Tensor(f64)]).dtype == np.float64
    assert ops.matmul(Tensor(f32), Tensor(i64)).dtype == np.float32
    assert (Tensor(f32) * np.int64(3)).dtype == np.float32
    assert (Tensor(f32) * np.float64(3)).dtype == np.float32
    assert ops.where(mask, Tensor(f32), 0).dtype == np.float32


def test_constants_without_a_tensor_are_float32() -> None:
    assert ops.exp([0.0, 1.0]).dtype == np.float32
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
def test_clip_has_the_type_pytorch_gives_it(torch: Any, bounds: tuple[Any, Any], data: list[Any]) -> None:
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


@pytest.mark.parametrize("dims", [(), (0,), (1,), (0, 1), (1, 2), (-3, -2), (0, 0), (2,)])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 0, 3), (1, 1, 5)])
def test_flatten(torch: Any, device: str, shape: tuple[int, ...], dims: tuple[int, ...]) -> None:
    array = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    check(torch, device, lambda x: x.flatten(*dims), lambda t: t.flatten(*dims), [array])
    assert mr.tensor(1.0).flatten().shape == (1,)


@pytest.mark.parametrize("dims", [(0,), (0, 2), (-1, 1), (0, 1, 2), ()])
def test_squeeze_of_several_dimensions(torch: Any, device: str, dims: tuple[int, ...]) -> None:
    array = np.arange(3, dtype=np.float32).reshape(1, 3, 1)
    check(torch, device, lambda x: x.squeeze(dims) * 1.0, lambda t: t.squeeze(dims) * 1.0, [array])


@pytest.mark.parametrize("dim", [None, 0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_argmin_and_argmax(torch: Any, dim: int | None, keepdim: bool) -> None:
    array = np.random.default_rng(0).permutation(12).reshape(3, 4).astype(np.float32)
    for name in ("argmin", "argmax"):
        expected = getattr(torch.tensor(array), name)(dim, keepdim).tolist()
        assert getattr(mr.tensor(array), name)(dim, keepdim).tolist() == expected
        assert getattr(mr, name)(array, dim, keepdim).tolist() == expected


def test_where_as_a_method(torch: Any, device: str) -> None:
    mask = np.array([True, False, True])
    arrays = [np.array([1, 2, 3], np.float32), np.array([4, 5, 6], np.float32)]
    check(torch, device, lambda x, y: x.where(mask, y), lambda t, u: t.where(torch.tensor(mask), u), arrays)


ERRORS: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "add": (ShapeError, r"add: shapes \[2\] and \[3\] do not broadcast", lambda: mr.zeros(2) + mr.zeros(3)),
    "matmul": (ShapeError, r"matmul: cannot multiply \[2, 3\] by \[2\]", lambda: mr.zeros(2, 3) @ mr.zeros(2)),
    "matmul of stacks": (ShapeError, "leading ones must broadcast", lambda: mr.zeros(2, 1, 3) @ mr.zeros(3, 3, 1)),
    "matmul of numbers": (ShapeError, "matmul", lambda: mr.tensor(1.0) @ mr.zeros(2)),
    "linear shape": (ShapeError, r"linear: expected input \[..., 3\], got \[2\]",
                     lambda: ops.linear(mr.zeros(2), mr.zeros(4, 3))),
    "linear type": (DTypeError, "linear: the input is float64, the weight float32",
                    lambda: ops.linear(mr.zeros(3, dtype="float64"), mr.zeros(4, 3))),
    "softmax of integers": (DTypeError, r"softmax: expected a floating-point tensor, got int64; .*\.to\('float32'\)",
                            lambda: mr.softmax(mr.tensor([1, 2]))),
    "softmax dimension": (ShapeError, "softmax: dimension 2 is out of range for a tensor of 2 dimensions",
                          lambda: mr.zeros(2, 2).softmax(2)),
    "mean of integers": (DTypeError, "mean", lambda: mr.tensor([1, 2]).mean()),
    "sum twice": (ShapeError, "sum: dimension given twice", lambda: mr.zeros(2, 2).sum((0, -2))),
    "no bounds": (OptionError, "clip: give min, max or both", lambda: mr.zeros(2).clip()),
    "dropout": (OptionError, "dropout: p must be from 0 to 1, got 1.5", lambda: mr.zeros(2).dropout(1.5)),
    "dropout of integers": (DTypeError, "dropout", lambda: mr.tensor([1, 2]).dropout(0.5)),
    "reshape": (ShapeError, r"reshape: \[2, 3\] has 6 elements, \[4\] does not", lambda: mr.zeros(2, 3).reshape(4)),
    "permute": (ShapeError, "permute: expected an order of 2 dimensions", lambda: mr.zeros(2, 3).permute(0)),
    "index": (IndexRangeError, r"index: .*out of bounds.*shape \[2\]", lambda: mr.zeros(2)[2]),
    "too many indices": (IndexRangeError, "index: too many", lambda: mr.zeros(2)[0, 0]),
    "index type": (IndexRangeError, "index", lambda: mr.zeros(2)[1.5]),
    "concatenate": (ShapeError, r"concatenate: shapes \[2, 2\], \[2, 3\] differ in more than dimension 0",
                    lambda: mr.cat([mr.zeros(2, 2), mr.zeros(2, 3)])),
    "concatenate none": (ShapeError, "concatenate: expected at least one", lambda: mr.cat([])),
    "concatenate numbers": (ShapeError, "concatenate", lambda: mr.cat([mr.tensor(1.0)])),
    "stack": (ShapeError, "stack: expected tensors of one shape", lambda: mr.stack([mr.zeros(2), mr.zeros(3)])),
    "stack none": (ShapeError, "stack", lambda: mr.stack([])),
    "split sizes": (ShapeError, r"split: sizes \[1, 2\] do not add up to 4", lambda: mr.zeros(4).split([1, 2])),
    "split size": (OptionError, "split: the size must be at least 1", lambda: mr.zeros(4).split(0)),
    "split a number": (ShapeError, "split: expected a tensor of at least one dimension", lambda: mr.tensor(1.0).split(1)),
    "chunk": (OptionError, "chunk", lambda: mr.zeros(4).chunk(0)),
    "chunk a number": (ShapeError, "chunk", lambda: mr.tensor(1.0).chunk(1)),
    "gather type": (DTypeError, "gather index: expected integers", lambda: mr.zeros(2).gather(0, [0.5])),
    "gather range": (IndexRangeError, "gather: index 2 is out of range", lambda: mr.zeros(2).gather(0, [2])),
    "gather negative": (IndexRangeError, "gather: index -1", lambda: mr.zeros(2).gather(0, [-1])),
    "gather shape": (ShapeError, r"gather: an index of shape \[1, 1\] does not fit",
                     lambda: mr.zeros(2).gather(0, [[0]])),
    "embedding": (IndexRangeError, "embedding: index 5 is out of range; the table has 4 rows, 0 to 3",
                  lambda: ops.embedding(mr.zeros(4, 2), [0, 5])),
    "embedding type": (DTypeError, "embedding: expected integers, got float",
                       lambda: ops.embedding(mr.zeros(4, 2), [0.5])),
    "where": (ShapeError, r"where: the condition \[2\] does not broadcast",
              lambda: mr.where([True, False], mr.zeros(3), mr.zeros(3))),
    "squeeze": (ShapeError, "squeeze: dimension 3", lambda: mr.zeros(2).squeeze(3)),
    "squeeze twice": (ShapeError, "squeeze: dimension given twice", lambda: mr.zeros(1, 1).squeeze((0, -2))),
    "flatten": (ShapeError, "flatten: start_dim 1 comes after end_dim 0 in 2", lambda: mr.zeros(2, 2).flatten(1, 0)),
    "linear weight": (ShapeError, r"linear: expected a weight \[O, I\], got \[3\]",
                      lambda: ops.linear(mr.zeros(3), mr.zeros(3))),
    "integer power": (OptionError, "power: an integer to a negative power", lambda: mr.tensor([2]) ** -1),
    "words": (DTypeError, "expected a tensor or numbers, got str", lambda: mr.zeros(2) + "no"),
    "max of nothing": (ShapeError, r"max: a tensor of shape \[0\] has no elements", lambda: mr.zeros(0).max()),
    "argmax of nothing": (ShapeError, "argmax", lambda: mr.argmax(mr.zeros(0))),
    "argmin of nothing": (ShapeError, "argmin", lambda: mr.argmin(mr.zeros(0))),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_came_and_what_was_wanted(name: str) -> None:
    kind, message, call = ERRORS[name]
    with pytest.raises(kind, match=message):
        call()
