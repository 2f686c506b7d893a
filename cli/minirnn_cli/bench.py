"""``bench``: speed of training and sampling on this machine, compared with PyTorch and JAX where they are installed.

Every row is the same work for each program: embedding, recurrent layers, linear head, softmax cross-entropy,
backpropagation through time, gradient-norm clipping, Adam. After warm-up the programs take turns (A B A B ...), each
for a fraction of a second after a pause in which the threads of the other go to sleep. A figure is the median over
turns, a ratio the median of the ratios of neighbouring turns. On a shared machine read the ratios, not the times.

GFLOP/s count 6 (I G H + H G H) B T per layer and 6 H V B T for the head, also where a program avoids a part of that
work; next to them stands their fraction of the rate of minirnn's large matrix products on the same threads, measured
in the same run. With ``--device cuda`` minirnn and PyTorch run on the GPU, both without TF32. With ``--precision bf16``
minirnn multiplies bfloat16, PyTorch runs under ``torch.autocast``, and minirnn with float32 products runs beside them.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from minirnn import cells
from minirnn.errors import OptionError
from minirnn_cli import options as o

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Work:
    """One row of the table: a training step, or sampling where ``streams`` is set."""

    cell: str
    layers: int
    hidden: int
    batch: int
    steps: int
    vocabulary: int
    streams: int = 0

    @property
    def gflop(self) -> float:
        gates = len(cells.get(self.cell).recurrent_gates)
        per_layer = 6.0 * 2 * self.hidden * gates * self.hidden
        positions = self.batch * self.steps
        return positions * (self.layers * per_layer + 6.0 * self.hidden * self.vocabulary) / 1e9


ROWS = {
    "lstm-2x128": Work("lstm", 2, 128, 50, 50, 65),
    "gru-2x128": Work("gru", 2, 128, 50, 50, 65),
    "rnn-2x128": Work("rnn", 2, 128, 50, 50, 65),
    "lstm-2x512": Work("lstm", 2, 512, 64, 128, 100),
    "gru-2x512": Work("gru", 2, 512, 64, 64, 100),
    "lstm-2x256": Work("lstm", 2, 256, 32, 64, 65),
    "lstm-2x650": Work("lstm", 2, 650, 20, 35, 10000),
    "lstm-1x100": Work("lstm", 1, 100, 1, 25, 65),
    "sample-2x128": Work("lstm", 2, 128, 1, 1, 65, streams=1),
    "sample-2x512": Work("lstm", 2, 512, 1, 1, 65, streams=1),
    "sample-2x256-64": Work("lstm", 2, 256, 1, 1, 65, streams=64),
}
RowName = StrEnum("RowName", {name: name for name in ROWS})  # type: ignore[misc] # Typer takes no list of Literal
_STANDARD = [RowName(name) for name in ROWS if name != "lstm-2x650"]

Runner = Callable[[], int]
"""Does some work and returns how much of it: steps, or symbols sampled."""


def minirnn_runner(
    work: Work, threads: int, device: str = "cpu", precision: str = "fp32", weights: str = "fp32"
) -> Runner:
    import numpy as np

    import minirnn as mr
    from minirnn.tasks.char import WEIGHTS

    mr.set_num_threads(threads)
    mr.manual_seed(0)
    model = mr.models.CharLM(work.vocabulary, work.hidden, work.layers, work.cell).to(device)
    if work.streams:
        prime = np.zeros((1, work.streams), np.int64)
        length = max(64, 4000 // work.streams)
        stored = WEIGHTS[weights]

        def write() -> int:
            mr.set_num_threads(threads)
            return model.generate(prime, length, seed=1, weights=stored).size

        return write
    parameters = list(model.parameters())
    optimizer = mr.optim.Adam(parameters, lr=1e-3)
    # on the host, as in training; those of PyTorch are on the GPU already
    inputs, targets = (tokens.reshape(work.steps, work.batch) for tokens in _tokens(work))

    def step() -> int:
        optimizer.zero_grad()
        with mr.matmul_precision(precision):
            loss, _ = model.loss(inputs, targets)
            loss.backward()
        mr.optim.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()  # what a training run shows; on a GPU, the end of the work
        return 1

    return step


def one_thread_runner(work: Work, threads: int, device: str = "cpu", weights: str = "fp32") -> Runner | None:
    several = work.streams and threads > 1 and device == "cpu"
    return minirnn_runner(work, 1, device, weights=weights) if several else None


def torch_runner(work: Work, threads: int, device: str = "cpu", precision: str = "fp32") -> Runner:
    import torch

    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(work.vocabulary, work.hidden).to(device)
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[work.cell]
    rnn = layer(work.hidden, work.hidden, work.layers).to(device)
    head = torch.nn.Linear(work.hidden, work.vocabulary).to(device)
    if work.streams:
        length = max(16, 400 // work.streams)

        @torch.no_grad()
        def sample() -> int:
            token, state = torch.zeros(1, work.streams, dtype=torch.long, device=device), None
            for _ in range(length):
                y, state = rnn(embedding(token), state)
                token = torch.multinomial(head(y[0]).softmax(-1), 1).T
            token.tolist()
            return length * work.streams

        return sample
    parameters = [*embedding.parameters(), *rnn.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    inputs, targets = (torch.from_numpy(tokens).to(device) for tokens in _tokens(work))

    def step() -> int:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            y, _ = rnn(embedding(inputs))
            loss = torch.nn.functional.cross_entropy(head(y).reshape(-1, work.vocabulary), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()
        return 1

    return step


def jax_runner(work: Work, threads: int, device: str = "cpu") -> Runner | None:
    if work.cell != "lstm" or work.streams or device != "cpu":
        return None
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    size, vocabulary = work.hidden, work.vocabulary

    def weight(*shape: int) -> Any:
        return jnp.asarray(rng.uniform(-1, 1, shape).astype(np.float32) / np.sqrt(size))

    parameters = {
        "embedding": weight(vocabulary, size),
        "head": weight(size, vocabulary),
        "bias": weight(vocabulary),
        "layers": [(weight(size, 4 * size), weight(size, 4 * size), weight(4 * size)) for _ in range(work.layers)],
    }

    def loss_of(p: Any, inputs: Any, targets: Any) -> Any:
        x = p["embedding"][inputs]
        for w_ih, w_hh, bias in p["layers"]:

            def cell(state: Any, row: Any, w_hh: Any = w_hh) -> Any:
                h, c = state
                i, f, g, o = jnp.split(row + h @ w_hh, 4, axis=-1)
                c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
                h = jax.nn.sigmoid(o) * jnp.tanh(c)
                return (h, c), h

            zeros = jnp.zeros((work.batch, size))
            _, x = jax.lax.scan(cell, (zeros, zeros), x @ w_ih + bias)
        scores = jax.nn.log_softmax((x @ p["head"] + p["bias"]).reshape(-1, vocabulary))
        return -jnp.take_along_axis(scores, targets[:, None], 1).mean()

    @jax.jit
    def update(p: Any, m: Any, v: Any, t: Any, inputs: Any, targets: Any) -> Any:
        g = jax.grad(loss_of)(p, inputs, targets)
        norm = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(g)))
        g = jax.tree.map(lambda x: x * jnp.minimum(1.0, 1.0 / (norm + 1e-6)), g)
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
        p = jax.tree.map(lambda p, a, b: p - 1e-3 * (a / (1 - 0.9**t)) / (jnp.sqrt(b / (1 - 0.999**t)) + 1e-8), p, m, v)
        return p, m, v

    zeros = jax.tree.map(jnp.zeros_like, parameters)
    state = [parameters, zeros, zeros, 0.0]
    inputs, targets = map(jnp.asarray, _tokens(work))

    def step() -> int:
        state[3] += 1
        state[:3] = jax.block_until_ready(update(*state[:3], state[3], inputs, targets))
        return 1

    return step


def _tokens(work: Work) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    rng = np.random.default_rng(1)
    inputs = rng.integers(work.vocabulary, size=(work.steps, work.batch))
    return inputs, rng.integers(work.vocabulary, size=work.steps * work.batch)


Program = Callable[[Work, int, str], Runner | None]
"""Makes the runner of a row; None where the program has no such work."""


def programs(alone: bool, precision: str, weights: str) -> dict[str, Program]:
    """Return the programs to measure, minirnn first."""
    installed = {name for name in ("torch", "jax") if not alone and importlib.util.find_spec(name)}
    made: dict[str, Program] = {"minirnn": partial(minirnn_runner, precision=precision, weights=weights)}
    if precision == "bf16":
        made["minirnn fp32"] = minirnn_runner
    else:
        made["one thread"] = partial(one_thread_runner, weights=weights)
    if "torch" in installed:
        made["torch"] = partial(torch_runner, precision=precision)
    if "jax" in installed and precision == "fp32":
        made["jax"] = jax_runner
    return made


def measure(runners: dict[str, Runner], seconds: float) -> dict[str, list[float]]:
    """Return the seconds per step or symbol of each program, one figure per turn."""
    for runner in runners.values():
        for _ in range(3):
            runner()
    times: dict[str, list[float]] = {name: [] for name in runners}
    turn = max(0.15, seconds / 10)
    for _ in range(7):
        for name, runner in runners.items():
            time.sleep(0.05)
            runner()  # wakes the threads
            done, began = 0, time.perf_counter()
            while (now := time.perf_counter()) - began < turn or done == 0:
                done += runner()
            times[name].append((now - began) / done)
    return times


def product_rate(threads: int, device: str = "cpu", precision: str = "fp32", seconds: float = 1.0) -> float:
    """Return GFLOP/s of minirnn's product of square matrices, of size 1024, on a GPU 4096."""
    import statistics

    import numpy as np

    import minirnn as mr
    from minirnn.kernels import on

    mr.set_num_threads(threads)
    K, size = on(device), 1024 if device == "cpu" else 4096
    a, b = (mr.tensor(np.random.default_rng(n).random((size, size), np.float32), device=device).data for n in (0, 1))

    def work() -> None:
        with mr.matmul_precision(precision):
            K.to_numpy(K.gemm(a, b)[0])  # to the host: when it is there, the work is done

    work()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times) / 1e9


