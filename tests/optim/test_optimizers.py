"""Optimisers against PyTorch and by hand, their saved state, and what can happen to the flat buffers."""

from __future__ import annotations

import copy
import inspect
import itertools
from typing import Any, ClassVar

import numpy as np
import pytest

import minirnn as mr
from minirnn import kernels
from minirnn.errors import CheckpointError, GradientError, OptionError, ShapeError
from minirnn.kernels import memory
from minirnn.kernels.jit import DISABLED
from minirnn.optim import SGD, Adagrad, Adam, AdamW, FlatParameters, Optimizer, RMSprop, flat

SHAPES = [(3, 5), (7,), (), (2, 1, 9), (33, 17), (1,), (0, 4)]

CASES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {}),
    (SGD, {"lr": 0.03, "weight_decay": 0.1}),
    (SGD, {"lr": 0.03, "momentum": 0.9}),
    (SGD, {"lr": 0.03, "momentum": 0.9, "dampening": 0.4}),
    (SGD, {"lr": 0.03, "momentum": 0.8, "dampening": 0.1, "weight_decay": 0.05}),
    (SGD, {"lr": 0.03, "momentum": 0.9, "nesterov": True}),
    (SGD, {"lr": 0.03, "momentum": 0.9, "nesterov": True, "weight_decay": 0.02}),
    (RMSprop, {}),
    (RMSprop, {"lr": 0.003, "alpha": 0.9, "eps": 1e-4}),
    (RMSprop, {"lr": 0.003, "centered": True}),
    (RMSprop, {"lr": 0.003, "momentum": 0.7}),
    (RMSprop, {"lr": 0.003, "momentum": 0.7, "centered": True, "weight_decay": 0.1}),
    (Adagrad, {}),
    (Adagrad, {"lr": 0.1, "lr_decay": 0.02, "weight_decay": 0.1}),
    (Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-5}),
    (Adam, {}),
    (Adam, {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-5}),
    (Adam, {"lr": 0.02, "weight_decay": 0.1}),
    (AdamW, {}),
    (AdamW, {"lr": 0.02, "betas": (0.5, 0.9), "weight_decay": 0.3}),
]
cases = pytest.mark.parametrize(
    ("kind", "options"), CASES, ids=[f"{kind.__name__}-{'-'.join(options) or 'defaults'}" for kind, options in CASES]
)


def make_params(shapes: Any = SHAPES, dtype: str = "float64", device: str = "cpu") -> list[mr.Tensor]:
    rng = np.random.default_rng(0)
    return [mr.tensor(rng.normal(size=shape), True, dtype, device) for shape in shapes]


def gradient_of(value: np.ndarray, step: int, number: int) -> np.ndarray | None:
    """A gradient that pulls and jitters; some parameters go without one in some steps, the second in the first."""
    if (step + number) % 7 == 3 or (step == 0 and number == 1):
        return None
    noise = np.random.default_rng([step, number]).normal(size=value.shape)
    return (0.5 * value + noise).astype(value.dtype)


