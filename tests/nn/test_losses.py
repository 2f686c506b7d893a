"""Every loss equals PyTorch's, in values and gradients, with all options and both dtypes.

Edges too: nothing to average, only ignored targets, logits beyond the range of exp, infinite ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
import minirnn.nn.functional as F
from minirnn import nn
from minirnn.autograd.tensor import Tensor, tensor

torch = pytest.importorskip("torch", reason="PyTorch is the oracle; install minirnn[peers]")
TF = torch.nn.functional

CLASS_SHAPES = {
    "N,C": (5, 7),
    "C": (7,),
    "N,C,d": (3, 7, 4),
    "N,C,d,e": (2, 5, 3, 2),
    "many classes": (4, 131),
    "no rows": (0, 7),
}
Compare = Callable[..., None]

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
reductions = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
weights = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weight"])


@pytest.fixture
def compare(assert_close: Callable[..., None]) -> Compare:
    """``compare(function, dtype, *inputs, target=None, **options)`` with PyTorch's function of that name.

    Values, and the gradients of all inputs under a drawn gradient from above. NumPy options are given as tensors.
    """

    def check(name: Any, dtype: str, *inputs: np.ndarray, target: Any = None, **options: Any) -> None:
        ours, theirs = (getattr(F, name), getattr(TF, name)) if isinstance(name, str) else name
        leaves = [tensor(a, requires_grad=True, dtype=dtype) for a in inputs]
        t_leaves = [torch.tensor(np.asarray(a, dtype), requires_grad=True) for a in inputs]
        t_options = {n: torch.tensor(v.astype(dtype)) if isinstance(v, np.ndarray) else v for n, v in options.items()}
        targets = () if target is None else (target,)
        loss = ours(*leaves, *targets, **options)
        t_loss = theirs(*t_leaves, *map(torch.tensor, targets), **t_options)
        assert loss.dtype == np.dtype(dtype)
        assert_close(loss.numpy(), t_loss.detach().numpy(), dtype, "loss")
        above = np.random.default_rng(11).uniform(0.5, 2, loss.shape).astype(dtype)
        loss.backward(above)
        t_loss.backward(torch.tensor(above))
        for n, (leaf, t_leaf) in enumerate(zip(leaves, t_leaves, strict=True)):
            assert_close(leaf.grad.numpy(), t_leaf.grad.numpy(), dtype, f"gradient of input {n}")

    return check


def classes_of(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 1 else shape[1]


def targets_for(shape: tuple[int, ...]) -> np.ndarray:
    rest = () if len(shape) == 1 else (shape[0], *shape[2:])
    return np.random.default_rng(5).integers(0, classes_of(shape), rest)


# ---------------------------------------------------------------------- cross-entropy and negative log-likelihood


@dtypes
@reductions
@pytest.mark.parametrize("shape", CLASS_SHAPES.values(), ids=CLASS_SHAPES)
@weights
@pytest.mark.parametrize("loss", ["nll_loss", "cross_entropy 0", "cross_entropy 0.1", "cross_entropy 1"])
def test_class_losses_equal_pytorch(
    loss: str, dtype: str, reduction: str, shape: tuple[int, ...], weighted: bool, compare: Compare
) -> None:
    rng, target = np.random.default_rng(1), targets_for(shape)
    options: dict[str, Any] = {"weight": rng.uniform(0.2, 2, classes_of(shape)) if weighted else None}
    if loss == "nll_loss":
        scores = -rng.exponential(1, shape)
    else:
        scores = rng.standard_normal(shape) * 3
        loss, smoothing = loss.split()
        options["label_smoothing"] = float(smoothing)
    for ignore_index in {-100, int(target.flat[0]) if target.size else -100}:
        compare(loss, dtype, scores, target=target, reduction=reduction, ignore_index=ignore_index, **options)


@dtypes
@reductions
@weights
@pytest.mark.parametrize("limit", [1 << 23, 40, 1], ids=["one block", "blocks of rows", "row by row"])
@pytest.mark.parametrize("rows", [(4, 3), (11,), (), (0,)], ids=str)
def test_linear_cross_entropy_equals_pytorch(
    dtype: str,
    reduction: str,
    weighted: bool,
    limit: int,
    rows: tuple[int, ...],
    compare: Compare,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Loss and gradients of input, weight and bias."""
    monkeypatch.setattr(F, "_MAX_LOGITS", limit)
    rng, classes = np.random.default_rng(1), 9
    target = rng.integers(0, classes, rows)
    inputs = rng.standard_normal((*rows, 5)), rng.standard_normal((classes, 5)), rng.standard_normal(classes)

    def ours(x: Tensor, w: Tensor, b: Tensor, target: Any, **options: Any) -> Tensor:
        return F.linear_cross_entropy(x, w, target, linear_bias=b, **options)

    def theirs(x: Any, w: Any, b: Any, target: Any, **options: Any) -> Any:
        losses = TF.cross_entropy(TF.linear(x, w, b).reshape(-1, classes), target.reshape(-1), **options)
        return losses.reshape(rows) if reduction == "none" else losses

    options = {"weight": rng.uniform(0.2, 2, classes) if weighted else None, "reduction": reduction}
    for ignore_index in {-100, int(target.flat[0]) if target.size else -100}:
        for smoothing in (0.0, 0.3):
            more = {"ignore_index": ignore_index, "label_smoothing": smoothing}
            compare((ours, theirs), dtype, *inputs, target=target, **options, **more)


