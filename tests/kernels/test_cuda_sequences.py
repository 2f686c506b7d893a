"""Recurrent layers, attention and sampling on the GPU against those of the CPU: values and every gradient.

Without a GPU they run in Numba's simulator, with NUMBA_ENABLE_CUDASIM=1, which is why sizes are small.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn import cells
from minirnn.errors import DeviceError, OptionError
from minirnn.kernels import cpu
from minirnn.kernels.contract import Noise, RecurrentWeights, TokenModel
from minirnn.kernels.plan import Plan, make_plan
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps

try:
    from minirnn.kernels.cuda import attention, generate, launch_plan, persistent, recurrence
    from minirnn.kernels.cuda.creation import asarray
    from minirnn.kernels.cuda.jit import SIMULATOR
    from minirnn.kernels.cuda.step import steps_of
except DeviceError as error:
    pytest.skip(f"no GPU: {error}", allow_module_level=True)

LENGTHS = [3, 0, 5, 5, 1]
SIZE = 5
BASIC = ["rnn", "lstm", "projected", "gru"]
FLOAT64 = np.dtype("float64")


@cells.cell
def stages(a_x, b, b_h, /, h, c, *, v=0.5):  # type: ignore[no-untyped-def]
    """Products in sequence and in parallel, and sums that are used before, between and after them."""
    mean = cells.mean(h * c + a_x)
    first = cells.product(cells.tanh(b) + mean)
    both = cells.product(h) + cells.product(h - b_h)
    last = cells.product(cells.sigmoid(first) * both + v * c)
    c = cells.sigmoid(cells.layer_norm(last) + mean) - 0.5 * c
    return cells.tanh(c + a_x * cells.mean(first)), c


@cells.cell
def unjoined(a_x, b_x, /, h):  # type: ignore[no-untyped-def]
    """No recurrent weights except those of a product inside the step."""
    return cells.tanh(a_x + b_x * cells.product(h))


OWN = {"stages": stages, "unjoined": unjoined, "projected": cells.get("lstm")}
LIMITS = launch_plan.Limits(132, 232448, 512, True)  # of an H100
SMALL = launch_plan.Limits(20, 49152, 512, False)


def cell_of(name: str) -> cells.Cell:
    return OWN.get(name) or cells.get(name)


def batch_of(lengths: list[int] | None, reverse: bool = False) -> Steps:
    return dense_steps(3, 4, reverse) if lengths is None else ragged_steps(np.array(lengths), 6)[reverse]


def copy(x: Any) -> np.ndarray:
    return np.array(x.numpy() if hasattr(x, "numpy") else x)


def assert_close(got: Any, expected: np.ndarray | None, what: str) -> None:
    if expected is None:
        assert got is None
        return
    tolerance = 2e-5 if expected.dtype == np.float32 else 1e-11
    got = copy(got)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=what)


def draw_weights(plan: Plan, size: int, draw: Callable, projected: int = 0, scale: float = 1.0) -> RecurrentWeights:
    return RecurrentWeights(
        weight_hh=scale * draw(plan.recurrent * size, projected or size) if plan.recurrent else None,
        bias=draw(plan.separate * size) if plan.separate else None,
        vectors=draw(len(plan.equations.vectors), size) if plan.equations.vectors else None,
        inner=[draw(size, size) for _ in range(plan.inputs)],
        weight_hr=draw(projected, size) if projected else None,
    )


class Layer:
    """One layer's arrays and the calls of its kernels, on either device.

    Args:
        noise: "zoneout", "dropout", "mask", or "" for none.
    """

    def __init__(
        self, cell: str, steps: Steps, dtype: np.dtype, by_table: bool = False, size: int = SIZE, noise: str = ""
    ) -> None:
        rng = np.random.default_rng(3)
        draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
        self.cell, self.steps, self.by_table = cell, steps, by_table
        self.equations = cell_of(cell).equations.resolve(True, noise == "zoneout", noise == "dropout", noise == "mask")
        plan, batch = make_plan(self.equations), steps.batch
        projected = 3 if cell == "projected" else 0
        width, others = projected or size, range(2, len(self.equations.states) + 1)
        self.gates, self.table = draw(steps.rows, plan.gates * size), draw(4, plan.gates * size)
        self.tokens = rng.integers(0, 4, steps.rows)
        self.weights = draw_weights(plan, size, draw, projected, 0.5)
        self.states = [draw(batch, width), *(draw(batch, size) + 3 * (k == 3) for k in others)]  # sLSTM divides by n
        self.dy, self.d_states = draw(steps.rows, width), [draw(batch, width), *(draw(batch, size) for _ in others)]
        self.mask = 2 * (draw(batch, size) > 0).astype(dtype) if noise == "mask" else None

    def run(self, K: Any, to_device: Callable, with_dy: bool) -> dict[str, Any]:
        """All results by name."""
        put = lambda x: None if x is None else to_device(x.copy())  # noqa: E731
        gates, noise = put(self.gates), Noise(2**63 + 5, 0.3, 0.4, put(self.mask))
        table, tokens = (put(self.table), put(self.tokens)) if self.by_table else (None, None)
        weights, states = self.weights.map(put), list(map(put, self.states))
        layer = K.Recurrence(self.equations, gates, table, tokens, weights, states, self.steps, noise)
        results = {f"history {k}": copy(history) for k, history in enumerate(layer.histories)}
        d_initial, d_weights = layer.backward(put(self.dy) if with_dy else None, list(map(put, self.d_states)))
        results |= {f"gradient of state {k}": d_state for k, d_state in enumerate(d_initial)}
        results |= {f"gradient of {name}": value for name, value in vars(d_weights).items() if name != "inner"}
        results |= {f"gradient of product {k}": value for k, value in enumerate(d_weights.inner)}
        return results | {"gradient of gates": gates}


def check(layer: Layer, with_dy: bool = True) -> None:
    expected = layer.run(cpu, lambda x: x, with_dy)
    got = layer.run(recurrence, asarray, with_dy)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert_close(got[name], values, f"{layer.cell}: {name}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("by_table", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0, 0]], ids=["dense", "ragged", "empty"])
@pytest.mark.parametrize("cell", BASIC)
def test_layer_matches_cpu(
    cell: str, lengths: list[int] | None, by_table: bool, reverse: bool, dtype: np.dtype
) -> None:
    check(Layer(cell, batch_of(lengths, reverse), dtype, by_table), with_dy=not by_table)


@pytest.mark.parametrize("case", ["dense", "ragged", "empty"])
@pytest.mark.parametrize("cell", [*sorted({*cells.names(), "stages", "unjoined"} - set(BASIC))])
def test_every_cell_matches_cpu(cell: str, case: str) -> None:
    lengths = {"dense": None, "ragged": LENGTHS, "empty": [0, 0]}[case]
    check(Layer(cell, batch_of(lengths, case == "ragged"), FLOAT64, case == "dense"), with_dy=case != "dense")


NOISY = (
    "lstm zoneout, indrnn zoneout, layer_norm_gru dropout, slstm dropout, gru mask, gru_reset_before mask, min_gru mask"
)


@pytest.mark.parametrize("case", NOISY.split(", "))
def test_regularisation_draws_the_numbers_of_the_cpu(case: str) -> None:
    cell, noise = case.split()
    check(Layer(cell, batch_of(LENGTHS, True), FLOAT64, noise=noise))


@settings(max_examples=12)
@given(
    cell=st.sampled_from([*BASIC, "min_gru", "unjoined"]),
    size=st.integers(1, 9),
    lengths=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    threads=st.integers(1, 7),
)
def test_any_size_matches_cpu(dtype: np.dtype, cell: str, size: int, lengths: list[int], threads: int) -> None:
    gpu = dataclasses.replace(persistent.limits(), threads=threads if SIMULATOR else 32 * threads)
    with mock.patch.object(persistent, "limits", return_value=gpu):
        check(Layer(cell, batch_of(lengths), dtype, False, size))


# --------------------------------------------------------------------------------------------------- launch plans


def force_path(
    monkeypatch: pytest.MonkeyPatch, path: str, shared_bytes: int, units: int | None = None
) -> list[launch_plan.LaunchPlan]:
    """Have everything use ``path``, with blocks of ``units`` units if given; the list will hold the plans made.

    On a GPU, shared memory and blocks are what it has.
    """
    gpu = launch_plan.Limits(8 if path == "grid" else 1, shared_bytes, 4, True) if SIMULATOR else persistent.limits()
    plans, layouts = [], launch_plan._layouts

    def make_plan(make: Callable, *args: Any) -> launch_plan.LaunchPlan:
        plans.append(make.__wrapped__(*args, path=path))  # not from its cache
        return plans[-1]

    if units is not None:
        chosen = lambda *args: (layout for layout in layouts(*args) if layout[0] == units)  # noqa: E731
        monkeypatch.setattr(launch_plan, "_layouts", chosen)
    monkeypatch.setattr(persistent, "limits", lambda: gpu)
    for module, name in ((recurrence, "plan_recurrence"), (generate, "plan_sampling")):
        monkeypatch.setattr(module, name, functools.partial(make_plan, getattr(module, name)))
    return plans


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("path", ["block", "grid"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_little_shared_memory(
    cell: str, path: str, reverse: bool, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither all weights fit nor, in a grid, what they multiply."""
    float4s = {"rnn": (90, 30), "lstm": (120, 40), "gru": (120, 40)}[cell][path == "grid"]
    plans = force_path(monkeypatch, path, float4s * 4 * dtype.itemsize, 4 if path == "grid" else None)
    check(Layer(cell, batch_of(LENGTHS, reverse), dtype, False, 9))
    assert [p.path for p in plans] == [path, path]
    if SIMULATOR:
        depth = launch_plan.float4s({"rnn": 9, "lstm": 36, "gru": 27}[cell])
        assert plans[1].cached < depth
        assert plans[1].chunk < depth or path == "block"