def train(optimizer: Optimizer, params: list[mr.Tensor], steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        for number, p in enumerate(params):
            gradient = gradient_of(p.numpy(), step, number)
            if gradient is not None:
                p.add_grad(kernels.on(p.device).asarray(gradient))
        optimizer.step()


def assert_equal(params: list[mr.Tensor], twins: list[mr.Tensor]) -> None:
    for a, b in zip(params, twins, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def set_gradients(params: list[mr.Tensor], value: float = 1.0) -> None:
    for p in params:
        p.grad = None
        p.add_grad(np.full(p.shape, value, p.dtype))


# ------------------------------------------------------------------------------------------ against PyTorch


def torch_train(torch: Any, kind: str, options: dict[str, Any], values: list[np.ndarray], steps: int) -> Any:
    params = [torch.nn.Parameter(torch.tensor(value)) for value in values]
    optimizer = getattr(torch.optim, kind)(params, **options)
    for step in range(steps):
        for number, p in enumerate(params):
            gradient = gradient_of(p.detach().numpy(), step, number)
            p.grad = None if gradient is None else torch.tensor(gradient)
        optimizer.step()
    return optimizer, [p.detach().numpy() for p in params]


@cases
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
def test_trajectories_match_pytorch(
    torch: Any, kind: type[Optimizer], options: dict[str, Any], dtype: str, tolerance: float, device: str
) -> None:
    steps = 100 if device == "cpu" else 5
    params = make_params(dtype=dtype, device=device)
    before = [p.numpy().copy() for p in params]
    _, expected = torch_train(torch, kind.__name__, options, before, steps)
    train(kind(params, **options), params, range(steps))
    for p, start, value in zip(params, before, expected, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.numpy(), value, rtol=tolerance, atol=tolerance * np.abs(value).max(initial=0))
        assert not np.any(p.numpy() == start)


@cases
def test_a_state_of_pytorch_continues(torch: Any, kind: type[Optimizer], options: dict[str, Any]) -> None:
    params = make_params()
    values = [p.numpy().copy() for p in params]
    theirs, reached = torch_train(torch, kind.__name__, options, values, 20)
    _, expected = torch_train(torch, kind.__name__, options, values, 40)
    state = theirs.state_dict()
    for entry in state["state"].values():
        for name, value in entry.items():
            entry[name] = value.numpy() if isinstance(value, torch.Tensor) else value
    optimizer = kind(params, lr=123.0)
    for p, value in zip(params, reached, strict=True):
        p.data[...] = value
    optimizer.load_state_dict(state)
    train(optimizer, params, range(20, 40))
    for p, value in zip(params, expected, strict=True):
        np.testing.assert_allclose(p.numpy(), value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", mr.optim.OPTIMIZERS)
def test_arguments_are_those_of_pytorch_and_documented(torch: Any, name: str) -> None:
    kind = mr.optim.OPTIMIZERS[name]
    left_out = {"amsgrad", "foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
    theirs = inspect.signature(getattr(torch.optim, kind.__name__).__init__).parameters.values()
    ours = inspect.signature(kind.__init__).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs if p.name not in left_out]
    documented = (kind.__doc__ or "").partition("Args:")[2]
    assert all(p.name in documented for p in ours if p.name != "self")


# -------------------------------------------------------------------------------------------------- by hand


CENTERED = 1 - np.cumsum([0.2 / (np.sqrt(0.75) + 0.5), 0.4 / (np.sqrt(4.75 - 1.375**2) + 0.5)])
CORRECTED = 1 - np.cumsum([0.2 / 3, (1 / 3) / (np.sqrt(4.75 / 0.4375) + 1)])


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        # two steps from p = 1 with gradients 2, then 4
        (SGD, {"lr": 0.1, "momentum": 0.5}, [0.8, 0.8 - 0.1 * 5]),
        (SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.75}, [0.8, 0.8 - 0.1 * (1 + 0.25 * 4)]),
        (SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": True}, [1 - 0.1 * 3, 0.7 - 0.1 * (4 + 0.5 * 5)]),
        (SGD, {"lr": 0.1, "weight_decay": 0.5}, [1 - 0.1 * 2.5, 0.75 - 0.1 * 4.375]),
        (RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 1.0}, [1 - 0.1 * 2 / 2, 0.9 - 0.1 * 4 / (np.sqrt(4.75) + 1)]),
        (RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 0.5, "centered": True}, CENTERED),
        (Adagrad, {"lr": 0.3, "lr_decay": 1.0, "eps": 1.0}, [1 - 0.3 * 2 / 3, 0.8 - 0.15 * 4 / (np.sqrt(20) + 1)]),
        (Adagrad, {"lr": 0.3, "initial_accumulator_value": 12, "eps": 2.0}, [0.9, 0.9 - 1.2 / (np.sqrt(32) + 2)]),
        # m = 1, v = 1: corrected 2 and 4; then m = 2.5, v = 4.75: corrected 10/3 and 4.75/0.4375
        (Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0}, CORRECTED),
        (AdamW, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0, "weight_decay": 0.5}, [0.95 - 0.1 * 2 / 3]),
        (Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0, "weight_decay": 1.0}, [1 - 0.1 * 3 / 4]),
    ],
)
def test_first_two_steps_by_hand(kind: type[Optimizer], options: dict[str, Any], expected: list[float]) -> None:
    p = mr.tensor([1.0, 1.0], requires_grad=True, dtype="float64")
    optimizer = kind([p], **options)
    for value, gradient in zip(expected, (2.0, 4.0), strict=False):
        set_gradients([p], gradient)
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), [value, value], rtol=1e-12)


