"""Recurrent layers, attention and sampling on the card against those of the CPU, values and every gradient.

Sizes are small: without a card all this runs in Numba's simulator, if ``NUMBA_ENABLE_CUDASIM=1`` asks for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from minirnn.errors import DeviceError
from minirnn.kernels import cpu
from minirnn.kernels.steps import Steps, dense_steps, ragged_steps

try:
    from minirnn.kernels.cuda import gru, lstm, rnn, walk
    from minirnn.kernels.cuda.device import SIMULATOR, asarray
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
@pytest.mark.parametrize("cell", CELLS)
def test_ragged_batches(cell: str, reverse: bool, dtype: np.dtype) -> None:
    check(Layer(cell, batch_of(LENGTHS, reverse), dtype, by_table=False))
