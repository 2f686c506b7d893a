"""Every operation's gradient against central differences in float64.

Each case runs on contiguous, transposed, strided and reversed inputs. The last test fails for an operation without a
case.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import Tensor, ops

LAYOUTS = ("contiguous", "transposed", "strided", "reversed")


def spaced(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> np.ndarray:
    """Distinct values in random order, none near 0 and no two near each other: no kink within a difference."""
    count = math.prod(shape)
    values = low + (high - low) * (np.arange(count) + 0.63) / max(count, 1)
    return np.random.default_rng(seed + count).permutation(values).reshape(shape)


def leaf(values: np.ndarray, layout: str = "contiguous") -> Tensor:
    """A leaf with these values in one of the memory layouts."""
    if layout == "transposed":
        data = values.T.copy().T
    elif layout == "strided" and values.ndim:
        wide = np.full((*values.shape[:-1], 2 * values.shape[-1] + 1), np.nan)
        data = wide[..., 1::2][..., : values.shape[-1]]
        data[...] = values
    elif layout == "reversed" and values.ndim:
        data = np.flip(np.flip(values).copy())
    else:
        data = values.copy()
    return Tensor(data, requires_grad=True)


class Case(NamedTuple):
    name: str
    fn: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]


CASES: list[Case] = []


def case(name: str, fn: Callable[..., Any], *inputs: np.ndarray) -> None:
    CASES.append(Case(name, fn, inputs))


PAIRS = (
    ((3, 2), (3, 2)), ((3, 2), (2,)), ((2,), (3, 2)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 3), ()), ((), ()),
    ((2, 1, 2), (3, 1)), ((1,), (2, 2)), ((1, 1), (2,)),
)  # fmt: skip
for _a, _b in PAIRS:
    for _name in ("add", "subtract", "multiply"):
        case(_name, getattr(ops, _name), spaced(*_a), spaced(*_b, seed=1))
    case("divide", ops.divide, spaced(*_a), spaced(*_b, low=0.5, seed=1))
    case("power", ops.power, spaced(*_a, low=0.4), spaced(*_b, seed=1))
    for _name in ("minimum", "maximum"):
        case(_name, getattr(ops, _name), spaced(*_a), spaced(*_b, low=-1.7, seed=1))
    case("where", lambda a, b: ops.where((a.detach() + b) > 0.2, a, b), spaced(*_a), spaced(*_b, seed=1))
case("where", lambda a, b: ops.where(np.array([[True], [False]]), a, b), spaced(3), spaced(1, 3, seed=1))
case("where", lambda a: ops.where([True, False, True], a, 2.5), spaced(3))
for _number in (3, -2.0, 0.5, 1, 0):
    case("power", lambda a, n=_number: ops.power(a, n), spaced(2, 3, low=0.3))
    case("power", lambda a, n=_number: ops.power(a, n) if n != 0.5 else a * a, spaced(2, 3))
    case("multiply", lambda a, n=_number: a * n + n * a, spaced(2, 2))
case("power", lambda a: 2.0**a, spaced(4))
case("subtract", lambda a: 1 - a - 3.5, spaced(2, 3))
case("divide", lambda a: 1 / a + a / 4, spaced(2, 3, low=0.3))
case("add", lambda a: np.ones((2, 3)) + a + [1.0, 2.0, 3.0], spaced(3))
for _name in ("negative", "exp", "tanh", "sigmoid", "softplus", "erf", "relu", "abs", "clone"):
    for _shape in ((), (3,), (2, 3), (2, 1, 3)):
        case(_name, getattr(ops, _name), spaced(*_shape))
for _name in ("log", "sqrt"):
    for _shape in ((), (2, 3)):
        case(_name, getattr(ops, _name), spaced(*_shape, low=0.2))
for _shape in ((), (2, 3)):
    case("log1p", ops.log1p, spaced(*_shape, low=-0.8))
case("minimum", lambda a: ops.minimum(a, 0.4), spaced(2, 3))
case("maximum", lambda a: ops.maximum([0.4, -0.4, 0.0], a), spaced(2, 3))
for _bounds in ({"min": -0.81}, {"max": 1.07}, {"min": -0.81, "max": 1.07}, {"min": 5.0, "max": 6.0}):
    case("clip", lambda a, b=_bounds: ops.clip(a, **b), spaced(3, 5))
for _name in ("softmax", "log_softmax"):
    for _dim in (-1, 0, 1):
        case(_name, lambda a, n=_name, d=_dim: getattr(ops, n)(a, d), spaced(3, 4))
    case(_name, lambda a, n=_name: getattr(ops, n)(a), spaced(1))
case("cast", lambda a: ops.cast(a, np.dtype("float64")) * 2.0, spaced(2, 3))
case("masked_fill", lambda a: ops.masked_fill(a, a > 0, -3.0), spaced(2, 3))
case("masked_fill", lambda a: ops.masked_fill(a, np.array([True, False, True]), -np.inf)[:, 1], spaced(2, 3))
for _name in ("sum", "mean"):
    for _dim in (None, 0, -1, (0, 2), (1, -3), [0, 1, 2]):
        for _keep in (False, True):
            case(_name, lambda a, n=_name, d=_dim, k=_keep: getattr(ops, n)(a, d, k), spaced(2, 3, 2))
    case(_name, getattr(ops, _name), spaced())
for _name in ("max", "min"):
    for _shape in ((), (1,), (2, 3)):
        case(_name, getattr(ops, _name), spaced(*_shape))
    for _dim in (0, 1, -1):
        for _keep in (False, True):
            case(_name, lambda a, n=_name, d=_dim, k=_keep: getattr(ops, n)(a, d, k).values, spaced(3, 2, 2))
for _dim in (None, 0, -1, (0, 2)):
    for _name in ("var", "std"):
        case(_name, lambda a, n=_name, d=_dim: getattr(ops, n)(a, d), spaced(2, 3, 2))
        case(_name, lambda a, n=_name, d=_dim: getattr(ops, n)(a, d, correction=0, keepdim=True) * a, spaced(2, 3, 2))
    for _p in (1, 1.5, 2, 3, math.inf):
        case("norm", lambda a, p=_p, d=_dim: ops.norm(a, p, d), spaced(2, 3, 2))
        case("norm", lambda a, p=_p, d=_dim: ops.norm(a, p, d, keepdim=True) * a, spaced(2, 3, 2))
for _dim in (0, 1, -1):
    case("cumsum", lambda a, d=_dim: ops.cumsum(a, d) * spaced(2, 3, 2, seed=5), spaced(2, 3, 2))
case("cumsum", lambda a: ops.cumsum(a, 0), spaced())
case("t", lambda a: ops.t(a) * spaced(3, 2), spaced(2, 3))
case("t", lambda a: ops.t(a) * 2.0, spaced(3))
for _equation, _a, _b in (
    ("bij,bjk->ikb", (2, 3, 2), (2, 2, 2)),
    ("...i,ij", (2, 2, 3), (3, 2)),
    ("i,j->ji", (2,), (3,)),
):
    case("einsum", lambda a, b, e=_equation: ops.einsum(e, a, b), spaced(*_a), spaced(*_b, seed=1))
for _equation in ("iji->ji", "iij", "iij->"):
    case("einsum", lambda a, e=_equation: ops.einsum(e, a), spaced(2, 2, 2))
case("reshape", lambda a: ops.reshape(a, 3, -1) * spaced(3, 2), spaced(2, 3))
case("reshape", lambda a: a.view((2, 1, 3)).flatten(), spaced(3, 2))
case("reshape", lambda a: ops.reshape(a, ()), spaced(1, 1))
case("permute", lambda a: ops.permute(a, 2, 0, 1) * spaced(2, 2, 3), spaced(2, 3, 2))
case("permute", lambda a: ops.permute(a, (-1, 0, 1)).T, spaced(2, 3, 2))
case("permute", ops.permute, spaced())
case("transpose", lambda a: ops.transpose(a, 0, -1) * spaced(4, 3, 2), spaced(2, 3, 4))
case("squeeze", lambda a: ops.squeeze(a), spaced(1, 3, 1))
case("squeeze", lambda a: ops.squeeze(a, -1) + ops.squeeze(a, 1), spaced(1, 3, 1)[..., 0])
case("flatten", lambda a: ops.flatten(a, 1) * spaced(2, 6, seed=5), spaced(2, 3, 2))
case("unsqueeze", lambda a: ops.unsqueeze(a, 1) * ops.unsqueeze(a, -3), spaced(2, 3))
for _dims in ((), (0,), (-1,), (0, 2), ((1, 2),)):
    case("flip", lambda a, d=_dims: ops.flip(a, *d) * spaced(2, 3, 2, seed=5), spaced(2, 3, 2))
_KEYS: tuple[Any, ...] = (
    0, -1, slice(None), slice(None, None, -1), slice(2, 0, -1), (Ellipsis, 1), (None, slice(1, 3)), (1, slice(0, 1)),
    [0, 0, 2], np.array([[1, 1], [2, 1]]), ([0, 0, 2], [1, 1, 0]), (slice(None), [1, 1, 1]), ([0, 2, 0], slice(1)),
    np.array([True, False, True]), np.arange(6).reshape(3, 2) % 3 == 0, (np.array([True, False, True]), 1), True,
    np.array([], np.int64), slice(0, 0), [], np.zeros(3, bool), np.int64(2), [-1, 2, -1], (Ellipsis, None),
)  # fmt: skip
for _key in _KEYS:
    case("index", lambda a, k=_key: ops.index(a, k) * 2.0, spaced(3, 2))
case("index", lambda a: a[mr.tensor([1, 1, 0])] + a[mr.tensor(2)], spaced(3, 2))
case("index", lambda a: a[a > 0], spaced(3, 2))
for _name in ("concatenate", "cat"):
    for _dim in (0, -2):
        case(_name, lambda a, b, n=_name, d=_dim: getattr(ops, n)([a, b, a], d), spaced(2, 3), spaced(1, 3, seed=1))
case("concatenate", lambda a, b: ops.concatenate([a, b, [[9.0], [8.0]]], 1), spaced(2, 2), spaced(2, 0))
for _dim in (0, 1, -1):
    case("stack", lambda a, b, d=_dim: ops.stack([a, b, a], d), spaced(2, 3), spaced(2, 3, seed=1))
case("split", lambda a: ops.split(a, 2), spaced(5, 2))
case("split", lambda a: ops.split(a, [1, 0, 3], 1)[2], spaced(2, 4))
case("split", lambda a: ops.split(a, [1, 2, 1], -1)[:2], spaced(2, 4))
case("chunk", lambda a: ops.chunk(a, 3, 1)[1:], spaced(2, 7))
case("gather", lambda a: ops.gather(a, 0, [[0, 0, 1], [1, 1, 1], [0, 1, 0]]), spaced(2, 3))
case("gather", lambda a: ops.gather(a, -1, mr.tensor([[2, 2]])), spaced(3, 3))
_MATMUL = (
    ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 2)), ((3,), (2, 3, 2)), ((2, 2, 3), (3,)),
    ((2, 2, 3), (3, 2)), ((2, 3), (2, 3, 2)), ((2, 1, 2, 3), (3, 3, 1)), ((1, 2, 2), (2, 2, 1)), ((1, 1), (1, 1)),
    ((2, 2, 2, 2), (2, 3)), ((2, 0), (0, 3)), ((2, 2, 0), (0, 2)),
)  # fmt: skip
for _a, _b in _MATMUL:
    case("matmul", ops.matmul, spaced(*_a), spaced(*_b, seed=1))
    _left, _right = spaced(*_a, seed=2), spaced(*_b, seed=3)
    case("matmul", lambda a, b=_right: a @ b, spaced(*_a))
    case("matmul", lambda b, a=_left: a @ b, spaced(*_b))
for _lead in ((), (3,), (2, 2), (2, 1, 2)):
    case("linear", ops.linear, spaced(*_lead, 3), spaced(2, 3, seed=1), spaced(2, seed=2))
    case("linear", lambda x, w: ops.linear(x, w), spaced(*_lead, 3), spaced(2, 3, seed=1))
for _tokens in (1, [0, 2, 2], [[1, 1], [1, 0]]):
    case("embedding", lambda t, k=_tokens: ops.embedding(t, k), spaced(3, 2))
case("take_rows", lambda a: ops.take_rows(a, np.array([2, 0])), spaced(3, 2))
case("scatter_rows", lambda a: ops.scatter_rows(a, np.array([3, 1]), 5), spaced(2, 3))


def _seeded_dropout(a: Tensor) -> Tensor:
    mr.manual_seed(5)  # differences need the same mask each time
    return ops.dropout(a, 0.4)


case("dropout", _seeded_dropout, spaced(5, 4))
case("dropout", lambda a: ops.dropout(a, 1.0), spaced(2, 3))
case("dropout", lambda a: ops.dropout(a, 0.5, training=False) * 2.0, spaced(2, 3))

_DOUBLE_USE: dict[str, Callable[[Tensor], Any]] = {
    "add": lambda a: a + a, "subtract": lambda a: a - a * 2.0, "multiply": lambda a: a * a, "divide": lambda a: a / a,
    "power": lambda a: a**a, "matmul": lambda a: a @ a, "transposed": lambda a: a @ a.T, "where": lambda a: ops.where(
        np.eye(3, dtype=bool), a, a), "linear": lambda a: ops.linear(a, a, a[0]), "stack": lambda a: ops.stack([a, a]),
    "diamond": lambda a: (a.tanh() + a.exp()) * a.tanh(), "rows": lambda a: a[[0, 0, 2]] * a[0] + a,
    "softmax": lambda a: a.softmax(0) @ a, "minimum": lambda a: ops.minimum(a, a),
    "pieces": lambda a: a.split(1)[0] * a.split(2)[1],
}  # fmt: skip

HELPERS = {"move", "as_tensor", "as_index", "as_rows", "check_floating", "check_range", "all_below", "linear_operands"}
WITHOUT_GRADIENT = {"compare", "argmax", "argmin"}
"""Their values are tested in test_ops_values.py."""


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", sorted({c.name for c in CASES}))
def test_gradients_match_differences(name: str, layout: str) -> None:
    for number, (_, fn, inputs) in enumerate(c for c in CASES if c.name == name):
        try:
            assert mr.gradcheck(fn, [leaf(values, layout) for values in inputs])
        except Exception as error:
            error.add_note(f"{name}, case {number}: inputs {[v.shape for v in inputs]}")
            raise


@pytest.mark.parametrize("name", sorted({c.name for c in CASES}))
def test_gradients_have_the_shape_and_type_of_their_inputs(name: str, dtype: np.dtype) -> None:
    for _, fn, inputs in (c for c in CASES if c.name == name and c.name != "cast"):
        leaves = [Tensor(values.astype(dtype), requires_grad=True) for values in inputs]
        result = fn(*leaves)
        outputs = [result] if isinstance(result, Tensor) else result
        ops.stack([output.sum() for output in outputs]).sum().backward()
        for x in leaves:
            if x.grad is not None:
                assert (x.grad.shape, x.grad.dtype) == (x.shape, dtype)


@pytest.mark.parametrize("name", sorted(_DOUBLE_USE))
def test_one_tensor_used_twice(name: str) -> None:
    for layout in LAYOUTS:
        assert mr.gradcheck(_DOUBLE_USE[name], leaf(spaced(3, 3, low=0.3), layout))


def test_padding_row_gets_no_gradient() -> None:
    table = leaf(spaced(4, 2))
    ops.embedding(table, [[1, 3, 1], [3, 0, 3]], padding_idx=3).sum().backward()
    assert table.grad is not None
    assert table.grad.tolist() == [[1, 1], [2, 2], [0, 0], [0, 0]]


def test_every_operation_is_covered() -> None:
    public = {
        name for name, value in vars(ops).items()
        if inspect.isfunction(value) and value.__module__.startswith(ops.__name__) and not name.startswith("_")
    }  # fmt: skip
    assert {c.name for c in CASES} == public - HELPERS - WITHOUT_GRADIENT
