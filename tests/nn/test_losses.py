"""Every loss is PyTorch's: values and gradients with all options, both types, at the edges too.

The edges: nothing to average, nothing but ignored targets, logits beyond the range of exp, infinite ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn.nn.functional as F
from minirnn import nn
from minirnn.autograd.tensor import Tensor, tensor

torch = pytest.importorskip("torch", reason="PyTorch is the oracle; install minirnn[peers]")
TF = torch.nn.functional

DTYPES = ("float32", "float64")
REDUCTIONS = ("mean", "sum", "none")
CLASS_SHAPES = {
    "N,C": (5, 7), "C": (7,), "N,C,d": (3, 7, 4), "N,C,d,e": (2, 5, 3, 2), "many classes": (4, 131), "no rows": (0, 7),
}  # fmt: skip
Close = Callable[..., None]


def compare(
    assert_close: Close, dtype: str, ours: Callable[..., Tensor], theirs: Callable[..., Any], *inputs: np.ndarray,
    frozen: int = 0,
) -> None:  # fmt: skip
    """Values, and gradients of all inputs but the last ``frozen``, under a drawn gradient from above."""
    differentiable = len(inputs) - frozen
    leaves = [tensor(a, requires_grad=n < differentiable, dtype=dtype) for n, a in enumerate(inputs)]
    t_leaves = [
        torch.tensor(np.asarray(a, dtype), requires_grad=n < differentiable) for n, a in enumerate(inputs)
    ]  # fmt: skip
    loss, t_loss = ours(*leaves), theirs(*t_leaves)
    assert loss.dtype == np.dtype(dtype)
    assert_close(loss.numpy(), t_loss.detach().numpy(), dtype, "loss")
    above = np.random.default_rng(11).uniform(0.5, 2, loss.shape).astype(dtype)
    loss.backward(above)
    t_loss.backward(torch.tensor(above))
    for n in range(differentiable):
        grad = leaves[n].grad
        assert grad is not None
        assert_close(grad.numpy(), t_leaves[n].grad.numpy(), dtype, f"gradient of input {n}")


def classes_of(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[1]


def targets_for(shape: tuple[int, ...], seed: int = 5) -> np.ndarray:
    rest = () if len(shape) == 1 else (shape[0], *shape[2:])
    return np.random.default_rng(seed).integers(0, classes_of(shape), rest)


# --------------------------------------------------------------------------------------- cross-entropy and nll


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", CLASS_SHAPES.values(), ids=CLASS_SHAPES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy(
    dtype: str, reduction: str, shape: tuple[int, ...], weighted: bool, smoothing: float, assert_close: Close
) -> None:
    rng = np.random.default_rng(1)
    logits, target = rng.standard_normal(shape) * 3, targets_for(shape)
    weight = rng.uniform(0.2, 2, classes_of(shape)) if weighted else None
    ignored = int(target.flat[0]) if target.size else -100
    t_weight = None if weight is None else torch.tensor(weight.astype(dtype))
    for ignore_index in {-100, ignored}:
        options = {"ignore_index": ignore_index, "reduction": reduction, "label_smoothing": smoothing}
        compare(
            assert_close, dtype,
            lambda x, o=options: F.cross_entropy(x, target, weight=weight, **o),
            lambda x, o=options: TF.cross_entropy(x, torch.tensor(target), weight=t_weight, **o),
            logits,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", CLASS_SHAPES.values(), ids=CLASS_SHAPES)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])
def test_nll_loss(dtype: str, reduction: str, shape: tuple[int, ...], weighted: bool, assert_close: Close) -> None:
    rng = np.random.default_rng(2)
    log_p, target = -rng.exponential(1, shape), targets_for(shape)
    weight = rng.uniform(0.2, 2, classes_of(shape)) if weighted else None
    ignored = int(target.flat[0]) if target.size else -100
    t_weight = None if weight is None else torch.tensor(weight.astype(dtype))
    for ignore_index in {-100, ignored}:
        options = {"ignore_index": ignore_index, "reduction": reduction}
        compare(
            assert_close, dtype,
            lambda x, o=options: F.nll_loss(x, target, weight=weight, **o),
            lambda x, o=options: TF.nll_loss(x, torch.tensor(target), weight=t_weight, **o),
            log_p,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_of_ignored_targets_alone(name: str, dtype: str, reduction: str, assert_close: Close) -> None:
    """As in PyTorch a mean over nothing is NaN, a sum 0, and no gradient flows."""
    target = np.full(4, -100)
    compare(
        assert_close, dtype,
        lambda x: getattr(F, name)(x, target, reduction=reduction),
        lambda x: getattr(TF, name)(x, torch.tensor(target), reduction=reduction),
        np.random.default_rng(3).standard_normal((4, 6)),
    )  # fmt: skip
    leaf = tensor(np.ones((4, 6)), requires_grad=True, dtype=dtype)
    loss = getattr(F, name)(leaf, target, reduction=reduction)
    assert np.isnan(loss.numpy()).all() if reduction == "mean" else not loss.numpy().any()
    loss.backward(np.ones(loss.shape, dtype))
    assert leaf.grad is not None
    assert not leaf.grad.numpy().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_ignored_rows_may_hold_anything(dtype: str, assert_close: Close) -> None:
    logits = np.random.default_rng(4).standard_normal((3, 5))
    logits[1] = np.nan
    for name in ("cross_entropy", "nll_loss"):
        leaf = tensor(logits, requires_grad=True, dtype=dtype)
        loss = getattr(F, name)(leaf, [1, -100, 4])
        loss.backward()
        alone = getattr(F, name)(tensor(logits[[0, 2]], dtype=dtype), [1, 4])
        assert_close(loss.numpy(), alone.numpy(), dtype)
        assert leaf.grad is not None
        assert np.isfinite(leaf.grad.numpy()).all()
        assert not leaf.grad.numpy()[1].any()


EXTREME_ROWS = {
    "huge": [1e30, -1e30, 1e29, 0.0],
    "a class ruled out": [0.5, -np.inf, 1.0, 0.0],
    "two ruled out": [0.5, -np.inf, -np.inf, 0.0],
    "subnormal": [1e-310, 0.0, -1e-310, 5e-324],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("row", EXTREME_ROWS.values(), ids=EXTREME_ROWS)
def test_cross_entropy_of_extreme_logits(dtype: str, reduction: str, row: list[float], assert_close: Close) -> None:
    target = np.array([0, 2 if np.isfinite(row[2]) else 3])
    logits = np.array([row, np.zeros(4)])
    compare(
        assert_close, dtype,
        lambda x: F.cross_entropy(x, target, reduction=reduction),
        lambda x: TF.cross_entropy(x, torch.tensor(target), reduction=reduction),
        logits,
    )  # fmt: skip


@pytest.mark.parametrize("row", [[9990.3, 9991.7, 9990.0, 9992.0], [3e37] * 4], ids=["1e4", "3e37"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_keeps_its_digits_far_from_zero(row: list[float], smoothing: float, assert_close: Close) -> None:
    compare(
        assert_close, "float32",
        lambda x: F.cross_entropy(x, [3], label_smoothing=smoothing),
        lambda x: TF.cross_entropy(x, torch.tensor([3]), label_smoothing=smoothing),
        np.array([row]),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_an_impossible_target_is_infinite(dtype: str, smoothing: float) -> None:
    loss = F.cross_entropy(tensor([[0.0, -np.inf, 1.0]], dtype=dtype), [1], label_smoothing=smoothing)
    assert loss.item() == np.inf


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # plain NumPy scalars warn, under NUMBA_DISABLE_JIT alone
@pytest.mark.parametrize("row", [[-np.inf] * 3, [np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0]], ids=["-inf", "inf", "nan"])
def test_cross_entropy_does_not_hide_what_is_no_number(row: list[float]) -> None:
    leaf = tensor([row], requires_grad=True)
    loss = F.cross_entropy(leaf, [0])
    loss.backward()
    assert np.isnan(loss.item())
    assert leaf.grad is not None
    assert np.isnan(leaf.grad.numpy()).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_is_certain(dtype: str) -> None:
    leaf = tensor([[2.5], [-1e4], [3.0]], requires_grad=True, dtype=dtype)
    loss = F.cross_entropy(leaf, [0, 0, 0], weight=[0.7], label_smoothing=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), 0, atol=1e-6)


def test_cross_entropy_is_nll_of_log_softmax_and_a_hand_worked_value(assert_close: Close) -> None:
    logits = np.log([[1.0, 2.0, 5.0], [3.0, 1.0, 4.0]])
    expected = -(np.log(2 / 8) + np.log(3 / 8)) / 2
    leaf = tensor(logits, requires_grad=True, dtype="float64")
    loss = F.cross_entropy(leaf, [1, 0])
    loss.backward()
    assert_close(loss.numpy(), np.array(expected), "float64")
    p = np.array([[1, 2, 5], [3, 1, 4]]) / 8
    assert leaf.grad is not None
    assert_close(leaf.grad.numpy(), (p - [[0, 1, 0], [1, 0, 0]]) / 2, "float64")
    assert_close(F.nll_loss(leaf.log_softmax(1), [1, 0]).numpy(), np.array(expected), "float64")


# ------------------------------------------------------------------------------------------- binary and distances


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])
@pytest.mark.parametrize("pos", [False, True], ids=["plain", "pos_weight"])
@pytest.mark.parametrize("shape", [(5, 3), (4,), (), (0, 3)], ids=str)
def test_binary_cross_entropy_with_logits(
    dtype: str, reduction: str, weighted: bool, pos: bool, shape: tuple[int, ...], assert_close: Close
) -> None:
    rng = np.random.default_rng(6)
    weight = rng.uniform(0.2, 2, shape).astype(dtype) if weighted else None
    pos_weight = rng.uniform(0.5, 3, shape[-1:]).astype(dtype) if pos else None
    t_options = {
        "weight": None if weight is None else torch.tensor(weight),
        "pos_weight": None if pos_weight is None else torch.tensor(pos_weight),
    }
    compare(
        assert_close, dtype,
        lambda x, y: F.binary_cross_entropy_with_logits(x, y, weight, reduction, pos_weight),
        lambda x, y: TF.binary_cross_entropy_with_logits(x, y, reduction=reduction, **t_options),
        rng.standard_normal(shape) * 3, rng.uniform(0, 1, shape), frozen=0,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_binary_cross_entropy_with_extreme_logits(dtype: str, target: float, assert_close: Close) -> None:
    logits = np.array([-1e4, -100.0, -30.0, -1e-30, 0.0, 30.0, 100.0, 1e4])
    compare(
        assert_close, dtype,
        lambda x: F.binary_cross_entropy_with_logits(x, np.full(8, target, dtype), reduction="none"),
        lambda x: TF.binary_cross_entropy_with_logits(x, torch.full((8,), target, dtype=x.dtype), reduction="none"),
        logits,
    )  # fmt: skip
    tail = F.binary_cross_entropy_with_logits(tensor([-50.0], dtype=dtype), [0.0])
    assert tail.item() == pytest.approx(np.exp(-50.0), rel=1e-5)  # small is not rounded to nothing


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])
@pytest.mark.parametrize("shape", [(5, 3), (), (0, 3)], ids=str)
def test_binary_cross_entropy(
    dtype: str, reduction: str, weighted: bool, shape: tuple[int, ...], assert_close: Close
) -> None:
    rng = np.random.default_rng(7)
    weight = rng.uniform(0.2, 2, shape).astype(dtype) if weighted else None
    t_weight = None if weight is None else torch.tensor(weight)
    compare(
        assert_close, dtype,
        lambda p, y: F.binary_cross_entropy(p, y, weight, reduction),
        lambda p, y: TF.binary_cross_entropy(p, y, t_weight, reduction=reduction),
        rng.uniform(0.01, 0.99, shape), rng.uniform(0, 1, shape),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_of_certainty(dtype: str) -> None:
    """Wrong certainty costs 100, as in PyTorch, and not infinity."""
    p, y = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    leaf, t_leaf = tensor(p, requires_grad=True, dtype=dtype), torch.tensor(p.astype(dtype), requires_grad=True)
    F.binary_cross_entropy(leaf, y).backward()
    TF.binary_cross_entropy(t_leaf, torch.tensor(y.astype(dtype))).backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), t_leaf.grad.numpy(), rtol=1e-6)  # its 1e-12 is a float32
    assert F.binary_cross_entropy(tensor(p, dtype=dtype), y, reduction="none").tolist() == [0, 0, 100, 100]


DISTANCES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "mse": (F.mse_loss, TF.mse_loss),
    "l1": (F.l1_loss, TF.l1_loss),
    **{
        f"huber {d}": (
            lambda x, y, d=d, **o: F.huber_loss(x, y, delta=d, **o),
            lambda x, y, d=d, **o: TF.huber_loss(x, y, delta=d, **o),
        )
        for d in (0.5, 1.0, 3.0)
    },
    **{
        f"smooth l1 {b}": (
            lambda x, y, b=b, **o: F.smooth_l1_loss(x, y, beta=b, **o),
            lambda x, y, b=b, **o: TF.smooth_l1_loss(x, y, beta=b, **o),
        )
        for b in (0.0, 0.5, 2.0)
    },
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (), (0, 3)], ids=str)
def test_distances(dtype: str, reduction: str, name: str, shape: tuple[int, ...], assert_close: Close) -> None:
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal(shape) * 2, rng.standard_normal(shape)
    if x.size > 4:  # equality, and exactly at the bends
        x.flat[:4] = y.flat[:4] = 0.25
        x.flat[1:4] += [0.5, -1.0, 3.0]
    ours, theirs = DISTANCES[name]
    compare(
        assert_close,
        dtype,
        lambda x, y: ours(x, y, reduction=reduction),
        lambda x, y: theirs(x, y, reduction=reduction),
        x,
        y,
    )


def test_integer_targets_are_taken_as_numbers() -> None:
    x = tensor([0.5, 2.0], requires_grad=True)
    assert F.mse_loss(x, [1, 0]).item() == pytest.approx((0.25 + 4) / 2)
    assert F.binary_cross_entropy_with_logits(x, np.array([1, 0])).dtype == np.float32


# -------------------------------------------------------------------------------------------- modules, functions


WEIGHTED = {"weight": [1.0, 2.0, 3.0], "reduction": "sum"}
CLASS_OPTIONS = WEIGHTED | {"ignore_index": 1}


@pytest.mark.parametrize(
    ("module", "function", "options"),
    [
        (nn.CrossEntropyLoss, F.cross_entropy, CLASS_OPTIONS | {"label_smoothing": 0.3}),
        (nn.NLLLoss, F.nll_loss, CLASS_OPTIONS),
        (nn.BCEWithLogitsLoss, F.binary_cross_entropy_with_logits, WEIGHTED | {"pos_weight": 2.5}),
        (nn.BCELoss, F.binary_cross_entropy, WEIGHTED),
        (nn.MSELoss, F.mse_loss, {"reduction": "sum"}),
        (nn.L1Loss, F.l1_loss, {"reduction": "sum"}),
        (nn.HuberLoss, F.huber_loss, {"reduction": "sum", "delta": 0.1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)  # fmt: skip
def test_every_option_of_a_loss_module_reaches_its_function(
    module: type, function: Callable[..., Tensor], options: dict[str, Any]
) -> None:
    rng = np.random.default_rng(9)
    x = tensor(rng.uniform(0.1, 0.9, (4, 3)))
    y: Any = [0, 1, 2, 0] if "ignore_index" in options else rng.uniform(0, 1, (4, 3)).astype(np.float32)
    assert module(**options)(x, y).item() == function(x, y, **options).item()
    for left_out in options:  # each option changes the result, so each is passed on
        rest = {name: value for name, value in options.items() if name != left_out}
        assert module(**rest)(x, y).tolist() != function(x, y, **options).tolist(), left_out
    assert module()(x, y).item() == function(x, y).item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_log_softmax_and_softplus(dtype: str, assert_close: Close) -> None:
    x = np.random.default_rng(10).standard_normal((3, 4, 5)) * 4
    for dim in (0, 1, -1):
        compare(assert_close, dtype, lambda x, d=dim: F.softmax(x, d), lambda x, d=dim: TF.softmax(x, d), x)
        compare(assert_close, dtype, lambda x, d=dim: F.log_softmax(x, d), lambda x, d=dim: TF.log_softmax(x, d), x)
    exact = lambda x: torch.logaddexp(x, torch.zeros_like(x))  # noqa: E731 - PyTorch's own softplus is cut off at 20
    compare(assert_close, dtype, F.softplus, exact, np.array([-1e3, -40.0, -1.0, 0.0, 1.0, 40.0, 1e3]))


def test_one_hot() -> None:
    tokens = np.array([[2, 0], [1, 2]])
    np.testing.assert_array_equal(F.one_hot(tokens).numpy(), TF.one_hot(torch.tensor(tokens)).numpy())
    np.testing.assert_array_equal(F.one_hot(tokens, 5).numpy(), TF.one_hot(torch.tensor(tokens), 5).numpy())
    assert F.one_hot(2, 4).tolist() == [0, 0, 1, 0]
    assert F.one_hot(np.zeros((0, 3), int), 4).shape == (0, 3, 4)
