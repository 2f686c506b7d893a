"""What a program can tell its user about the GPU and how it is used."""

from __future__ import annotations

from minirnn.kernels.cuda import cublas
from minirnn.kernels.cuda.jit import SIMULATOR, cuda
from minirnn.kernels.cuda.launch_plan import Problem, plan_recurrence
from minirnn.kernels.cuda.persistent import limits
from minirnn.kernels.cuda.step import steps_of
from minirnn.kernels.equations import Equations

_PATHS = {
    "block": "each block of threads computes sequences of its own",
    "grid": "all blocks share the units of a step, with a grid sync after each",
}


def device_name() -> str:
    """The current GPU's name, as its driver gives it."""
    if SIMULATOR:
        return "simulated"
    name = cuda.get_current_device().name
    return name.decode() if isinstance(name, bytes) else str(name)


def product_library() -> str:
    """What computes large matrix products: "cuBLAS" or "own kernel"."""
    return "cuBLAS" if cublas.available() else "own kernel"


def device_summary() -> str:
    """The GPU's name and what computes matrix products: ``NVIDIA H100; products: cuBLAS``."""
    return f"{device_name()}; products: {product_library()}"


def recurrence_summary(equations: Equations, hidden_size: int, batch_size: int) -> str:
    """How a float32 layer of a cell would run: ``recurrent kernel: block (...)``.

    Raises:
        DeviceError: a step does not fit on this GPU.
    """
    forward = steps_of(equations.resolve(training=True))[1]
    problem = Problem(hidden_size, batch_size, forward.recurrent, 4, stages=forward.stages)
    path = plan_recurrence(problem, limits()).path
    return f"recurrent kernel: {path} ({_PATHS[path]})"
