"""Recurrent layers, attention and sampling on the card against those of the CPU, values and every gradient.

Sizes are small: without a card all this runs in Numba's simulator, if ``NUMBA_ENABLE_CUDASIM=1`` asks for it.
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

from minirnn.errors import DeviceError
from minirnn.kernels import cpu
from minirnn.kernels.cpu.generate import TokenModel
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps

try:
    from minirnn.kernels.cuda import attention, generate, gru, lstm, planning, rnn, walk
    from minirnn.kernels.cuda.device import asarray
    from minirnn.kernels.cuda.jit import SIMULATOR
except DeviceError as error:
    pytest.skip(f"no card: {error}", allow_module_level=True)

LENGTHS = [3, 0, 5, 5, 1]
SIZE = 5
CELLS = ["tanh", "relu", "lstm", "projected", "gru"]


def batch_of(lengths: list[int] | None, reverse: bool) -> Steps:
    if lengths is None:
        return dense_steps(3, 4, reverse)
    return ragged_steps(np.array(lengths), 6)[reverse]


def close(got: Any, wanted: np.ndarray | None, what: str) -> None:
    if wanted is None:
        assert got is None
        return
    tolerance = 2e-5 if wanted.dtype == np.float32 else 1e-12
    got = got.numpy() if hasattr(got, "numpy") else got
    assert got.dtype == wanted.dtype
    np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance, err_msg=what)


class Layer:
    """One layer's arrays and the calls of its kernels, on either device."""

    def __init__(self, cell: str, steps: Steps, dtype: np.dtype, by_table: bool, size: int = SIZE) -> None:
        rng = np.random.default_rng(3)
        self.cell, self.steps, self.by_table = cell, steps, by_table
        width = 3 if cell == "projected" else size
        count = {"lstm": 4, "projected": 4, "gru": 3}.get(cell, 1) * size

        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(dtype)

        self.arrays = {
            "gates": draw(steps.rows, count), "table": draw(4, count), "tokens": rng.integers(0, 4, steps.rows),
            "weight": 0.5 * draw(count, width), "h_0": draw(steps.batch, width), "c_0": draw(steps.batch, size),
            "bias_n": draw(size), "weight_hr": draw(width, size), "dy": draw(steps.rows, width),
            "dh": draw(steps.batch, width), "dc": draw(steps.batch, size),
        }  # fmt: skip

    def run(self, K: Any, to_device: Callable, with_dy: bool) -> dict[str, Any]:
        """All results by name."""
        a = {name: to_device(x.copy()) for name, x in self.arrays.items()}
        table, tokens = (a["table"], a["tokens"]) if self.by_table else (None, None)
        gates, dy = a["gates"], a["dy"] if with_dy else None
        if self.cell == "gru":
            h, product_n = K.gru_forward(gates, table, tokens, a["weight"], a["bias_n"], a["h_0"], self.steps)
            out = {"h": h, "product_n": copy(product_n), "activations": copy(gates)}
            names = ("dh_0", "dweight")
            back = K.gru_backward(gates, product_n, h, a["weight"], dy, a["dh"], self.steps)
            out["dproduct_n"] = product_n
        elif self.cell in ("lstm", "projected"):
            w_hr = a["weight_hr"] if self.cell == "projected" else None
            h, c = K.lstm_forward(gates, table, tokens, a["weight"], w_hr, a["h_0"], a["c_0"], self.steps)
            out = {"h": h, "c": c, "activations": copy(gates)}
            names = ("dh_0", "dc_0", "dweight", "dweight_hr")
            back = K.lstm_backward(gates, h, c, a["weight"], w_hr, dy, a["dh"], a["dc"], self.steps)
        else:
            rectify = self.cell == "relu"
            h = K.rnn_forward(gates, table, tokens, a["weight"], a["h_0"], rectify, self.steps)
            out = {"h": h}
            names = ("dh_0", "dweight")
            back = K.rnn_backward(gates, h, a["weight"], dy, a["dh"], rectify, self.steps)
        return out | dict(zip(names, back, strict=True)) | {"dgates": gates}


def copy(x: Any) -> np.ndarray:
    return np.array(x.numpy() if hasattr(x, "numpy") else x)


