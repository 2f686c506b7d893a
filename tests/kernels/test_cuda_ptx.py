"""All kernels compiled to PTX, which needs NVVM but no GPU; the simulator does not check types.

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

NAMES = [*cells.names(), "projected", "operations"]

if "pytest" in sys.modules:
    import pytest

    MISSING = ""
    if importlib.util.find_spec("numba_cuda") is None:
        MISSING = "needs numba-cuda with NVVM (extra: cuda12 or cuda13)"
    elif os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0":
        MISSING = "the simulator has no compiler"

    @pytest.mark.skipif(bool(MISSING), reason=MISSING)
    @pytest.mark.parametrize("name", NAMES)
    def test_kernels_compile_to_ptx(name: str) -> None:
        done = subprocess.run([sys.executable, __file__, name, "9.0"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        kernels = {line.split()[0] for line in done.stdout.splitlines()}
        if name == "operations":
            assert {"binary", "by_blocks", "gemm", "_cross_entropy", "_ctc_loss", "_query_backward"} < kernels
        else:
            assert kernels == {"forward", "backward"} | ({"generate"} if name != "projected" else set())


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
        if isinstance(arg, np.generic):
            return from_dtype(arg.dtype)
        return {bool: types.boolean, int: types.int64, float: types.float64}[type(arg)]

    def compiled(function: Any, blocks: Any, threads: int, shared_bytes: int, args: tuple[Any, ...]) -> None:
        if label[0] != "operations" and function.py_func.__module__ not in (recurrence.__name__, generate.__name__):
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
        if name == "operations":
            run_operations(functools.partial(array.empty, dtype=np.dtype(dtype)))
            continue
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


def run_operations(array: Any) -> None:
    """One of each kernel outside the persistent ones."""
    from minirnn.kernels import cuda as K

    a, b, vector, p, rows = array((3, 4)), array((3, 4)), array((4,)), array((100,)), np.array([0, 1, 1])
    for name in "add subtract multiply divide power maximum minimum equal not_equal less less_equal".split():  # noqa: SIM905
        getattr(K, name)(a, b)
    for name in "abs negative sign exp log log1p sqrt tanh sigmoid softplus erf".split():  # noqa: SIM905
        getattr(K, name)(a)
    K.add(array((2, 3, 4)), array((3, 1)))
    K.where(K.less(a, b), a, 0.0)
    wide = array((3, 100))
    wide.sum(1), wide.max(1), a.min(0), a.any(), K.argmax(wide, 1), K.argmin(a, 0), K.cumsum(a, 0)
    a[rows], a[np.ones((3, 4), bool)], a.T
    a[rows] = b
    K.take_along_axis(a, np.zeros((3, 2), int), 1)
    K.put_along_axis(a, np.zeros((3, 2), int), array((3, 2)), 1)
    K.add_at(a, rows, b)
    K.scatter_add_rows(a, rows, 5), K.column_sums(wide), K.dropout(a, 0.3, 7), K.square_sum(p)
    K.gemm(array((600, 300)), array((300, 600)), array((600,))), K.gemm(array((4, 3000)), array((3000, 5)))
    K.gemm(array((3, 4)), array((3, 5)), transpose_a=True, rows=rows), K.gemm(a, b, transpose_b=True)
    K.matmul(array((2, 3, 4)), array((2, 4, 5)))
    K.sgd(p, p, p, 0.1, 0.9, 0.0, 0.0, True, False)
    K.rmsprop(p, p, p, p, p, 0.1, 0.9, 1e-8, 0.0, 0.9)
    K.adagrad(p, p, p, 0.1, 1e-8, 0.0)
    K.adam(p, p, p, p, 1, 0.1, 0.9, 0.99, 1e-8, 0.0, True)
    K.cross_entropy(a, rows, vector, 0.1, 1.0, True, True)
    K.ctc_loss(array((5, 2, 4)), np.ones((2, 3), int), np.array([5, 0]), np.array([3, 0]), 0, np.ones(2), False, True)
    inputs = array((2, 3, 4)), array((5, 3, 4)), array((5, 3, 6)), vector, np.array([5, 2, 0]), 0.5
    context, weights = K.attention_forward(*inputs)
    K.attention_backward(*inputs, weights, context, weights)


if __name__ == "__main__":
    numbers = [arg for arg in sys.argv[1:] if arg[0].isdigit()]
    chosen = [arg for arg in sys.argv[1:] if not arg[0].isdigit()]
    major, minor = map(int, (numbers or ["9.0"])[0].split("."))
    to = os.environ.get("PTX_FOLDER")
    compile_all(chosen or NAMES, (major, minor), Path(to) if to else None)
