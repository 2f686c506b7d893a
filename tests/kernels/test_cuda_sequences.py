"""Recurrent layers, attention and sampling on the GPU against those of the CPU, values and every gradient.

Sizes are small: without a GPU all this runs in Numba's simulator, if ``NUMBA_ENABLE_CUDASIM=1`` asks for it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minirnn import cells
from minirnn.errors import DeviceError
from minirnn.kernels import cpu
from minirnn.kernels.contract import Noise, RecurrentWeights, TokenModel
from minirnn.kernels.plan import make_plan
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps

try:
    from minirnn.kernels.cuda import attention, generate, planning, recurrence
    from minirnn.kernels.cuda.device import asarray
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
    """Products after one another and side by side, and sums that are used before, between and after them."""
    mean = cells.mean(h * c + a_x)
    first = cells.product(cells.tanh(b) + mean)
    both = cells.product(h) + cells.product(h - b_h)
    last = cells.product(cells.sigmoid(first) * both + v * c)
    c = cells.sigmoid(cells.layer_norm(last) + mean) - 0.5 * c
    return cells.tanh(c + a_x * cells.mean(first)), c


@cells.cell
def unjoined(a_x, b_x, /, h):  # type: ignore[no-untyped-def]
    """No recurrent weights but those of a product inside the step."""
    return cells.tanh(a_x + b_x * cells.product(h))


OWN = {"stages": stages, "unjoined": unjoined, "projected": cells.get("lstm")}


def cell_of(name: str) -> cells.Cell:
    return OWN.get(name) or cells.get(name)


def batch_of(lengths: list[int] | None, reverse: bool) -> Steps:
    if lengths is None:
        return dense_steps(3, 4, reverse)
    return ragged_steps(np.array(lengths), 6)[reverse]


def close(got: Any, expected: np.ndarray | None, what: str) -> None:
    if expected is None:
        assert got is None
        return
    tolerance = 2e-5 if expected.dtype == np.float32 else 1e-11
    got = copy(got)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=what)


def copy(x: Any) -> np.ndarray:
    return np.array(x.numpy() if hasattr(x, "numpy") else x)


class Layer:
    """One layer's arrays and the calls of its kernels, on either device.

    Args:
        noise: "zoneout", "dropout", "mask", or "" for none.
    """

    def __init__(
        self, cell: str, steps: Steps, dtype: np.dtype, by_table: bool = False, size: int = SIZE, noise: str = ""
    ) -> None:
        rng = np.random.default_rng(3)
        self.cell, self.steps, self.by_table, self.noise = cell, steps, by_table, noise
        self.equations = cell_of(cell).equations.resolve(True, noise == "zoneout", noise == "dropout", noise == "mask")
        self.plan = make_plan(self.equations)
        width = 3 if cell == "projected" else size
        gates, recurrent = self.plan.gates * size, sum(run.count for run in self.plan.runs) * size
        states = range(1, len(self.equations.states))

        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(dtype)

        self.arrays = {
            "gates": draw(steps.rows, gates), "table": draw(4, gates), "tokens": rng.integers(0, 4, steps.rows),
            "weight_hh": 0.5 * draw(recurrent, width) if recurrent else None,
            "bias": draw(self.plan.separate * size) if self.plan.separate else None,
            "vectors": draw(len(self.equations.vectors), size) if self.equations.vectors else None,
            "weight_hr": draw(width, size) if cell == "projected" else None,
            "dy": draw(steps.rows, width), "h": draw(steps.batch, width), "dh": draw(steps.batch, width),
            "mask": 2 * (draw(steps.batch, size) > 0).astype(dtype) if noise == "mask" else None,
            **{f"inner{k}": draw(size, size) for k in range(self.plan.inputs)},
            **{f"state{k}": draw(steps.batch, size) + 3 * (k == 2) for k in states},  # n of the sLSTM is a divisor
            **{f"d_state{k}": draw(steps.batch, size) for k in states},
        }  # fmt: skip

    def run(self, K: Any, to_device: Callable, with_dy: bool) -> dict[str, Any]:
        """All results by name."""
        a = {name: None if x is None else to_device(x.copy()) for name, x in self.arrays.items()}
        table, tokens = (a["table"], a["tokens"]) if self.by_table else (None, None)
        weights = RecurrentWeights(
            weight_hh=a["weight_hh"], bias=a["bias"], vectors=a["vectors"], weight_hr=a["weight_hr"],
            inner=[a[f"inner{k}"] for k in range(self.plan.inputs)],
        )  # fmt: skip
        others = range(1, len(self.equations.states))
        states, d_states = [a["h"], *(a[f"state{k}"] for k in others)], [a["dh"], *(a[f"d_state{k}"] for k in others)]
        noise = Noise(2**63 + 5, 0.3, 0.4, a["mask"])
        layer = K.Recurrence(self.equations, a["gates"], table, tokens, weights, states, self.steps, noise)
        results = {f"history {k}": copy(history) for k, history in enumerate(layer.histories)}
        d_initial, d_weights = layer.backward(a["dy"] if with_dy else None, d_states)
        results |= {f"gradient of state {k}": d_state for k, d_state in enumerate(d_initial)}
        results |= {f"gradient of {name}": value for name, value in vars(d_weights).items() if name != "inner"}
        results |= {f"gradient of product {k}": value for k, value in enumerate(d_weights.inner)}
        return results | {"gradient of gates": a["gates"]}


def check(layer: Layer, with_dy: bool = True) -> None:
    expected = layer.run(cpu, lambda x: x, with_dy)
    got = layer.run(recurrence, asarray, with_dy)
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        close(got[name], values, f"{layer.cell}: {name}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("by_table", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0, 0]], ids=["dense", "ragged", "empty"])
@pytest.mark.parametrize("cell", BASIC)
def test_basic_layers(cell: str, lengths: list[int] | None, by_table: bool, reverse: bool, dtype: np.dtype) -> None:
    check(Layer(cell, batch_of(lengths, reverse), dtype, by_table), with_dy=not by_table)


@pytest.mark.parametrize("case", ["dense", "ragged", "empty"])
@pytest.mark.parametrize("cell", [*sorted({*cells.names(), "stages", "unjoined"} - set(BASIC))])
def test_layers_of_all_cells(cell: str, case: str) -> None:
    lengths = {"dense": None, "ragged": LENGTHS, "empty": [0, 0]}[case]
    check(Layer(cell, batch_of(lengths, case == "ragged"), FLOAT64, case == "dense"), with_dy=case != "dense")


NOISY = [
    ("lstm", "zoneout"), ("indrnn", "zoneout"), ("layer_norm_gru", "dropout"), ("slstm", "dropout"), ("gru", "mask"),
    ("gru_reset_before", "mask"), ("min_gru", "mask"),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "noise"), NOISY)
def test_noise_is_that_of_the_cpu(cell: str, noise: str) -> None:
    check(Layer(cell, batch_of(LENGTHS, True), FLOAT64, noise=noise))


@settings(max_examples=12)
@given(
    cell=st.sampled_from([*BASIC, "min_gru", "unjoined"]), size=st.integers(1, 9),
    lengths=st.lists(st.integers(0, 3), min_size=1, max_size=9), threads=st.integers(1, 7),
)  # fmt: skip
def test_any_size(dtype: np.dtype, cell: str, size: int, lengths: list[int], threads: int) -> None:
    gpu = dataclasses.replace(recurrence.limits(), threads=threads if SIMULATOR else 32 * threads)
    with mock.patch.object(recurrence, "limits", return_value=gpu):
        check(Layer(cell, batch_of(lengths, False), dtype, False, size))


def plan_for(
    monkeypatch: pytest.MonkeyPatch, path: str, shared_bytes: int, units: int | None = None
) -> list[planning.Plan]:
    """Has everything take ``path``, of blocks of ``units`` outputs where that is given; returns the plans made.

    On a GPU there is as much shared memory, and there are as many blocks, as it has.
    """
    gpu = planning.Limits(8 if path == "grid" else 1, shared_bytes, 4, True) if SIMULATOR else recurrence.limits()
    plans, layouts = [], planning._layouts

    def planned(make: Callable, *args: Any, **options: Any) -> planning.Plan:
        plans.append(make.__wrapped__(*args, **options, path=path))  # past its cache
        return plans[-1]

    if units is not None:
        chosen = lambda *args: (layout for layout in layouts(*args) if layout[0] == units)  # noqa: E731
        monkeypatch.setattr(planning, "_layouts", chosen)
    for module, name in ((recurrence, "plan"), (generate, "plan_sampling")):
        monkeypatch.setattr(module, "limits", lambda: gpu)
        monkeypatch.setattr(module, name, functools.partial(planned, getattr(module, name)))
    return plans


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("path", ["block", "grid"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_little_shared_memory(
    cell: str, path: str, reverse: bool, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither all weights fit nor, in a grid, what they multiply."""
    quads = {"rnn": (90, 30), "lstm": (120, 40), "gru": (120, 40)}[cell][path == "grid"]
    plans = plan_for(monkeypatch, path, quads * 4 * dtype.itemsize, 4 if path == "grid" else None)
    check(Layer(cell, batch_of(LENGTHS, reverse), dtype, False, 9))
    assert [p.path for p in plans] == [path, path]
    if SIMULATOR:
        depth = planning.quads({"rnn": 9, "lstm": 36, "gru": 27}[cell])
        assert plans[1].held < depth
        assert plans[1].chunk < depth or path == "block"