class Card:
    """The functions under test under the contract's names."""

    rnn_forward, rnn_backward = staticmethod(rnn.rnn_forward), staticmethod(rnn.rnn_backward)
    lstm_forward, lstm_backward = staticmethod(lstm.lstm_forward), staticmethod(lstm.lstm_backward)
    gru_forward, gru_backward = staticmethod(gru.gru_forward), staticmethod(gru.gru_backward)


def check(layer: Layer, with_dy: bool = True) -> None:
    wanted = layer.run(cpu, lambda x: x, with_dy)
    got = layer.run(Card, asarray, with_dy)
    for name, values in wanted.items():
        close(got[name], values, f"{layer.cell}: {name}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("by_table", [False, True])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0, 0]], ids=["dense", "ragged", "empty"])
@pytest.mark.parametrize("cell", CELLS)
def test_layers(cell: str, lengths: list[int] | None, by_table: bool, reverse: bool, dtype: np.dtype) -> None:
    check(Layer(cell, batch_of(lengths, reverse), dtype, by_table), with_dy=not by_table)


@settings(max_examples=12)
@given(
    cell=st.sampled_from(CELLS), size=st.integers(1, 9), lengths=st.lists(st.integers(0, 3), min_size=1, max_size=9),
    threads=st.integers(1, 7),
)  # fmt: skip
def test_any_size(dtype: np.dtype, cell: str, size: int, lengths: list[int], threads: int) -> None:
    card = dataclasses.replace(walk.limits(), threads=threads if SIMULATOR else 32 * threads)
    with mock.patch.object(walk, "limits", return_value=card):
        check(Layer(cell, batch_of(lengths, False), dtype, False, size))


def plan_for(
    monkeypatch: pytest.MonkeyPatch, path: str, shared_bytes: int, units: int | None = None
) -> list[planning.Plan]:
    """Has everything take ``path``, of blocks of ``units`` outputs where that is given; returns the plans made.

    On a card there is as much shared memory, and there are as many blocks, as it has.
    """
    card = planning.Limits(8 if path == "grid" else 1, shared_bytes, 4, True) if SIMULATOR else walk.limits()
    plans, layouts = [], planning._layouts

    def planned(make: Callable, *args: Any, **options: Any) -> planning.Plan:
        plans.append(make.__wrapped__(*args, **options, path=path))  # past its cache
        return plans[-1]

    if units is not None:
        wanted = lambda *args: (layout for layout in layouts(*args) if layout[0] == units)  # noqa: E731
        monkeypatch.setattr(planning, "_layouts", wanted)
    for module, name in ((walk, "plan"), (generate, "plan_sampling")):
        monkeypatch.setattr(module, "limits", lambda: card)
        monkeypatch.setattr(module, name, functools.partial(planned, getattr(module, name)))
    return plans


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("path", ["block", "grid"])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_little_shared_memory(
    cell: str, path: str, reverse: bool, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither all weights fit nor, in a grid, what they multiply."""
    quads = {"tanh": (90, 30), "lstm": (120, 40), "gru": (120, 40)}[cell][path == "grid"]
    plans = plan_for(monkeypatch, path, quads * 4 * dtype.itemsize, 4 if path == "grid" else None)
    check(Layer(cell, batch_of(LENGTHS, reverse), dtype, False, 9))
    assert [p.path for p in plans] == [path, path]
    if SIMULATOR:
        depth = planning.quads({"tanh": 9, "lstm": 36, "gru": 27}[cell])
        assert plans[1].held < depth
        assert plans[1].chunk < depth or path == "block"


@pytest.mark.parametrize("lengths", [[3] * 5, [6, 2, 0, 5, 6, 3, 3, 1, 6]], ids=["dense", "ragged"])
@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_a_grid_of_several_blocks(
    cell: str, lengths: list[int], dtype: np.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Units and sequences are both spread, neither evenly."""
    plans = plan_for(monkeypatch, "grid", 1 << 14, 4)
    check(Layer(cell, batch_of(lengths, False), dtype, False, 9 if SIMULATOR else 22))
    assert all(min(p.blocks) > 1 for p in plans)


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("batch", [1, 50, 300])
@pytest.mark.parametrize("hidden", [1, 100, 128, 512, 1000])
def test_plans_fit_the_card(hidden: int, batch: int, gates: int, itemsize: int, back: bool) -> None:
    large = planning.Limits(132, 232448, 512, True)
    for card in (large, planning.Limits(20, 49152, 512, False)):
        p = planning.plan(hidden, batch, gates, itemsize, card, back)
        assert p.shared_bytes <= card.shared_bytes
        assert p.blocks[0] * p.units >= hidden
        assert p.blocks[1] * p.rows >= batch
        if p.path == "grid":
            assert card.cooperative
            assert p.blocks[0] * p.blocks[1] <= card.multiprocessors
        else:
            assert p.blocks[0] == 1


def test_small_layers_take_blocks_and_large_ones_a_grid() -> None:
    card = planning.Limits(132, 232448, 512, True)
    assert planning.plan(128, 50, 4, 4, card).path == "block"
    assert planning.plan(512, 64, 4, 4, card).path == "grid"
    assert planning.plan(512, 64, 4, 4, card, projected=64).path == "block"


def test_a_layer_too_large_for_the_card() -> None:
    with pytest.raises(DeviceError, match=r"5000 hidden units.*lower the hidden size"):
        planning.plan(5000, 1, 4, 4, planning.Limits(20, 49152, 512, False))


# --------------------------------------------------------------------------------------------------- sampling


def model_of(cell: str, layers: int, vocabulary: int, size: int, dtype: np.dtype, to_device: Callable) -> TokenModel:
    rng = np.random.default_rng(5)
    count = {"lstm": 4, "gru": 3, "rnn": 1}[cell] * size

    def draw(*shape: int) -> Any:
        return to_device(rng.standard_normal(shape).astype(dtype))

    above = range(layers - 1)
    return TokenModel(
        cell, draw(vocabulary, count), [draw(count, size) for _ in above], [draw(count) for _ in above],
        [draw(count, size) for _ in range(layers)], [draw(size) for _ in range(layers)], draw(vocabulary, size),
        draw(vocabulary),
    )  # fmt: skip


def sample(K: Any, to_device: Callable, cell: str, layers: int, dtype: np.dtype, options: list, vocabulary: int) -> Any:
    """Two chunks, the second continuing the first."""
    rng = np.random.default_rng(1)
    h, c = (rng.standard_normal((layers, 3, SIZE)).astype(dtype) for _ in range(2))
    sampler = K.Sampler(model_of(cell, layers, vocabulary, SIZE, dtype, to_device), to_device(h), to_device(c))
    seeds = np.array([1, 2**63 + 7, 3], np.uint64)
    first = sampler.run(rng.integers(0, vocabulary, (2, 3)), 3, *options, seeds, 0)
    return np.concatenate([first, sampler.run(first[-1:], 2, *options, seeds, 3)])


OPTIONS = [(0.0, 99, 1.0), (1.0, 99, 1.0), (2.5, 4, 1.0), (1.5, 99, 0.6), (3.0, 5, 0.8)]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("cell", "layers"), [("lstm", 2), ("gru", 1), ("gru", 2), ("rnn", 3)])
def test_the_same_seed_gives_the_same_text(cell: str, layers: int, options: tuple, dtype: np.dtype) -> None:
    wanted = sample(cpu, lambda x: x, cell, layers, dtype, list(options), 9)
    assert len(np.unique(wanted)) > 1
    np.testing.assert_array_equal(sample(generate, asarray, cell, layers, dtype, list(options), 9), wanted)


@pytest.mark.parametrize("path", ["block", "grid"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_same_text_by_either_path(cell: str, path: str, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = plan_for(monkeypatch, path, 130 * 4 * dtype.itemsize, 4 if path == "grid" else None)
    options = [1.5, 6, 0.9]
    wanted = sample(cpu, lambda x: x, cell, 2, dtype, options, 9)
    np.testing.assert_array_equal(sample(generate, asarray, cell, 2, dtype, options, 9), wanted)
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

    for i, (got, wanted) in enumerate(zip(run(attention, asarray), run(cpu, lambda x: x), strict=True)):
        close(got, wanted, f"result {i}")