@pytest.mark.skipif(not hasattr(TF, "linear_cross_entropy"), reason="PyTorch 2.13 or newer")
def test_linear_cross_entropy_takes_the_arguments_of_pytorch(compare: Compare) -> None:
    inputs = np.random.default_rng(1).standard_normal((6, 5)), np.random.default_rng(2).standard_normal((9, 5))
    compare("linear_cross_entropy", "float32", *inputs, target=[0, 8, 3, 3, 1, 2], label_smoothing=0.1)
    ours, theirs = (inspect.signature(f.linear_cross_entropy).parameters for f in (F, TF))
    assert [(one.name, one.kind) for one in ours.values()] == [(theirs[name].name, theirs[name].kind) for name in ours]


@pytest.mark.parametrize("limit", [1 << 23, 40])
def test_linear_cross_entropy_computes_what_it_is_asked_for(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of some inputs alone; an input that is not contiguous, or the weight itself; no tape; two losses."""
    monkeypatch.setattr(F, "_MAX_LOGITS", limit)
    rng, target = np.random.default_rng(1), [[1, 0], [8, 3], [2, 2]]
    x, w, b = (tensor(rng.standard_normal(shape), dtype="float64") for shape in ((5, 2, 3), (9, 5), (9,)))

    def losses(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        h = x.permute(2, 1, 0)
        separate = F.cross_entropy(F.linear(h, w, b).reshape(-1, 9), np.ravel(target))
        return F.linear_cross_entropy(h, w, target, linear_bias=b), separate

    for chosen in ([0], [1], [2], [0, 1, 2]):
        found = []
        for number in (0, 1):
            leaves = [tensor(one.data, n in chosen, dtype="float64") for n, one in enumerate((x, w, b))]
            (losses(*leaves)[number] * 3.0 + losses(*leaves)[number]).backward()
            assert [leaf.grad is not None for leaf in leaves] == [n in chosen for n in range(3)]
            found.append([leaf.grad.numpy() for leaf in leaves if leaf.grad is not None])
        for ours, separate in zip(*found, strict=True):
            np.testing.assert_allclose(ours, separate, rtol=1e-12, atol=1e-14)
    w.requires_grad_()
    with mr.no_grad():
        one, other = losses(x, w, b)
    assert not one.requires_grad
    np.testing.assert_allclose(one.item(), other.item(), rtol=1e-14)
    twice = tensor(rng.standard_normal((6, 6)), True, dtype="float64")
    assert mr.gradcheck(lambda t: F.linear_cross_entropy(t, t, [1, 0, 5, 3, 2, 2]), [twice])


def test_linear_cross_entropy_stores_gradients_where_the_optimizer_reads_them() -> None:
    """Also of a weight used twice, or as its own input; and of several backward passes without ``zero_grad``."""
    rng = np.random.default_rng(1)
    start, x, target = rng.standard_normal((6, 6)), rng.standard_normal((4, 6)), [1, 0, 5, 3]
    found = []
    for slots in (False, True):
        w = tensor(start, True, dtype="float64")
        optimizer = mr.optim.SGD([w], lr=0.1)
        if not slots:
            w.grad_slot = None
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(2):
                loss = F.linear_cross_entropy(x, w, target) + F.linear_cross_entropy(F.linear(x, w), w, target)
                more = F.linear_cross_entropy(w, w, range(6)) + F.linear(w, w).sum() + F.embedding([1, 1, 5], w).sum()
                (loss + more).backward()
            found.append(w.grad.numpy().copy())
            optimizer.step()
    for one, other in zip(found[:2], found[2:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@dtypes
@reductions
def test_ignored_targets_alone_give_nan_mean_and_no_gradient(
    name: str, dtype: str, reduction: str, compare: Compare
) -> None:
    """As in PyTorch."""
    target = np.full(4, -100)
    compare(name, dtype, np.random.default_rng(3).standard_normal((4, 6)), target=target, reduction=reduction)
    leaf = tensor(np.ones((4, 6)), requires_grad=True, dtype=dtype)
    loss = getattr(F, name)(leaf, target, reduction=reduction)
    assert np.isnan(loss.numpy()).all() if reduction == "mean" else not loss.numpy().any()
    loss.backward(np.ones(loss.shape, dtype))
    assert not leaf.grad.numpy().any()


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@dtypes
def test_values_of_ignored_rows_do_not_matter(name: str, dtype: str, assert_close: Callable[..., None]) -> None:
    logits = np.random.default_rng(4).standard_normal((3, 5))
    logits[1] = np.nan
    leaf = tensor(logits, requires_grad=True, dtype=dtype)
    loss = getattr(F, name)(leaf, [1, -100, 4])
    loss.backward()
    assert_close(loss.numpy(), getattr(F, name)(tensor(logits[[0, 2]], dtype=dtype), [1, 4]).numpy(), dtype)
    assert np.isfinite(leaf.grad.numpy()).all()
    assert not leaf.grad.numpy()[1].any()


EXTREME_ROWS = {
    "huge": [1e30, -1e30, 1e29, 0.0],
    "one class impossible": [0.5, -np.inf, 1.0, 0.0],
    "two classes impossible": [0.5, -np.inf, -np.inf, 0.0],
    "subnormal": [1e-310, 0.0, -1e-310, 5e-324],
}


@dtypes
@reductions
@pytest.mark.parametrize("row", EXTREME_ROWS.values(), ids=EXTREME_ROWS)
def test_cross_entropy_of_extreme_logits_equals_pytorch(
    dtype: str, reduction: str, row: list[float], compare: Compare
) -> None:
    target = np.array([0, 2 if np.isfinite(row[2]) else 3])
    compare("cross_entropy", dtype, np.array([row, np.zeros(4)]), target=target, reduction=reduction)


@pytest.mark.parametrize("row", [[9990.3, 9991.7, 9990.0, 9992.0], [3e37] * 4], ids=["1e4", "3e37"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_keeps_its_precision_far_from_zero(row: list[float], smoothing: float, compare: Compare) -> None:
    compare("cross_entropy", "float32", np.array([row]), target=[3], label_smoothing=smoothing)


@dtypes
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_an_impossible_target_is_infinite(dtype: str, smoothing: float) -> None:
    loss = F.cross_entropy(tensor([[0.0, -np.inf, 1.0]], dtype=dtype), [1], label_smoothing=smoothing)
    assert loss.item() == np.inf


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # plain NumPy scalars warn, under NUMBA_DISABLE_JIT alone
@pytest.mark.parametrize("row", [[-np.inf] * 3, [np.inf, 0.0, 1.0], [np.nan, 0.0, 1.0]], ids=["-inf", "inf", "nan"])
def test_cross_entropy_of_undefined_logits_is_nan(row: list[float]) -> None:
    leaf = tensor([row], requires_grad=True)
    loss = F.cross_entropy(leaf, [0])
    loss.backward()
    assert np.isnan(loss.item())
    assert np.isnan(leaf.grad.numpy()).any()


@dtypes
def test_cross_entropy_of_one_class_is_zero(dtype: str) -> None:
    leaf = tensor([[2.5], [-1e4], [3.0]], requires_grad=True, dtype=dtype)
    loss = F.cross_entropy(leaf, [0, 0, 0], weight=[0.7], label_smoothing=0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(leaf.grad.numpy(), 0, atol=1e-6)


def test_cross_entropy_is_nll_of_log_softmax_and_equals_a_value_by_hand(assert_close: Callable[..., None]) -> None:
    expected = -(np.log(2 / 8) + np.log(3 / 8)) / 2
    leaf = tensor(np.log([[1.0, 2.0, 5.0], [3.0, 1.0, 4.0]]), requires_grad=True, dtype="float64")
    loss = F.cross_entropy(leaf, [1, 0])
    loss.backward()
    assert_close(loss.numpy(), np.array(expected), "float64")
    p = np.array([[1, 2, 5], [3, 1, 4]]) / 8
    assert_close(leaf.grad.numpy(), (p - [[0, 1, 0], [1, 0, 0]]) / 2, "float64")
    assert_close(F.nll_loss(leaf.log_softmax(1), [1, 0]).numpy(), np.array(expected), "float64")


# --------------------------------------------------------------------------------- binary losses and distances


@dtypes
@reductions
@weights
@pytest.mark.parametrize("loss", ["probabilities", "logits", "logits, pos_weight"])
@pytest.mark.parametrize("shape", [(5, 3), (4,), (), (0, 3)], ids=str)
def test_binary_cross_entropy_equals_pytorch(
    loss: str, dtype: str, reduction: str, weighted: bool, shape: tuple[int, ...], compare: Compare
) -> None:
    rng = np.random.default_rng(6)
    weight = np.asarray(rng.uniform(0.2, 2, shape), dtype) if weighted else None
    options = {"weight": weight, "reduction": reduction}
    if loss == "probabilities":
        compare("binary_cross_entropy", dtype, rng.uniform(0.01, 0.99, shape), rng.uniform(0, 1, shape), **options)
        return
    pos_weight = np.asarray(rng.uniform(0.5, 3, shape[-1:]), dtype) if "pos_weight" in loss else None
    inputs = rng.standard_normal(shape) * 3, rng.uniform(0, 1, shape)
    compare("binary_cross_entropy_with_logits", dtype, *inputs, pos_weight=pos_weight, **options)


@dtypes
@pytest.mark.parametrize("target", [0.0, 1.0, 0.3])
def test_binary_cross_entropy_of_extreme_logits_equals_pytorch(dtype: str, target: float, compare: Compare) -> None:
    logits = np.array([-1e4, -100.0, -30.0, -1e-30, 0.0, 30.0, 100.0, 1e4])
    name = "binary_cross_entropy_with_logits"
    compare(name, dtype, logits, target=np.full(8, target, dtype), reduction="none")
    tail = F.binary_cross_entropy_with_logits(tensor([-50.0], dtype=dtype), [0.0])
    assert tail.item() == pytest.approx(np.exp(-50.0), rel=1e-5)  # not rounded to 0


@dtypes
def test_binary_cross_entropy_of_a_wrong_certainty_is_100(dtype: str) -> None:
    """As in PyTorch, and not infinite."""
    p, y = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0])
    leaf, t_leaf = tensor(p, requires_grad=True, dtype=dtype), torch.tensor(p.astype(dtype), requires_grad=True)
    F.binary_cross_entropy(leaf, y).backward()
    TF.binary_cross_entropy(t_leaf, torch.tensor(y.astype(dtype))).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), t_leaf.grad.numpy(), rtol=1e-6)  # its 1e-12 is a float32
    assert F.binary_cross_entropy(tensor(p, dtype=dtype), y, reduction="none").tolist() == [0, 0, 100, 100]


@dtypes
@reductions
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        *(("huber_loss", {"delta": delta}) for delta in (0.5, 1.0, 3.0)),
        *(("smooth_l1_loss", {"beta": beta}) for beta in (0.0, 0.5, 2.0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (), (0, 3)], ids=str)
def test_distances_equal_pytorch(
    dtype: str, reduction: str, name: str, options: dict[str, float], shape: tuple[int, ...], compare: Compare
) -> None:
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal(shape) * 2, rng.standard_normal(shape)
    if x.size > 4:  # equal values, and differences of exactly delta
        x.flat[:4] = y.flat[:4] = 0.25
        x.flat[1:4] += [0.5, -1.0, 3.0]
    compare(name, dtype, x, y, reduction=reduction, **options)


def test_integer_targets_are_taken_as_numbers() -> None:
    x = tensor([0.5, 2.0], requires_grad=True)
    assert F.mse_loss(x, [1, 0]).item() == pytest.approx((0.25 + 4) / 2)
    assert F.binary_cross_entropy_with_logits(x, np.array([1, 0])).dtype == np.float32


# ------------------------------------------------------------------------------------------ modules, functions


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
)
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
    assert all(f"{option}" in module.__doc__ for option in options)


@dtypes
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_and_log_softmax_equal_pytorch(dtype: str, dim: int, name: str, compare: Compare) -> None:
    compare(name, dtype, np.random.default_rng(10).standard_normal((3, 4, 5)) * 4, dim=dim)


@dtypes
def test_softplus_is_the_logarithm_of_one_plus_exp(dtype: str, compare: Compare) -> None:
    """PyTorch's own softplus is cut off at 20."""
    exact = lambda x: torch.logaddexp(x, torch.zeros_like(x))  # noqa: E731
    compare((F.softplus, exact), dtype, np.array([-1e3, -40.0, -1.0, 0.0, 1.0, 40.0, 1e3]))


@pytest.mark.parametrize("num_classes", [-1, 5])
def test_one_hot_equals_pytorch(num_classes: int) -> None:
    tokens = np.array([[2, 0], [1, 2]])
    ours, theirs = F.one_hot(tokens, num_classes), TF.one_hot(torch.tensor(tokens), num_classes)
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert F.one_hot(2, 4).tolist() == [0, 0, 1, 0]
    assert F.one_hot(np.zeros((0, 3), int), 4).shape == (0, 3, 4)