@pytest.mark.parametrize("cell", ["gru_reset_before", "layer_norm_gru", "stages"])
def test_stages_take_the_path_block(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, with all weights in shared memory or with few of them."""
    for quads in (200, 2000):
        plans = plan_for(monkeypatch, "grid", quads * 4 * FLOAT64.itemsize)
        check(Layer(cell, batch_of(LENGTHS, False), FLOAT64, False, 9))
        assert [p.path for p in plans] == ["block", "block"]
        monkeypatch.undo()


@pytest.mark.parametrize("lengths", [[3] * 5, [6, 2, 0, 5, 6, 3, 3, 1, 6]], ids=["dense", "ragged"])
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_a_grid_of_several_blocks(
    cell: str, lengths: list[int], dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units and sequences are both spread, neither evenly."""
    plans = plan_for(monkeypatch, "grid", 1 << 14, 4)
    check(Layer(cell, batch_of(lengths, False), dtype, False, 9 if SIMULATOR else 22))
    assert all(min(p.blocks) > 1 for p in plans)


@pytest.mark.parametrize(
    ("cell", "noise"), [("lstm", "zoneout"), ("gru", "mask"), ("peephole_lstm", ""), ("slstm", "")]
)
def test_other_cells_on_a_grid(cell: str, noise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = plan_for(monkeypatch, "grid", 1 << 14, 4)
    check(Layer(cell, batch_of([6, 2, 0, 5], False), FLOAT64, False, 9 if SIMULATOR else 22, noise))
    assert [p.path for p in plans] == ["grid", "grid"]


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("gates", [0, 1, 3, 4])
@pytest.mark.parametrize("batch", [1, 50, 300])
@pytest.mark.parametrize("hidden", [1, 100, 128, 512, 1000])
def test_plans_fit_the_gpu(hidden: int, batch: int, gates: int, itemsize: int, backward: bool) -> None:
    large = planning.Limits(132, 232448, 512, True)
    for gpu in (large, planning.Limits(20, 49152, 512, False)):
        p = planning.plan(hidden, batch, gates, itemsize, gpu, backward)
        assert p.shared_bytes <= gpu.shared_bytes
        assert p.blocks[0] * p.units >= hidden
        assert p.blocks[1] * p.rows >= batch
        if p.path == "grid":
            assert gpu.cooperative
            assert p.blocks[0] * p.blocks[1] <= gpu.multiprocessors
        else:
            assert p.blocks[0] == 1


def test_small_layers_take_blocks_and_large_ones_a_grid() -> None:
    gpu = planning.Limits(132, 232448, 512, True)
    assert planning.plan(128, 50, 4, 4, gpu).path == "block"
    assert planning.plan(512, 64, 4, 4, gpu).path == "grid"
    assert planning.plan(512, 64, 4, 4, gpu, projected=64).path == "block"
    assert planning.plan(512, 64, 0, 4, gpu).path == "block"
    for backward in (False, True):
        step = steps_of(cells.get("layer_norm_gru").equations.resolve(True))[1 + backward]
        assert planning.plan(512, 64, 3, 4, gpu, backward, stages=step.stages).path == "block"


def test_a_layer_too_large_for_the_gpu() -> None:
    with pytest.raises(DeviceError, match=r"5000 hidden units.*lower the hidden size"):
        planning.plan(5000, 1, 4, 4, planning.Limits(20, 49152, 512, False))


# --------------------------------------------------------------------------------------------------- sampling


def model_of(cell: str, layers: int, vocabulary: int, size: int, dtype: np.dtype, to_device: Callable) -> TokenModel:
    rng = np.random.default_rng(6)
    equations = cell_of(cell).equations.resolve(False, zoneout=True)
    plan = make_plan(equations)
    count, recurrent = plan.gates * size, sum(run.count for run in plan.runs) * size

    def draw(*shape: int) -> Any:
        return to_device(rng.standard_normal(shape).astype(dtype))

    def weights() -> RecurrentWeights:
        return RecurrentWeights(
            weight_hh=draw(recurrent, size) if recurrent else None,
            bias=draw(plan.separate * size) if plan.separate else None,
            vectors=draw(len(equations.vectors), size) if equations.vectors else None,
            inner=[draw(size, size) for _ in range(plan.inputs)],
        )  # fmt: skip

    above = range(layers - 1)
    return TokenModel(
        equations, draw(vocabulary, count), [draw(count, size) for _ in above], [draw(count) for _ in above],
        [weights() for _ in range(layers)], draw(vocabulary, size), draw(vocabulary), 0.1,
    )  # fmt: skip


def sample(K: Any, to_device: Callable, cell: str, layers: int, dtype: np.dtype, options: list, vocabulary: int) -> Any:
    """Two chunks, the second continuing the first."""
    rng = np.random.default_rng(1)
    count = len(cell_of(cell).states)
    states = [to_device((rng.standard_normal((layers, 3, SIZE)) + 3 * (k == 2)).astype(dtype)) for k in range(count)]
    sampler = K.Sampler(model_of(cell, layers, vocabulary, SIZE, dtype, to_device), states)
    seeds = np.array([1, 2**63 + 7, 3], np.uint64)
    first = sampler.run(rng.integers(0, vocabulary, (2, 3)), 3, *options, seeds, 0)
    return np.concatenate([first, sampler.run(first[-1:], 2, *options, seeds, 3)])


OPTIONS = [(0.0, 99, 1.0), (1.0, 99, 1.0), (2.5, 4, 1.0), (1.5, 99, 0.6), (3.0, 5, 0.8)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 2), ("gru", 1), ("gru", 2), ("rnn", 3)])
def test_the_same_seed_gives_the_same_text(cell: str, layers: int, options: tuple, dtype: np.dtype) -> None:
    expected = sample(cpu, lambda x: x, cell, layers, dtype, list(options), 9)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(sample(generate, asarray, cell, layers, dtype, list(options), 9), expected)