def test_step_with_a_closure_returns_its_loss() -> None:
    p = mr.tensor([3.0, -2.0], requires_grad=True, dtype="float64")
    optimizer = SGD([p], lr=0.25)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss.item()

    assert [optimizer.step(closure) for _ in range(3)] == [13.0, 13.0 / 4, 13.0 / 16]
    assert p.tolist() == [3 / 8, -2 / 8]


def test_momentum_switched_on_later_starts_from_the_gradient() -> None:
    p = mr.tensor([0.0], requires_grad=True, dtype="float64")
    optimizer = SGD([p], lr=1.0, dampening=0.5)
    set_gradients([p])
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}
    optimizer.param_groups[0]["momentum"] = 0.5
    optimizer.step()  # v = 1
    optimizer.step()  # v = 0.5 + 0.5
    assert p.tolist() == [-3.0]


def test_groups_have_their_own_options_and_dtypes() -> None:
    a, b = (mr.tensor([1.0], requires_grad=True, dtype="float64") for _ in range(2))
    c, d = (mr.tensor([1.0], requires_grad=True, dtype=dtype) for dtype in ("float64", "float32"))
    optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": b, "weight_decay": 1.0}], lr=0.25)
    optimizer.add_param_group({"params": [c, d], "lr": 0.0})
    set_gradients([a, b, c, d])
    optimizer.step()
    assert [p.item() for p in (a, b, c, d)] == [0.5, 0.5, 1.0, 1.0]
    optimizer.param_groups[2]["lr"] = 1
    optimizer.step()
    assert [p.item() for p in (c, d)] == [0.0, 0.0]
    assert [p.dtype for p in (c, d)] == [np.float64, np.float32]


def test_an_optimiser_is_one_class() -> None:
    """Signs of the gradient with a moving average (Chen et al. 2023), in array operations."""

    class Lion(Optimizer):
        buffers: ClassVar = {"exp_avg": None}

        def __init__(self, params: Any, lr: float = 0.5, betas: tuple[float, float] = (0.5, 0.75)) -> None:
            super().__init__(params, {"lr": lr, "betas": betas})

        def _update(self, K: Any, group: Any, step: int, p: Any, g: Any, state: Any) -> None:
            m, (beta1, beta2) = state["exp_avg"], group["betas"]
            p -= group["lr"] * K.sign(beta1 * m + (1 - beta1) * g)
            m[...] = beta2 * m + (1 - beta2) * g

    p = mr.tensor([1.0, 1.0], requires_grad=True, dtype="float64")
    optimizer = Lion([p])
    for gradient, expected in [([4.0, -4.0], [0.5, 1.5]), ([-0.5, 2.0], [0.0, 1.0]), ([0.0, 0.0], [-0.5, 1.5])]:
        p.grad = mr.tensor(gradient, dtype="float64")
        optimizer.step()
        assert p.tolist() == expected
    np.testing.assert_array_equal(optimizer.state_dict()["state"][0]["exp_avg"], [0.46875, -0.1875])


# ---------------------------------------------------------------------------------------------------- state


@cases
def test_state_dict_continues_bit_for_bit(kind: type[Optimizer], options: dict[str, Any]) -> None:
    """Also where parameters are bound to other arrays meanwhile, which makes a new layout."""
    straight, params = (make_params(dtype="float32") for _ in range(2))
    train(kind(straight, **options), straight, range(12))
    halted = kind(params, **options)
    train(halted, params, range(5))
    state, resumed = halted.state_dict(), kind(params, lr=77.0)
    kept = copy.deepcopy(state)
    resumed.load_state_dict(state)
    train(resumed, params, range(5, 9))
    np.testing.assert_equal(state, kept)  # what was returned does not change with the optimiser
    for p in params[1:4]:
        p.data = p.data.copy()
    train(resumed, params, range(9, 12))
    assert_equal(straight, params)


def test_state_dict_is_plain() -> None:
    params = make_params()[:2]
    optimizer = Adam(params, lr=0.5)
    train(optimizer, params, range(1))  # the second parameter has no gradient in the first step
    state = optimizer.state_dict()
    assert list(state["state"]) == [0]
    assert state["state"][0]["step"] == 1
    assert type(state["state"][0]["exp_avg"]) is np.ndarray
    gradient = gradient_of(make_params()[0].numpy(), 0, 0)
    np.testing.assert_allclose(state["state"][0]["exp_avg"], 0.1 * gradient, rtol=1e-12)
    assert state["param_groups"] == [
        {"lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": [0, 1]}
    ]


