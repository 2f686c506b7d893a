"""Every cell's persistent kernels compiled to PTX, which needs NVVM but no GPU; the simulator does not check types.

A process of its own stands in for one with a GPU: its arrays have no memory, and what launches a kernel compiles it
instead. ``python tests/kernels/test_cuda_ptx.py lstm gru 7.5`` compiles what is named, for that compute capability;
with PTX_FOLDER set, it writes the PTX there.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from minirnn import cells
from minirnn.kernels.contract import Noise, RecurrentWeights, TokenModel
from minirnn.kernels.plan import Plan, make_plan
from minirnn.kernels.steps import dense_steps

if "pytest" in sys.modules:
    import pytest

    MISSING = ""
    if importlib.util.find_spec("numba_cuda") is None:
        MISSING = "needs numba-cuda with NVVM (extra: cuda12 or cuda13)"
    elif os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        MISSING = "the simulator has no compiler"

    @pytest.mark.skipif(bool(MISSING), reason=MISSING)
    @pytest.mark.parametrize("cell", [*cells.names(), "projected"])
    def test_kernels_compile_to_ptx(cell: str) -> None:
        done = subprocess.run([sys.executable, __file__, cell, "9.0"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        kernels = {line.split()[0] for line in done.stdout.splitlines()}
        assert kernels == {"forward", "backward"} if cell == "projected" else {"forward", "backward", "generate"}


class Memory:
    """Stands in for device memory, and for an array in it."""

    device_ctypes_pointer = SimpleNamespace(value=1 << 20)

    def __init__(self, shape: Any, strides: Any, dtype: Any = np.uint8, gpu_data: Any = None) -> None:
        self.size, self.shape, self.dtype, self.gpu_data = int(np.prod(shape)), shape, np.dtype(dtype), self

    def view(self, *args: Any) -> Memory:
        return self

    def copy_to_device(self, values: Any) -> None:
        pass

    def copy_to_host(self) -> np.ndarray:
        return np.zeros(self.shape, self.dtype)


def compile_all(names: list[str], capability: tuple[int, int], folder: Path | None) -> None:
    """Compile the kernels of these cells; prints a line for each, and writes its PTX to ``folder``."""
    from numba import cuda, types
    from numba.np.numpy_support import from_dtype

    cuda.is_available = lambda: True
    cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    cuda.device_array = lambda shape, dtype: Memory(shape, None, dtype)
    from minirnn.kernels.cuda import array, generate, launch, launch_plan, persistent, recurrence

    seen: dict[Any, int] = {}
    label: list[str] = []

    def kind(arg: Any) -> Any:
        if isinstance(arg, tuple):
            return types.BaseTuple.from_types(tuple(map(kind, arg)))
        if isinstance(arg, array.DeviceArray):
            return types.Array(from_dtype(arg.dtype), arg.ndim, "C")
        known = {bool: types.boolean, int: types.int64, float: types.float64, np.uint64: types.uint64}
        return known[type(arg)]

    def compiled(function: Any, blocks: Any, threads: int, shared_bytes: int, args: tuple[Any, ...]) -> None:
        if function.py_func.__module__ not in (recurrence.__name__, generate.__name__):
            return
        signature = tuple(map(kind, args))
        if (function, signature) in seen:
            return
        text, _ = cuda.compile_ptx(function.py_func, signature, cc=capability)
        values: list[Any] = []
        launch._flatten(args, [], values)
        parameters = text[text.index(".entry") :].partition("{\n")[0].count(".param ")
        assert len(values) == parameters, f"{len(values)} values for {parameters} parameters"
        seen[function, signature] = len(text)
        print(function.py_func.__name__, *label, len(text), flush=True)
        if folder is not None:
            (folder / f"{'_'.join([function.py_func.__name__, *label])}.ptx").write_text(text)

    gpu = launch_plan.Limits(132, 232448, 512, True)
    launch.launch_grid, persistent._allow_shared, persistent.limits = compiled, lambda *args: None, lambda: gpu
    for module, name in ((recurrence, "plan_recurrence"), (generate, "plan_sampling")):
        make = getattr(module, name).__wrapped__
        setattr(module, name, lambda *args, make=make: make(*args, path=path))

    variants = itertools.product(names, ("float32", "float64"), ("block", "grid"), (False, True))
    for name, dtype, path, noisy in variants:
        if dtype == "float64" and (noisy or path == "grid"):  # the paths differ by more than the types
            continue
        label[:] = [name, dtype, path, *(["noisy"] if noisy else [])]
        run_layer(recurrence.Recurrence, name, functools.partial(array.empty, dtype=np.dtype(dtype)), noisy)
        if not noisy and name != "projected":
            run_sampler(generate.Sampler, name, functools.partial(array.empty, dtype=np.dtype(dtype)))


H, N = 128, 32  # hidden units, sequences


def weights_of(cell: Plan, array: Any, projected: int | None = None) -> RecurrentWeights:
    return RecurrentWeights(
        weight_hh=array((cell.recurrent * H, projected or H)),
        bias=array((cell.separate * H,)) if cell.separate else None,
        vectors=array((len(cell.equations.vectors), H)) if cell.equations.vectors else None,
        inner=[array((H, H)) for _ in range(cell.inputs)],
        weight_hr=array((projected, H)) if projected else None,
    )


def run_layer(kind: Any, name: str, array: Any, noisy: bool) -> None:
    """Forward and backward; where ``noisy`` with zoneout, dropout of updates and a mask."""
    projected = 64 if name == "projected" else None
    equations = cells.get("lstm" if projected else name).equations.resolve(True, noisy, noisy, noisy and not projected)
    cell, steps = make_plan(equations), dense_steps(10, N)
    widths = [projected or H, *[H] * (len(equations.states) - 1)]
    states, d_states = ([array((N, width)) for width in widths] for _ in range(2))
    noise = Noise(3, 0.1, 0.1, array((N, H)) if equations.masked else None)
    gates, weights = array((steps.rows, cell.gates * H)), weights_of(cell, array, projected)
    kind(equations, gates, None, None, weights, states, steps, noise).backward(array((steps.rows, widths[0])), d_states)


def run_sampler(kind: Any, name: str, array: Any) -> None:
    """Two layers."""
    equations = cells.get(name).equations.resolve(False, zoneout=True)
    cell, layers, V = make_plan(equations), 2, 65
    weight_ih, bias_ih = [array((cell.gates * H, H))], [array((cell.gates * H,))]
    recurrent = [weights_of(cell, array) for _ in range(layers)]
    table, head, head_bias = array((V, cell.gates * H)), array((V, H)), array((V,))
    model = TokenModel(equations, table, weight_ih, bias_ih, recurrent, head, head_bias)
    sampler = kind(model, [array((layers, N, H)) for _ in equations.states])
    sampler.run(np.zeros((2, N), np.int64), 5, 0.7, 10, 0.9, np.zeros(N, np.uint64), 0)


if __name__ == "__main__":
    numbers = [arg for arg in sys.argv[1:] if arg[0].isdigit()]
    chosen = [arg for arg in sys.argv[1:] if not arg[0].isdigit()]
    major, minor = map(int, (numbers or ["9.0"])[0].split("."))
    to = os.environ.get("PTX_FOLDER")
    compile_all(chosen or [*cells.names(), "projected"], (major, minor), Path(to) if to else None)