def _machine(device: str, threads: int, precision: str) -> dict[str, Any]:
    """The machine, and the speed of its large matrix products."""
    if device == "cpu":
        one, every = product_rate(1, device, precision), product_rate(threads, device, precision)
        return {"threads": threads, "product_gflops_1_thread": one, "product_gflops": every}
    from minirnn.kernels.cuda.info import device_name, product_library

    return {
        "GPU": device_name(), "products_by": product_library(), "product_gflops": product_rate(threads, device)
    }  # fmt: skip


def bench(
    rows: Annotated[
        list[RowName] | None, typer.Argument(help="What to measure; by default all but the largest.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to measure each program and row.")] = 2.0,
    alone: Annotated[bool, typer.Option("--alone", help="Do not measure PyTorch and JAX.")] = False,
    threads: o.Threads = None,
    device: o.Device = "cpu",
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Of matrix products in training; bf16 is measured beside fp32.")
    ] = "fp32",
    weights: Annotated[
        Literal["fp32", "bf16", "int8"], typer.Option(help="Weights of minirnn's sampling; PyTorch's are fp32.")
    ] = "fp32",
    quiet: o.Quiet = False,
    json: o.Json = False,
) -> None:
    """Measure training and sampling on this machine, and of PyTorch and JAX where they are installed."""
    import statistics
    from json import dumps

    from minirnn.kernels import get_num_threads, on, set_num_threads
    from minirnn.kernels.precision import check_precision
    from minirnn_cli.show import compile_notes, say

    on(device)
    check_precision(precision, device)
    chosen = rows or [row for row in _STANDARD if precision == "fp32" or not ROWS[row].streams]
    if precision == "bf16" and (sampling := [row.value for row in chosen if ROWS[row].streams]):
        raise OptionError(f"--precision: sampling has no bf16, got {', '.join(sampling)}; give --weights bf16")
    count, measured = threads or get_num_threads(), programs(alone, precision, weights)
    peers = list(measured)
    with compile_notes(quiet):
        machine = _machine(device, count, precision)
        every = machine["product_gflops"]
        if json:
            print(dumps(machine), flush=True)
        else:
            if device == "cpu":
                one = machine["product_gflops_1_thread"]
                print(f"{count} threads; minirnn's matrix products: {one:.0f} GFLOP/s on one, {every:.0f} on all\n")
            else:
                print(f"{machine['GPU']}; matrix products by {machine['products_by']}: {every:.0f} GFLOP/s\n")
            heads = ["work", *peers, "of its products' rate", *(f"against {peer}" for peer in peers[1:])]
            print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|", flush=True)
        for row in chosen:
            if not quiet:
                say(f"measuring {row.value} ...")
            work = ROWS[row.value]
            runners = {peer: r for peer, make in measured.items() if (r := make(work, count, device)) is not None}
            times = measure(runners, seconds)
            set_num_threads(count)  # the row of one thread may have been the last
            medians = {peer: statistics.median(values) for peer, values in times.items()}
            ours = times.pop("minirnn")
            ratios = {
                peer: statistics.median(b / a for a, b in zip(ours, values, strict=True))
                for peer, values in times.items()
            }
            if json:
                print(dumps({"row": row.value, "seconds": medians, "ratio": ratios, "gflop": work.gflop}), flush=True)
            else:
                cells = [_cell(work, medians[peer]) if peer in medians else "" for peer in peers]
                cells.append("" if work.streams else f"{work.gflop / medians['minirnn'] / every:.0%}")
                cells += [f"{ratios[peer]:.2f}x" if peer in ratios else "" for peer in peers[1:]]
                print(f"| {row.value} | " + " | ".join(cells) + " |", flush=True)


def _cell(work: Work, seconds: float) -> str:
    if work.streams:
        return f"{1 / seconds:,.0f} symbols/s"
    return f"{1e3 * seconds:.2f} ms ({work.gflop / seconds:.0f} GF/s)"
