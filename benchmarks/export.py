"""Exported programs beside minirnn: size of the file, difference of the outputs, time per step.

    python benchmarks/export.py [CHECKPOINT ...] [--only numpy] [--seconds 1]

Without checkpoints: models of usual sizes with random weights. The difference is the largest one from the outputs that
minirnn recorded, relative to outputs above 1. C is compiled with -O3 -march=native. A step is one step of a sequence:
of a character model a sampled symbol, the most likely one each time; of others the time for a recorded sequence divided
by its steps, those of both sequences of a translator. One thread, one sequence; medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")

import numpy as np

import minirnn as mr
from minirnn import tasks
from minirnn.export.record import Record, record
from minirnn.models import CharLM, EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne
from minirnn.tasks.tagger import Batch, TaggerModel

SYMBOLS, ROUNDS = 200, 7


class Result(NamedTuple):
    """Bytes of the file, difference of the outputs, seconds per step."""

    size: int
    difference: float
    seconds: float


MODELS: dict[str, Callable[[], Any]] = {
    "char LSTM 1x64": lambda: CharLM(65, 64, 1),
    "char LSTM 2x128": lambda: CharLM(65, 128),
    "char LSTM 2x256": lambda: CharLM(65, 256),
    "char GRU 2x128": lambda: CharLM(65, 128, cell="gru"),
    "classifier, LSTM 1x128": lambda: ManyToOne(5000, 128, 2, bidirectional=True, pooling="max", embedding_size=100),
    "tagger, LSTM 1x128": lambda: TaggerModel(5000, 100, 17, 128),
    "translator, LSTM 1x256": lambda: EncoderDecoder(5000, 5000, 256),
    "forecaster, LSTM 1x32": lambda: ManyToOne(2, 32, 1),
    "music, LSTM 2x256": lambda: ManyToMany(88, 256, 88, 2),
}


def seconds_per_call(call: Callable[[], Any], seconds: float) -> float:
    """The median over some rounds, which take so long together."""
    call()
    began = time.perf_counter()
    call()
    count = max(1, round(seconds / ROUNDS / (time.perf_counter() - began)))
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - began) / count)
    return statistics.median(times)


def steps_of(model: Any, made: Record) -> int:
    """Steps of what is timed."""
    if isinstance(model, CharLM):
        return SYMBOLS
    if isinstance(model, OneToOne):
        return 1
    both = len(made["target"]) + 1 if isinstance(model, EncoderDecoder) else 0
    return both + len(made["output"] if isinstance(model, OneToMany) else made["input"])


def with_minirnn(model: Any, made: Record) -> Callable[[], Any]:
    """What minirnn does in that time."""
    x = made["input"][:, None] if made["input"].ndim < 3 else made["input"]
    if isinstance(model, CharLM):
        return lambda: model.generate([0], SYMBOLS, temperature=0)
    if isinstance(model, EncoderDecoder):
        return lambda: model.generate(x)
    if isinstance(model, OneToMany):
        return lambda: model(made["input"][None], length=len(made["output"]))
    if isinstance(model, OneToOne):
        return lambda: model(made["input"])
    if isinstance(model, TaggerModel):
        forms = np.arange(len(x))[:, None]
        batch = Batch(x, forms, made["characters"], made["sizes"], np.array([len(x)]))
        return lambda: model(batch)
    return lambda: model(x)


def to_numpy(model: Any, made: Record, folder: Path, seconds: float) -> Result:
    path = mr.export(model, folder / "model.py")
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = made["output"]
    difference = np.abs(module.replay(made) - expected).max() / max(1.0, np.abs(expected).max())

    def sample() -> None:
        token, state = 0, None
        for _ in range(SYMBOLS):
            logits, state = module.step(token, state)
            token = int(logits.argmax())

    calls: dict[type, Callable[[], Any]] = {CharLM: sample, EncoderDecoder: lambda: module.greedy(made["input"])}
    call = calls.get(type(model), lambda: module.replay(made))
    return Result(path.stat().st_size, float(difference), seconds_per_call(call, seconds) / steps_of(model, made))


def to_c(model: Any, made: Record, folder: Path, seconds: float, **options: Any) -> Result:
    from export_c import time_c

    header, is_char = mr.export(model, folder / "model.h", **options).read_bytes(), isinstance(model, CharLM)
    difference, taken = time_c(header, SYMBOLS if is_char else 0, seconds)
    return Result(len(header), difference, taken / steps_of(model, made))


def to_onnx(model: Any, made: Record, folder: Path, seconds: float) -> Result:
    from export_onnx import time_onnx

    path = mr.export(model, folder / "model.onnx")
    difference, per_step = time_onnx(path, seconds)
    return Result(path.stat().st_size, difference, per_step)


TARGETS: dict[str, Callable[[Any, Record, Path, float], Result]] = {
    "numpy": to_numpy,
    "c": to_c,
    "c --int8": partial(to_c, int8=True),
    "onnx": to_onnx,
}
"""Each exports a model to a folder, runs the program on the record's input, and measures for so many seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*", metavar="CHECKPOINT")
    parser.add_argument("--only", choices=TARGETS, action="append")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    mr.set_num_threads(1)
    models = {path: lambda path=path: tasks.load(path).model for path in options.checkpoints} or MODELS
    print("| model | to | file | difference | a step | minirnn |\n|---|---|---|---|---|---|")
    for name, make in models.items():
        model = make().eval()
        made = record(model, seed=1)
        with mr.no_grad():
            ours = seconds_per_call(with_minirnn(model, made), options.seconds) / steps_of(model, made)
        for target in options.only or TARGETS:
            with tempfile.TemporaryDirectory() as folder:
                size, difference, seconds = TARGETS[target](model, made, Path(folder), options.seconds)
            times = f"{1e6 * seconds:.1f} µs | {1e6 * ours:.1f} µs"
            print(f"| {name} | {target} | {size / 1e3:,.0f} KB | {difference:.1e} | {times} |", flush=True)


if __name__ == "__main__":
    main()