def test_unstepped_parameters_keep_the_initial_accumulator_through_a_round_trip() -> None:
    params = make_params([(2,), (2,)])
    optimizer = Adagrad(params, lr=1.0, initial_accumulator_value=3.0, eps=0.0)
    set_gradients(params[:1])
    optimizer.step()
    again = Adagrad(params, lr=1.0)
    again.load_state_dict(optimizer.state_dict())
    before = params[1].numpy().copy()
    set_gradients(params)
    again.step()
    np.testing.assert_allclose(before - params[1].numpy(), [0.5, 0.5], rtol=1e-12)  # 1 / sqrt(3 + 1)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s["param_groups"].append(s["param_groups"][0]), "do not fit"),
        (lambda s: s["param_groups"][0]["params"].pop(), "do not fit"),
        (lambda s: s["param_groups"][0].pop("betas"), "it has no betas"),
        (lambda s: s["param_groups"][0].update(maximize=True), "made with maximize, which Adam does not have"),
        (lambda s: s["state"].update({"9": s["state"][0]}), "a state for parameter 9, which is in no group"),
        (lambda s: s["state"][0].pop("exp_avg"), "exp_avg is missing"),
        (lambda s: s["state"][0].update(max_exp_avg_sq=np.zeros((3, 5))), "max_exp_avg_sq is unknown"),
        (lambda s: s["state"][0].update(exp_avg=np.zeros((5, 3))), r"\[5, 3\], expected \[3, 5\]"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(damage: Any, message: str) -> None:
    params, twins = make_params(), make_params()
    optimizer, twin = Adam(params), Adam(twins)
    train(optimizer, params, range(3))
    train(twin, twins, range(3))
    state: Any = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 5.0
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(state)
    train(optimizer, params, range(3, 5))
    train(twin, twins, range(3, 5))
    assert_equal(params, twins)


# --------------------------------------------------------------------------------------------- flat buffers


def test_a_step_is_one_update_for_each_run_of_equal_step_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(Adam, "_update", lambda self, K, group, step, p, g, state: calls.append((step, p.size)))
    params = make_params([(8,), (8,), (8,)])
    optimizer = Adam(params)
    set_gradients(params)
    optimizer.step()
    assert calls == [(1, 24)]
    params[1].grad = None
    optimizer.step()
    assert calls[1:] == [(2, 8), (2, 8)]
    set_gradients(params)
    optimizer.step()
    assert calls[3:] == [(3, 8), (2, 8), (3, 8)]


def test_data_and_gradients_lie_in_the_flat_arrays() -> None:
    params = make_params([(2, 3), (5,)])
    values = [p.numpy().copy() for p in params]
    flat = FlatParameters(params)
    assert flat.starts == [0, 8]  # 64 bytes are 8 float64
    assert np.array_equal(flat.data[0:6], values[0].ravel())
    assert np.array_equal(flat.data[8:13], values[1])
    for p in params:
        (p * 2.0).sum().backward()
    assert flat.grad.tolist() == [2.0] * 6 + [0.0] * 2 + [2.0] * 5 + [0.0] * 3
    (params[1] * 3.0).sum().backward()
    assert flat.grad[8:13].tolist() == [5.0] * 5
    flat.data[8] = 42.0
    assert params[1].numpy()[0] == 42.0


@cases
def test_large_parameters_whose_gradients_are_arrays_of_their_own(
    kind: type[Optimizer], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, twins = make_params(), make_params()
    optimizer = kind(params, **options)
    monkeypatch.setattr(flat, "_MAX_SLOT", 100)
    other = kind(twins, **options)
    assert [p.grad_slot is None for p in twins] == [True, False, False, True, True, False, False]
    train(optimizer, params, range(8))
    train(other, twins, range(8))
    for param, twin in zip(params, twins, strict=True):  # a last bit may depend on where an element lies in its array
        np.testing.assert_allclose(twin.numpy(), param.numpy(), rtol=1e-14)


def test_gradient_of_a_large_parameter_is_neither_copied_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "_MAX_SLOT", 1000)
    made, grad_out = [], mr.Tensor.grad_out
    monkeypatch.setattr(mr.Tensor, "grad_out", lambda self: made.append(grad_out(self)) or made[-1])
    lstm, x = mr.nn.LSTM(150, 150), mr.randn(3, 2, 150)
    optimizer = SGD(lstm.parameters(), lr=1.0)
    weights = lstm.weight_hh_l0, lstm.weight_ih_l0
    before = [w.numpy().copy() for w in weights]
    lstm(x)[0].sum().backward()
    gradients = [w.grad.numpy().copy() for w in weights]
    assert all(w.grad.data is own for w, own in zip(weights, made, strict=True))
    optimizer.step()
    for w, start, gradient in zip(weights, before, gradients, strict=True):
        np.testing.assert_array_equal(w.numpy(), start - gradient)
    made.clear()
    free = memory.cached_bytes()
    optimizer.zero_grad()
    assert memory.cached_bytes() >= free + 2 * 600 * 150 * 4
    free = memory.cached_bytes()
    lstm.weight_hh_l0.requires_grad = False
    lstm(x)[0].sum().backward()
    made.clear()
    optimizer.zero_grad()
    assert memory.cached_bytes() == free, "nothing is kept for a gradient that nobody asked for"


def test_assigned_gradient_of_a_large_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "_MAX_SLOT", 10)
    w = mr.tensor(np.zeros((2, 3)), requires_grad=True)
    optimizer = SGD([w], lr=1.0)
    w.grad = mr.tensor(np.arange(6.0).reshape(3, 2).T, dtype="float64")
    optimizer.step()
    assert w.tolist() == [[0, -2, -4], [-1, -3, -5]]
    w.grad = mr.tensor(np.zeros((3, 2)))
    with pytest.raises(GradientError, match=r"parameter 0 has shape \[2, 3\], its gradient \[3, 2\]"):
        optimizer.step()