@pytest.mark.parametrize("float4s", [200, 2000])
@pytest.mark.parametrize("cell", ["gru_reset_before", "layer_norm_gru", "stages"])
def test_cells_with_stages_use_blocks_whatever_is_asked_for(
    cell: str, float4s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few or with all weights in shared memory."""
    plans = force_path(monkeypatch, "grid", float4s * 4 * FLOAT64.itemsize)
    check(Layer(cell, batch_of(LENGTHS), FLOAT64, False, 9))
    assert [p.path for p in plans] == ["block", "block"]


@pytest.mark.parametrize("lengths", [[3] * 5, [6, 2, 0, 5, 6, 3, 3, 1, 6]], ids=["dense", "ragged"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_grid_divides_units_and_sequences_unevenly(
    cell: str, lengths: list[int], dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = force_path(monkeypatch, "grid", 1 << 14, 4)
    check(Layer(cell, batch_of(lengths), dtype, False, 9 if SIMULATOR else 22))
    assert all(min(p.blocks) > 1 for p in plans)


@pytest.mark.parametrize("case", ["lstm zoneout", "gru mask", "peephole_lstm ", "slstm "])
def test_other_cells_on_a_grid_match_cpu(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cell, noise = case.split(" ")
    plans = force_path(monkeypatch, "grid", 1 << 14, 4)
    check(Layer(cell, batch_of([6, 2, 0, 5]), FLOAT64, False, 9 if SIMULATOR else 22, noise))
    assert [p.path for p in plans] == ["grid", "grid"]


@pytest.mark.parametrize("gpu", [LIMITS, SMALL], ids=["large", "small"])
def test_plans_fit_the_gpu(gpu: launch_plan.Limits) -> None:
    for hidden, batch, gates, itemsize, backward in itertools.product(
        [1, 100, 128, 512, 1000], [1, 50, 300], [0, 1, 3, 4], [4, 8], [False, True]
    ):
        problem = launch_plan.Problem(hidden, batch, gates, itemsize, backward)
        p = launch_plan.plan_recurrence(problem, gpu)
        assert p.shared_bytes <= gpu.shared_bytes, problem
        assert p.blocks[0] * p.units >= hidden, problem
        assert p.blocks[1] * p.rows >= batch, problem
        if p.path == "grid":
            assert gpu.cooperative, problem
            assert p.blocks[0] * p.blocks[1] <= gpu.multiprocessors, problem
        else:
            assert p.blocks[0] == 1, problem


def test_large_layers_use_a_grid_where_they_can() -> None:
    def path(*args: Any, **options: Any) -> str:
        return launch_plan.plan_recurrence(launch_plan.Problem(*args, **options), LIMITS).path

    assert path(128, 50, 4, 4) == "block"
    assert path(512, 64, 4, 4) == "grid"
    assert path(512, 64, 4, 4, projected=64) == path(512, 64, 0, 4) == "block"
    for backward in (False, True):
        step = steps_of(cells.get("layer_norm_gru").equations.resolve(True))[1 + backward]
        assert path(512, 64, 3, 4, backward, stages=step.stages) == "block"


def test_layer_too_large_for_the_gpu_says_what_to_do() -> None:
    with pytest.raises(DeviceError, match=r"5000 hidden units.*lower the hidden size"):
        launch_plan.plan_recurrence(launch_plan.Problem(5000, 1, 4, 4), SMALL)


# --------------------------------------------------------------------------------------------------- sampling


def sample(K: Any, to_device: Callable, cell: str, layers: int, dtype: np.dtype, options: tuple) -> np.ndarray:
    """Two calls, the second continuing the first."""
    rng, vocabulary = np.random.default_rng(6), 9
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    equations = cell_of(cell).equations.resolve(False, zoneout=True)
    plan = make_plan(equations)
    count, above = plan.gates * SIZE, range(layers - 1)
    model = TokenModel(
        equations,
        to_device(draw(vocabulary, count)),
        [to_device(draw(count, SIZE)) for _ in above],
        [to_device(draw(count)) for _ in above],
        [draw_weights(plan, SIZE, draw).map(to_device) for _ in range(layers)],
        to_device(draw(vocabulary, SIZE)),
        to_device(draw(vocabulary)),
        0.1,
    )
    states = [to_device(draw(layers, 3, SIZE) + dtype.type(3 * (k == 2))) for k in range(len(equations.states))]
    sampler, seeds = K.Sampler(model, states), np.array([1, 2**63 + 7, 3], np.uint64)
    first = sampler.run(rng.integers(0, vocabulary, (2, 3)), 3, *options, seeds, 0)
    return np.concatenate([first, sampler.run(first[-1:], 2, *options, seeds, 3)])


def check_text(cell: str, layers: int, dtype: np.dtype, options: tuple) -> None:
    expected = sample(cpu, lambda x: x, cell, layers, dtype, options)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(sample(generate, asarray, cell, layers, dtype, options), expected)


def test_weights_in_fewer_bits_are_for_the_cpu() -> None:
    with pytest.raises(OptionError, match="weights: bfloat16 is for sampling on a CPU; a GPU takes float32"):
        generate.Sampler(None, [], "bfloat16")  # type: ignore[arg-type]


OPTIONS = [(0.0, 99, 1.0), (1.0, 99, 1.0), (2.5, 4, 1.0), (1.5, 99, 0.6), (3.0, 5, 0.8)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 2), ("gru", 1), ("gru", 2), ("rnn", 3)])
def test_same_seed_gives_the_text_of_the_cpu(cell: str, layers: int, options: tuple, dtype: np.dtype) -> None:
    check_text(cell, layers, dtype, options)


@pytest.mark.parametrize("cell", ["gru_reset_before", "layer_norm_lstm", "slstm", "indrnn"])
def test_other_cells_give_the_text_of_the_cpu(cell: str) -> None:
    check_text(cell, 2, FLOAT64, (1.5, 99, 0.9))


@pytest.mark.parametrize("path", ["block", "grid"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_both_paths_give_the_text_of_the_cpu(
    cell: str, path: str, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = force_path(monkeypatch, path, 130 * 4 * dtype.itemsize, 4 if path == "grid" else None)
    check_text(cell, 2, dtype, (1.5, 6, 0.9))
    assert [p.path for p in plans] == [path]
    if SIMULATOR:
        assert 0 < plans[0].cached < 4 * 2 * 3 * launch_plan.float4s({"lstm": 20, "gru": 15}[cell])


# -------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("upstream", ["both", "context", "weights"])
@pytest.mark.parametrize("additive", [True, False])
def test_attention_matches_cpu(additive: bool, upstream: str, dtype: np.dtype) -> None:
    rng = np.random.default_rng(2)
    T, M, N, A, D = 2, 6, 4, 5, 3
    shapes = [(T, N, A), (M, N, A), (M, N, D), (A,), (T, N, D), (T, N, M)]
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    lengths = np.array([6, 0, 1, 4])

    def run(K: Any, to_device: Callable) -> list[Any]:
        query, keys, values, score, dcontext, dweights = map(to_device, arrays)
        inputs = (query, keys, values, score if additive else None, to_device(lengths), 0.7)
        context, weights = K.attention_forward(*inputs)
        given = (dcontext if upstream != "weights" else None, dweights if upstream != "context" else None)
        return [context, weights, *K.attention_backward(*inputs, weights, *given)]

    for i, (got, expected) in enumerate(zip(run(attention, asarray), run(cpu, lambda x: x), strict=True)):
        assert_close(got, expected, f"result {i}")
