"""Optimisers against live PyTorch, by hand, and over everything that can happen to the flat buffers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import kernels
from minirnn.errors import CheckpointError, GradientError, OptionError, ShapeError
from minirnn.optim import SGD, Adagrad, Adam, AdamW, FlatParameters, Optimizer, RMSprop

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


def make_params(
    seed: int = 0, dtype: str = "float64", shapes: list[tuple[int, ...]] = SHAPES, device: str = "cpu"
) -> list[mr.Tensor]:
    rng = np.random.default_rng(seed)
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


def set_gradients(params: list[mr.Tensor], value: float = 1.0) -> None:
    for p in params:
        p.grad = None
        p.add_grad(np.full(p.shape, value, p.dtype))


# ------------------------------------------------------------------------------------------ against PyTorch


def torch_train(kind: str, options: dict[str, Any], values: list[np.ndarray], steps: int) -> Any:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
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
def test_many_steps_are_those_of_pytorch(
    kind: type[Optimizer], options: dict[str, Any], dtype: str, tolerance: float, device: str
) -> None:
    steps = 100 if device == "cpu" else 5
    params = make_params(dtype=dtype, device=device)
    before = [p.numpy().copy() for p in params]
    _, expected = torch_train(kind.__name__, options, before, steps)
    optimizer = kind(params, **options)
    train(optimizer, params, range(steps))
    for p, start, value in zip(params, before, expected, strict=True):
        assert p.dtype == dtype
        np.testing.assert_allclose(p.numpy(), value, rtol=tolerance, atol=tolerance * np.abs(value).max(initial=0))
        assert not np.any(p.numpy() == start)


@cases
def test_defaults_and_argument_order_are_those_of_pytorch(kind: type[Optimizer], options: dict[str, Any]) -> None:
    import inspect

    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    left_out = {"amsgrad", "foreach", "maximize", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
    theirs = inspect.signature(getattr(torch.optim, kind.__name__).__init__).parameters.values()
    ours = inspect.signature(kind.__init__).parameters.values()
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs if p.name not in left_out]


@cases
def test_state_of_pytorch_is_taken_over(kind: type[Optimizer], options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    params = make_params()
    values = [p.numpy().copy() for p in params]
    theirs, reached = torch_train(kind.__name__, options, values, 20)
    _, expected = torch_train(kind.__name__, options, values, 40)
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


# -------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        # two steps from p = 1 with gradients 2, then 4
        (SGD, {"lr": 0.1, "momentum": 0.5}, [0.8, 0.8 - 0.1 * 5]),
        (SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.75}, [0.8, 0.8 - 0.1 * (1 + 0.25 * 4)]),
        (SGD, {"lr": 0.1, "momentum": 0.5, "nesterov": True}, [1 - 0.1 * 3, 0.7 - 0.1 * (4 + 0.5 * 5)]),
        (SGD, {"lr": 0.1, "weight_decay": 0.5}, [1 - 0.1 * 2.5, 0.75 - 0.1 * 4.375]),
        (RMSprop, {"lr": 0.1, "alpha": 0.75, "eps": 1.0}, [1 - 0.1 * 2 / 2, 0.9 - 0.1 * 4 / (np.sqrt(4.75) + 1)]),
        (
            RMSprop,
            {"lr": 0.1, "alpha": 0.75, "eps": 0.5, "centered": True},
            [1 - 0.2 / (np.sqrt(0.75) + 0.5), 1 - 0.2 / (np.sqrt(0.75) + 0.5) - 0.4 / (np.sqrt(4.75 - 1.375**2) + 0.5)],
        ),
        (Adagrad, {"lr": 0.3, "lr_decay": 1.0, "eps": 1.0}, [1 - 0.3 * 2 / 3, 0.8 - 0.15 * 4 / (np.sqrt(20) + 1)]),
        (Adagrad, {"lr": 0.3, "initial_accumulator_value": 12, "eps": 2.0}, [0.9, 0.9 - 1.2 / (np.sqrt(32) + 2)]),
        # m = 1, v = 1: corrected 2 and 4; then m = 2.5, v = 4.75: corrected 10/3 and 4.75/0.4375
        (
            Adam,
            {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0},
            [1 - 0.1 * 2 / 3, 1 - 0.2 / 3 - 0.1 * (10 / 3) / (np.sqrt(4.75 / 0.4375) + 1)],
        ),
        (AdamW, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0, "weight_decay": 0.5}, [0.95 - 0.1 * 2 / 3]),
        (Adam, {"lr": 0.1, "betas": (0.5, 0.75), "eps": 1.0, "weight_decay": 1.0}, [1 - 0.1 * 3 / 4]),
    ],
)
def test_first_steps_by_hand(kind: type[Optimizer], options: dict[str, Any], expected: list[float]) -> None:
    p = mr.tensor([1.0, 1.0], requires_grad=True, dtype="float64")
    optimizer = kind([p], **options)
    for value, gradient in zip(expected, (2.0, 4.0), strict=False):
        set_gradients([p], gradient)
        optimizer.step()
        np.testing.assert_allclose(p.numpy(), [value, value], rtol=1e-12)


def test_backward_step_and_closure_minimise() -> None:
    p = mr.tensor([3.0, -2.0], requires_grad=True, dtype="float64")
    optimizer = SGD([p], lr=0.25)

    def closure() -> mr.Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert losses == [13.0, 13.0 / 4, 13.0 / 16]
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


def test_groups_have_their_own_options() -> None:
    a, b, c = (mr.tensor([1.0], requires_grad=True, dtype="float64") for _ in range(3))
    optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": b, "weight_decay": 1.0}], lr=0.25)
    optimizer.add_param_group({"params": [c], "lr": 0.0})
    set_gradients([a, b, c])
    optimizer.step()
    assert [p.item() for p in (a, b, c)] == [0.5, 0.5, 1.0]
    optimizer.param_groups[2]["lr"] = 1
    optimizer.step()
    assert c.item() == 0.0


def test_mixed_dtypes_in_one_group() -> None:
    a = mr.tensor([1.0], requires_grad=True, dtype="float64")
    b = mr.tensor([1.0], requires_grad=True, dtype="float32")
    optimizer = Adam([a, b], lr=0.5, eps=0.0)
    set_gradients([a, b])
    optimizer.step()
    assert (a.dtype, b.dtype) == (np.float64, np.float32)
    assert a.item() == pytest.approx(0.5, rel=1e-12)
    assert b.item() == pytest.approx(0.5, rel=1e-6)


# ---------------------------------------------------------------------------------------------------- state


@cases
def test_state_dict_continues_bit_for_bit(kind: type[Optimizer], options: dict[str, Any]) -> None:
    straight, first, second = (make_params(dtype="float32") for _ in range(3))
    train(kind(straight, **options), straight, range(12))

    optimizer = kind(first, **options)
    train(optimizer, first, range(5))
    state = optimizer.state_dict()
    kept = {i: {name: np.array(v) for name, v in entry.items()} for i, entry in state["state"].items()}
    train(optimizer, first, range(5, 6))  # what was handed out must not move with the optimiser
    for index, entry in state["state"].items():
        for name, value in entry.items():
            assert np.array_equal(value, kept[index][name])

    resumed = kind(second, lr=77.0)
    train(kind(second, **options), second, range(5))
    resumed.load_state_dict(state)
    train(resumed, second, range(5, 12))
    for a, b in zip(straight, second, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


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
    params = make_params(shapes=[(2,), (2,)])
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
    ("break_it", "message"),
    [
        (lambda s: s["param_groups"].append(s["param_groups"][0]), "do not fit"),
        (lambda s: s["param_groups"][0]["params"].pop(), "do not fit"),
        (lambda s: s["param_groups"][0].pop("betas"), "betas"),
        (lambda s: s["state"][0].pop("exp_avg"), "exp_avg is missing"),
        (lambda s: s["state"][0].update(max_exp_avg_sq=np.zeros((3, 5))), "max_exp_avg_sq is unknown"),
        (lambda s: s["state"][0].update(exp_avg=np.zeros((5, 3))), r"\[5, 3\], expected \[3, 5\]"),
    ],
)
def test_state_that_does_not_fit_changes_nothing(break_it: Any, message: str) -> None:
    params, twins = make_params(), make_params()
    optimizer, twin = Adam(params), Adam(twins)
    train(optimizer, params, range(3))
    train(twin, twins, range(3))
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 5.0
    break_it(state)
    with pytest.raises(CheckpointError, match=message):
        optimizer.load_state_dict(state)
    train(optimizer, params, range(3, 5))
    train(twin, twins, range(3, 5))
    for a, b in zip(params, twins, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


# --------------------------------------------------------------------------------------------- flat buffers


def test_one_step_is_one_kernel_call_and_split_where_steps_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    original = Adam._update

    def counted(self: Any, kernel: Any, group: Any, step: int, p: Any, *rest: Any) -> None:
        calls.append((step, p.size))
        original(self, kernel, group, step, p, *rest)

    monkeypatch.setattr(Adam, "_update", counted)
    params = make_params(shapes=[(8,), (8,), (8,)])
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
    params = make_params(shapes=[(2, 3), (5,)])
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


def test_runs_are_the_longest_possible() -> None:
    params = make_params(shapes=[(1,)] * 5)
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


@cases
def test_rebinding_data_keeps_the_trajectory(kind: type[Optimizer], options: dict[str, Any]) -> None:
    params, twins = make_params(), make_params()
    optimizer, twin = kind(params, **options), kind(twins, **options)
    train(twin, twins, range(10))
    train(optimizer, params, range(4))
    for p in params[1:4]:
        p.data = p.data.copy()
    train(optimizer, params, range(4, 10))
    for a, b in zip(params, twins, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


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


def test_assigned_gradient_is_used_and_left_alone() -> None:
    p, q = make_params(shapes=[(3,), (3,)])
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
    p.add_grad(np.ones(3))
    assert mine.tolist() == [10.0, 10.0, 10.0]
    p.grad = mr.tensor([1.0])
    with pytest.raises(GradientError, match=r"shape \[3\], its gradient \[1\]"):
        optimizer.step()


def test_changed_shape_is_refused() -> None:
    (p,) = make_params(shapes=[(3,)])
    optimizer = SGD([p])
    p.data = np.zeros((4,))
    with pytest.raises(ShapeError, match=r"\[3\], now it has \[4\]"):
        optimizer.step()


def test_two_optimisers_take_turns_on_the_same_parameters() -> None:
    params, twins = make_params(), make_params()
    one, two = Adam(params, lr=0.1), SGD(params, lr=0.1, momentum=0.9)
    for step in range(6):
        optimizer = one if step % 2 else two
        train(optimizer, params, range(step, step + 1))
    # the twins get a fresh optimiser for each step, which hands its state on as a state dict
    kinds: list[Any] = [lambda: Adam(twins, lr=0.1), lambda: SGD(twins, lr=0.1, momentum=0.9)]
    states: list[Any] = [None, None]
    for step in range(6):
        which = 0 if step % 2 else 1
        optimizer = kinds[which]()
        if states[which] is not None:
            optimizer.load_state_dict(states[which])
        train(optimizer, twins, range(step, step + 1))
        states[which] = optimizer.state_dict()
    for a, b in zip(params, twins, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def test_gradient_survives_a_second_optimiser() -> None:
    (p,) = make_params(shapes=[(2,)])
    start = p.numpy().copy()
    one = SGD([p], lr=1.0)
    set_gradients([p], 3.0)
    two = SGD([p], lr=10.0)
    one.step()
    two.step()
    np.testing.assert_allclose(start - p.numpy(), [33.0, 33.0], rtol=1e-12)


def test_results_do_not_depend_on_threads() -> None:
    threads = mr.get_num_threads()
    results = []
    try:
        for count in (1, 3):
            mr.set_num_threads(count)
            params = make_params(dtype="float32", shapes=[(1500, 1500), (3,)])
            optimizer = Adam(params, lr=0.1)
            train(optimizer, params, range(2))
            results.append(params[0].numpy().copy())
    finally:
        mr.set_num_threads(threads)
    assert np.array_equal(*results)


# --------------------------------------------------------------------------------------------------- errors


def leaf(dtype: str = "float32") -> mr.Tensor:
    return mr.tensor([1.0, 2.0], requires_grad=True, dtype=dtype)


same = leaf()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD([]), "SGD: got an empty list"),
        (lambda: SGD(leaf()), "SGD: params must be an ordered iterable .* got a Tensor"),
        (lambda: SGD({leaf()}), "got a set"),
        (lambda: SGD(mr.nn.Linear(2, 2)), "got a Linear"),
        (lambda: SGD([{"lr": 1.0}]), "a group must be a dict with 'params'"),
        (lambda: SGD([np.zeros(3)]), "parameter 0 is a ndarray"),
        (lambda: SGD([leaf(), leaf() * 2.0]), "parameter 1 was computed by mul"),
        (lambda: SGD([mr.tensor([1, 2])]), "parameter 0 holds int64"),
        (lambda: SGD([same, same]), "parameter 1 is here already"),
        (lambda: SGD([{"params": [same]}, {"params": [leaf(), same]}]), "parameter 1 is here already"),
        (lambda: SGD([leaf()], lr=-0.1), "SGD: lr must be a finite number of at least 0, got -0.1"),
        (lambda: SGD([leaf()], lr=float("nan")), "got nan"),
        (lambda: SGD([leaf()], lr="0.1"), "got '0.1'"),
        (lambda: SGD([{"params": leaf(), "momentum": -1}]), "momentum must be .* got -1"),
        (lambda: SGD([leaf()], nesterov=True), "nesterov needs momentum"),
        (lambda: SGD([leaf()], momentum=0.9, dampening=0.1, nesterov=True), "nesterov needs momentum"),
        (lambda: RMSprop([leaf()], alpha=-1.0), "alpha"),
        (lambda: Adagrad([leaf()], initial_accumulator_value=-1.0), "initial_accumulator_value"),
        (lambda: Adam([leaf()], betas=(0.9, 1.0)), r"Adam: betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        (lambda: AdamW([leaf()], betas=(-0.1, 0.9)), "AdamW: betas"),
        (lambda: AdamW([leaf()], weight_decay=-1), "weight_decay"),
        (lambda: FlatParameters([]), "one dtype and device"),
        (lambda: FlatParameters([leaf("float32"), leaf("float64")]), "float32.*float64"),
    ],
)
def test_wrong_options(make: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_gradients_are_forgotten_or_filled_with_zeros() -> None:
    p, untouched = make_params(shapes=[(3,), (2,)])
    optimizer = SGD([p, untouched])
    p.add_grad(np.ones(3))
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is not None
    assert p.grad.tolist() == [0, 0, 0]
    assert untouched.grad is None
    optimizer.zero_grad(set_to_none=True)
    assert p.grad is None