def test_runs_are_the_longest_possible() -> None:
    params = make_params([(1,)] * 5)
    flat = FlatParameters(params)
    assert flat.runs([0] * 5) == []
    for with_gradient in itertools.product([False, True], repeat=5):
        for p, expected in zip(params, with_gradient, strict=True):
            p.grad = None
            if expected:
                p.add_grad(np.ones(1))
        covered = [i for first, last, _ in flat.runs([0] * 5) for i in range(first, last)]
        assert covered == [i for i in range(5) if with_gradient[i]]
        assert len(flat.runs([0] * 5)) == sum(b and not a for a, b in itertools.pairwise((False, *with_gradient)))
    set_gradients(params)
    assert flat.runs([3, 3, 4, 4, 3]) == [(0, 2, 3), (2, 4, 4), (4, 5, 3)]


def test_module_to_another_dtype_goes_on_in_it() -> None:
    module = mr.nn.Linear(4, 3)
    params = list(module.parameters())
    optimizer = Adam(params, lr=0.125, betas=(0.5, 0.5), eps=0.0)
    set_gradients(params, 2.0)
    optimizer.step()
    module.to("float64")
    before = [p.numpy().copy() for p in params]
    set_gradients(params, 2.0)
    optimizer.step()
    for p, value in zip(params, before, strict=True):
        assert p.dtype == np.float64
        np.testing.assert_allclose(p.numpy(), value - 0.125, rtol=1e-7)  # equal gradients: each step is lr
    state = optimizer.state_dict()["state"]
    assert [entry["step"] for entry in state.values()] == [2, 2]
    np.testing.assert_allclose(state[1]["exp_avg_sq"], [3.0] * 3, rtol=1e-7)


def test_an_assigned_gradient_is_used_and_left_alone() -> None:
    p, q = make_params([(3,), (3,)])
    optimizer = SGD([p, q], lr=1.0)
    before = p.numpy().copy()
    mine = mr.tensor([1.0, 2.0, 3.0], dtype="float64")
    p.grad = mine
    optimizer.step()
    np.testing.assert_allclose(before - p.numpy(), [1.0, 2.0, 3.0], rtol=1e-12)
    mine.data[...] = 10.0  # one gradient tensor, filled again at each step
    optimizer.step()
    np.testing.assert_allclose(before - p.numpy(), [11.0, 12.0, 13.0], rtol=1e-12)
    optimizer.zero_grad()
    assert p.grad is None
    p.add_grad(np.ones(3))
    assert mine.tolist() == [10.0, 10.0, 10.0]
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is not None
    assert p.grad.tolist() == [0.0, 0.0, 0.0]
    assert q.grad is None