@pytest.mark.parametrize("cell", ["gru_reset_before", "layer_norm_lstm", "slstm", "indrnn"])
def test_the_same_text_of_other_cells(cell: str) -> None:
    expected = sample(cpu, lambda x: x, cell, 2, FLOAT64, [1.5, 99, 0.9], 9)
    np.testing.assert_array_equal(sample(generate, asarray, cell, 2, FLOAT64, [1.5, 99, 0.9], 9), expected)


@pytest.mark.parametrize("path", ["block", "grid"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_same_text_by_either_path(cell: str, path: str, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = plan_for(monkeypatch, path, 130 * 4 * dtype.itemsize, 4 if path == "grid" else None)
    options = [1.5, 6, 0.9]
    expected = sample(cpu, lambda x: x, cell, 2, dtype, options, 9)
    np.testing.assert_array_equal(sample(generate, asarray, cell, 2, dtype, options, 9), expected)
    assert [p.path for p in plans] == [path]
    if SIMULATOR:
        assert 0 < plans[0].held < 4 * 2 * 3 * planning.quads({"lstm": 20, "gru": 15}[cell])


# -------------------------------------------------------------------------------------------------- attention


@pytest.mark.parametrize("upstream", ["both", "context", "weights"])
@pytest.mark.parametrize("additive", [True, False])
def test_attention(additive: bool, upstream: str, dtype: np.dtype) -> None:
    rng = np.random.default_rng(2)
    T, S, N, A, M = 2, 6, 4, 5, 3
    shapes = [(T, N, A), (S, N, A), (S, N, M), (A,), (T, N, M), (T, N, S)]
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    lengths = np.array([6, 0, 1, 4])

    def run(K: Any, to_device: Callable) -> list[Any]:
        query, keys, values, score, dcontext, dweights = map(to_device, arrays)
        inputs = (query, keys, values, score if additive else None, to_device(lengths), 0.7)
        context, weights = K.attention_forward(*inputs)
        given = (dcontext if upstream != "weights" else None, dweights if upstream != "context" else None)
        return [context, weights, *K.attention_backward(*inputs, weights, *given)]

    for i, (got, expected) in enumerate(zip(run(attention, asarray), run(cpu, lambda x: x), strict=True)):
        close(got, expected, f"result {i}")
