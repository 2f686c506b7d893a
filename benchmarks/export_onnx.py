"""Runs exported ONNX files in onnxruntime, for export.py."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from minirnn.data.vocabulary import START

ROUNDS, SYMBOLS = 7, 200
TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}


def open_file(path: Path | str) -> Any:
    """A session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def recorded(session: Any) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The inputs of the record in a file, with initial states of zeros, and its output."""
    text = session.get_modelmeta().custom_metadata_map["record"]
    made = {name: np.array(value) for name, value in json.loads(text).items()}
    x, one = made["input"], np.ones(1)
    target = np.array([START, *made.get("target", ())])[:, None]
    known = made | {"source": x[:, None], "source_lengths": one * len(x), "target": target, "lengths": one * len(x)}
    known |= {"tokens": x[:, None], "x": x[:, None], "forms": np.arange(len(x))[:, None], "first": x[None]}
    known["length"] = np.array(len(made["output"]))
    feed = {}
    for one in session.get_inputs():
        zeros = np.zeros([1 if isinstance(size, str) else size for size in one.shape])
        value = x[None] if one.name == "x" and len(one.shape) == 2 else known.get(one.name, zeros)
        feed[one.name] = value.astype(TYPES[one.type])
    return feed, made["output"]


def time_onnx(path: Path | str, seconds: float) -> tuple[float, float]:
    """Run a file: the difference from its record, and seconds per step; rounds take so many seconds together."""
    session = open_file(path)
    feed, expected = recorded(session)
    found = session.run(None, feed)[0]
    difference = float(np.abs(np.squeeze(found) - np.squeeze(expected)).max())
    is_char = session.get_modelmeta().custom_metadata_map["kind"] == "char_lm"
    steps = SYMBOLS if is_char else len(feed.get("target", ())) + len(next(iter(feed.values())))

    def call() -> None:
        if not is_char:
            session.run(None, feed)
            return
        token, states = np.zeros((1, 1), np.int64), list(feed.values())[1:]
        for _ in range(SYMBOLS):
            y, *states = session.run(None, dict(zip(feed, [token, *states], strict=True)))
            token = y[-1].argmax(-1)[:, None]

    times: list[float] = []
    call()
    while len(times) < ROUNDS or sum(times) < seconds:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return difference, statistics.median(times) / steps