def test_a_step_that_fails_updates_nothing() -> None:
    params = make_params([(3,), (3,)])
    optimizer = SGD([{"params": p} for p in params], lr=1.0)
    before = [p.numpy().copy() for p in params]
    set_gradients(params)
    params[1].grad = mr.tensor([1.0])
    with pytest.raises(GradientError, match=r"shape \[3\], its gradient \[1\]"):
        optimizer.step()
    params[1].data = np.zeros(4)
    with pytest.raises(ShapeError, match=r"\[3\], now it has \[4\]; make a new optimiser"):
        optimizer.step()
    np.testing.assert_array_equal(params[0].numpy(), before[0])


def test_two_optimisers_take_turns_on_the_same_parameters() -> None:
    """As do optimisers that are made again for every step and get their state from a state dict."""
    params, twins = make_params(), make_params()

    def make(number: int, params: list[mr.Tensor]) -> Optimizer:
        return Adam(params, lr=0.1) if number else SGD(params, lr=0.1, momentum=0.9)

    pair, states = [make(0, params), make(1, params)], [make(0, twins).state_dict(), make(1, twins).state_dict()]
    for step in range(6):
        train(pair[step % 2], params, range(step, step + 1))
        optimizer = make(step % 2, twins)
        optimizer.load_state_dict(states[step % 2])
        train(optimizer, twins, range(step, step + 1))
        states[step % 2] = optimizer.state_dict()
    assert_equal(params, twins)


def test_gradient_survives_a_second_optimiser() -> None:
    (p,) = make_params([(2,)])
    start = p.numpy().copy()
    one = SGD([p], lr=1.0)
    set_gradients([p], 3.0)
    two = SGD([p], lr=10.0)
    one.step()
    two.step()
    np.testing.assert_allclose(start - p.numpy(), [33.0, 33.0], rtol=1e-12)


def test_results_do_not_depend_on_threads(set_threads: Any) -> None:
    results = []
    for count in (1, 3):
        set_threads(count)
        params = make_params([(1500, 100 if DISABLED else 1500), (3,)], dtype="float32")
        train(Adam(params, lr=0.1), params, range(2))
        results.append(params)
    assert_equal(*results)


# --------------------------------------------------------------------------------------------------- errors


def leaf(dtype: str = "float32") -> mr.Tensor:
    return mr.tensor([1.0, 2.0], requires_grad=True, dtype=dtype)


same = leaf()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([]), "SGD: got an empty list"),
        (lambda: SGD(leaf()), "SGD: expected an ordered iterable of tensors .* got a Tensor"),
        (lambda: SGD({leaf()}), "got a set"),
        (lambda: SGD(mr.nn.Linear(2, 2)), "got a Linear"),
        (lambda: SGD([{"lr": 1.0}]), "expected a group to be a dict with 'params'"),
        (lambda: SGD([np.zeros(3)]), "parameter 0 is a ndarray"),
        (lambda: SGD([leaf(), leaf() * 2.0]), "parameter 1 was computed by mul"),
        (lambda: SGD([mr.tensor([1, 2])]), "parameter 0 holds int64"),
        (lambda: SGD([same, same]), "parameter 1 is here already"),
        (lambda: SGD([{"params": [same]}, {"params": [leaf(), same]}]), "parameter 1 is here already"),
        (lambda: SGD([leaf()], lr=-0.1), "SGD: lr: expected a number of at least 0, got -0.1"),
        (lambda: SGD([leaf()], lr=float("nan")), "got nan"),
        (lambda: SGD([leaf()], lr=float("inf")), "SGD: lr: expected a finite number, got inf"),
        (lambda: SGD([leaf()], lr="0.1"), "got '0.1'"),
        (lambda: SGD([{"params": leaf(), "momentum": -1}]), "momentum: expected a number of at least 0, got -1"),
        (lambda: SGD([leaf()], nesterov=True), "nesterov needs momentum"),
        (lambda: SGD([leaf()], momentum=0.9, dampening=0.1, nesterov=True), "nesterov needs momentum"),
        (lambda: RMSprop([leaf()], alpha=-1.0), "alpha"),
        (lambda: Adagrad([leaf()], initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda: Adam([leaf()], betas=(0.9, 1.0)), r"Adam: betas: expected two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: AdamW([leaf()], betas=(-0.1, 0.9)), "AdamW: betas"),
        (lambda: AdamW([leaf()], weight_decay=-1), "weight_decay"),
        (lambda: FlatParameters([]), "one dtype and device"),
        (lambda: FlatParameters([leaf("float32"), leaf("float64")]), "float32.*float64"),
    ],
)
def test_mistakes_are_named(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()
