"""var, std, norm, cumsum, t and einsum: values, types and gradients against PyTorch, on both devices."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from autograd.test_ops_values import NUMBERS, SHAPES, compare, drawn
from hypothesis import given
from hypothesis import strategies as st

import minirnn as mr
from minirnn.errors import DTypeError, OptionError, ShapeError

INF = math.inf


def dims_of(data: Any, shape: tuple[int, ...]) -> list[int] | None:
    """No dimension or some, counted from the first or from the last."""
    if not shape:
        return None
    some = st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True)
    dims = data.draw(st.none() | some)
    return [d - len(shape) * data.draw(st.integers(0, 1)) for d in dims] if dims else None


def count(shape: tuple[int, ...], dims: list[int] | None) -> int:
    return math.prod(shape if dims is None else [shape[d] for d in dims])


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")  # of PyTorch, where the result is empty
@pytest.mark.parametrize("name", ["var", "std"])
@given(shape=SHAPES, seed=NUMBERS, keepdim=st.booleans(), correction=st.sampled_from([None, 0, 2, 0.5]), data=st.data())
def test_variance_and_standard_deviation(
    torch: Any, device: str, dtype: np.dtype, name: str, shape: tuple[int, ...], seed: int, keepdim: bool,
    correction: float | None, data: Any,
) -> None:  # fmt: skip
    """The values are on a grid, so deviations of 0 occur, where std has the gradient 0."""
    dims = dims_of(data, shape)
    options: dict[str, Any] = {"keepdim": keepdim} | ({} if correction is None else {"correction": correction})
    array = drawn(shape, dtype, seed)
    if count(shape, dims) > (1 if correction is None else correction):
        compare(torch, device, lambda m, x: getattr(m, name)(x, dims, **options), [array])
    else:
        values = getattr(mr.tensor(array, device=device, dtype=dtype), name)(dims, **options).numpy()
        assert not np.isfinite(values).any()


def test_variance_of_too_few_elements_is_that_of_pytorch(torch: Any, device: str, dtype: np.dtype) -> None:
    for size, correction in ((0, 1), (1, 1), (2, 3), (2, 2), (0, 0)):
        values = np.arange(size, dtype=dtype)
        with pytest.warns(UserWarning, match="degrees of freedom"):
            expected = [getattr(torch.tensor(values), name)(correction=correction).item() for name in ("var", "std")]
        x = mr.tensor(values, dtype=dtype, device=device)
        np.testing.assert_array_equal(
            [x.var(correction=correction).item(), x.std(correction=correction).item()], expected
        )


def test_variance_is_exact_beside_a_large_mean(device: str) -> None:
    x = mr.tensor(np.array([10000.0, 10001, 10002, 10003]), dtype="float32", device=device)
    assert x.var().item() == pytest.approx(5 / 3, rel=1e-6)
    assert x.std(correction=0).item() == pytest.approx(math.sqrt(1.25), rel=1e-6)


@pytest.mark.parametrize("p", [2, 1, INF, 3, 1.5, 0.5])
@given(shape=SHAPES, seed=NUMBERS, keepdim=st.booleans(), data=st.data())
def test_norm(
    torch: Any, device: str, dtype: np.dtype, p: float, shape: tuple[int, ...], seed: int, keepdim: bool, data: Any
) -> None:
    """Zeros, for which norms have the gradient 0, and equal elements included."""
    dims, array = dims_of(data, shape), drawn(shape, dtype, seed)
    if p == INF and count(shape, dims) == 0:
        with pytest.raises(ShapeError, match=r"norm: a tensor of shape .* has no elements"):
            mr.norm(array, p, dims, keepdim)
    else:
        compare(torch, device, lambda m, x: m.norm(x, p, dims, keepdim), [array], 1e-5)


@pytest.mark.parametrize("p", [2, 1, INF, 3, 1.5, 0.5])
def test_gradient_of_a_norm_of_zero_is_zero(device: str, dtype: np.dtype, p: float) -> None:
    x = mr.zeros(2, 3, dtype=dtype, device=device, requires_grad=True)
    x.norm(p).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_defaults_and_methods(device: str) -> None:
    x = mr.tensor([[3.0, 4.0], [6.0, 8.0]], device=device)
    assert x.norm(dim=1).tolist() == [5, 10]
    assert mr.norm(x, INF).item() == 8
    assert mr.norm([3.0, -4.0], 1).item() == 7
    assert (mr.var(x, 0).tolist(), x.var(0, correction=0).tolist()) == ([4.5, 8], [2.25, 4])
    assert x.std(1, keepdim=True).numpy() == pytest.approx(np.array([[math.sqrt(0.5)], [math.sqrt(2)]]))
    assert (x.t().tolist(), mr.t(x[0]).tolist(), mr.t(2.0).item()) == ([[3, 6], [4, 8]], [3, 4], 2)
    assert (x.cumsum(0).tolist(), mr.cumsum(x, -1).tolist()) == ([[3, 4], [9, 12]], [[3, 7], [6, 14]])


@given(shape=SHAPES, seed=NUMBERS, data=st.data())
def test_cumsum(torch: Any, device: str, dtype: np.dtype, shape: tuple[int, ...], seed: int, data: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1)) if shape else 0
    compare(torch, device, lambda m, x: m.cumsum(x, dim), [drawn(shape, dtype, seed)])


@pytest.mark.parametrize("length", [255, 256, 257, 700])
def test_cumsum_of_long_lines(device: str, dtype: np.dtype, length: int) -> None:
    """A GPU takes them in pieces of 256; in both directions, and with lines beside each other."""
    values = np.random.default_rng(length).standard_normal((length, 2)).astype(dtype)
    x = mr.tensor(values, True, dtype, device)
    tolerance = 1e-12 if dtype == np.float64 else 3e-5
    y = x.cumsum(0)
    np.testing.assert_allclose(y.numpy(), values.astype(np.float64).cumsum(0), rtol=0, atol=tolerance)
    y.backward(values)
    assert x.grad is not None
    backwards = values[::-1].astype(np.float64).cumsum(0)[::-1]
    np.testing.assert_allclose(x.grad.numpy(), backwards, rtol=0, atol=tolerance)


def test_cumsum_of_float32_keeps_the_precision_of_each_sum() -> None:
    x = np.full(1_000_000, 0.1, np.float32)
    exact = np.arange(1, x.size + 1) * float(x[0])
    np.testing.assert_allclose(mr.cumsum(x, 0).numpy(), exact, rtol=1e-7)


def test_cumsum_of_integers_and_booleans_is_int64(torch: Any, device: str) -> None:
    for values in (np.array([[1, 2], [3, -4]], np.int32), np.array([[True, True], [False, True]])):
        y = mr.tensor(values, dtype=values.dtype, device=device).cumsum(1)
        assert (y.dtype, y.tolist()) == (np.int64, torch.tensor(values).cumsum(1).tolist())


EQUATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "bij,bjk->bik": ((2, 3, 4), (2, 4, 5)), "ij,jk": ((2, 3), (3, 2)),
    "ij": ((2, 3),), "ba": ((2, 3),), "ii": ((3, 3),), "ii->i": ((3, 3),), "...ii->...i": ((2, 3, 3),),
    "iii->i": ((2, 2, 2),), "ij->": ((2, 3),), "ij->j": ((2, 0),), "": ((),), ",": ((), ()), ",i": ((), (3,)),
    "i,j->ji": ((2,), (3,)), "i,i": ((4,), (4,)), "bi,bi->b": ((2, 3), (2, 3)), "ij,ij->ij": ((2, 3), (1, 3)),
    "...ij,jk": ((2, 5, 3), (3, 2)), "i...,i...->...": ((2, 3), (2, 5, 3)), "...ij->ij": ((5, 2, 3),),
    "...,...": ((2, 1, 3), (4, 1)), "abc,cd->dab": ((2, 3, 4), (4, 2)), "iij,jj->ij": ((2, 2, 3), (3, 3)),
    "b i , b j -> b j i": ((2, 3), (2, 4)), "ij,kl->il": ((2, 3), (3, 2)), "aB,Bc": ((2, 3), (3, 2)),
    "ij,jk->ik": ((0, 3), (3, 2)), "ij,jk->i": ((2, 0), (0, 2)), "ij,jk->ijk": ((2, 1), (3, 2)),
    "tnh,snh->nts": ((3, 2, 4), (5, 2, 4)),
}  # fmt: skip


@pytest.mark.parametrize("equation", EQUATIONS)
def test_einsum(torch: Any, device: str, dtype: np.dtype, equation: str) -> None:
    arrays = [drawn(shape, dtype, 6 + n) for n, shape in enumerate(EQUATIONS[equation])]
    compare(torch, device, lambda m, *xs: m.einsum(equation, *xs), arrays)


def test_einsum_of_strided_operands_lists_and_integers(torch: Any, dtype: np.dtype) -> None:
    for layout in range(4):
        arrays = [drawn((3, 4), dtype, layout), drawn((4, 2), dtype, layout + 4)]
        compare(torch, "cpu", lambda m, x, y: m.einsum("ij,jk->ki", x, y), arrays)
    assert mr.einsum("i,i", mr.tensor([1.0, 2.0], dtype=dtype), [3.0, 4.0]).dtype == dtype
    product = mr.einsum("ij,j", [[1, 2], [3, 4]], [1, -1])
    assert (product.dtype, product.tolist()) == (np.int64, [-1, -1])


ERRORS: list[tuple[type[Exception], str, Any]] = [
    (OptionError, "einsum: expected subscripts .* got 'i.j'", lambda x: mr.einsum("i.j", x)),
    (OptionError, "einsum: expected subscripts of one or two", lambda x: mr.einsum("i,j,k->", x, x, x)),
    (OptionError, "einsum: expected subscripts", lambda x: mr.einsum(x, x)),
    (OptionError, "einsum: 'ij,jk' has subscripts of 2 operands, got 1", lambda x: mr.einsum("ij,jk", x)),
    (OptionError, "einsum: the result must have .* got 'ij->k'", lambda x: mr.einsum("ij->k", x)),
    (OptionError, "einsum: the result must have .* once", lambda x: mr.einsum("ij->ii", x)),
    (ShapeError, r"einsum: 'i' does not fit a tensor of shape \[2, 3\]", lambda x: mr.einsum("i", x)),
    (ShapeError, r"einsum: '...abc' does not fit", lambda x: mr.einsum("...abc", x)),
    (ShapeError, "einsum: 'j' has extents of 3 and 2 in 'ij,jk'", lambda x: mr.einsum("ij,jk", x, x)),
    (ShapeError, r"einsum: '\.\.\.' has extents of 2 and 3", lambda x: mr.einsum("...i,j...", x, x)),
    (ShapeError, "einsum: 'i' has extents of 2 and 3 in one", lambda x: mr.einsum("ii", x)),
    (ShapeError, r"t: expected a tensor of at most 2 dimensions, got \[1, 2, 3\]", lambda x: x.unsqueeze(0).t()),
    (ShapeError, "cumsum: dimension 2 is out of range", lambda x: x.cumsum(2)),
    (ShapeError, "var: dimension -3 is out of range", lambda x: x.var(-3)),
    (ShapeError, "std|var: dimension given twice", lambda x: x.std((0, -2))),
    (ShapeError, "norm: dimension 5", lambda x: x.norm(2, 5)),
    (OptionError, "norm: p: expected a number above 0, got 'fro'", lambda x: x.norm("fro")),
    (OptionError, "norm: p: expected a number above 0, got 0", lambda x: x.norm(0)),
    (OptionError, "var: correction: expected a number", lambda x: x.var(correction=-1)),
    (DTypeError, "var: expected a floating-point tensor, got int64", lambda x: mr.tensor([1, 2]).var()),
    (DTypeError, "norm: expected a floating-point tensor, got int64", lambda x: mr.tensor([1, 2]).norm()),
]


@pytest.mark.parametrize(("error", "message", "call"), ERRORS)
def test_errors(error: type[Exception], message: str, call: Any) -> None:
    with pytest.raises(error, match=message):
        call(mr.zeros(2, 3))
