"""Exported ONNX files in onnxruntime: size of the file, difference of the outputs, time per step.

    python benchmarks/export_onnx.py [CHECKPOINT ...] [--seconds 1]

Without checkpoints: models of usual sizes with random weights. The inputs are those that minirnn recorded in the file;
the difference is the largest one from the recorded outputs. Of a character model a step is one call with one symbol
and the states, the most likely symbol each time; of others it is the time of the recorded sequence divided by its
steps. One thread, one sequence; medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from minirnn import tasks
from minirnn.data.vocabulary import START
from minirnn.export.network import describe
from minirnn.export.record import record
from minirnn.export.to_onnx import program
from minirnn.models import CharLM, EncoderDecoder, ManyToMany, ManyToOne
from minirnn.tasks.tagger import TaggerModel

ROUNDS, SYMBOLS = 7, 200
TYPES = {"tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64"}

MODELS = {
    "char LSTM 1x64": lambda: CharLM(65, 64, 1),
    "char LSTM 2x256": lambda: CharLM(65, 256),
    "char sLSTM 1x64": lambda: CharLM(65, 64, 1, "slstm"),
    "classifier, LSTM 1x128": lambda: ManyToOne(5000, 128, 2, bidirectional=True, pooling="max", embedding_size=100),
    "tagger, LSTM 1x128": lambda: TaggerModel(5000, 100, 17, 128),
    "translator, LSTM 1x256": lambda: EncoderDecoder(5000, 5000, 256),
    "forecaster, LSTM 1x32": lambda: ManyToOne(2, 32, 1),
    "music, LSTM 2x256": lambda: ManyToMany(88, 256, 88, 2),
}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    loaded = {path: tasks.load(path) for path in arguments.checkpoints}
    models = {path: (task.model, task.config()) for path, task in loaded.items()}
    print(f"{'model':28} {'bytes':>11} {'difference':>11} {'us/step':>9}")
    for name, (model, task) in (models or {name: (make(), None) for name, make in MODELS.items()}).items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(program(replace(describe(model), task=task), record(model)))
            difference, seconds = time_onnx(path, arguments.seconds)
            print(f"{name:28} {path.stat().st_size:11,} {difference:11.1e} {seconds * 1e6:9.1f}")


if __name__ == "__main__":
    main()
