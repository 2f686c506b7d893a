"""What every test gets: reproducible Hypothesis runs, a known seed, and a check that no global state leaks.

Markers: ``needs_torch``, ``needs_jit``, ``needs_bfloat16`` and ``needs_gpu`` skip with a reason where PyTorch is
missing, under ``NUMBA_DISABLE_JIT=1`` what is about compiling itself, where the CPU does not multiply bfloat16, and
without a GPU what is not simulated. Fixtures: ``dtype`` (float32 and float64), ``device`` ("cpu" and "cuda"), ``GPU``
("cuda" alone), ``torch``.

``NUMBA_BOUNDSCHECK=1`` finds indices out of bounds in compiled code, but for the matrix tile; its plain stand-in is
checked under ``NUMBA_DISABLE_JIT=1``.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import minirnn as mr
from minirnn import kernels
from minirnn.autograd import tape
from minirnn.kernels import tile
from minirnn.kernels.jit import DISABLED

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") != "0"
if SIMULATED:
    import simulator

    simulator.prepare()

_NO_GPU = kernels.unavailable_reason("cuda")

settings.register_profile(
    "minirnn",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=10 if DISABLED or SIMULATED else 40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("minirnn")

_NEEDS = {
    "needs_torch": (importlib.util.find_spec("torch") is None, "PyTorch is not installed (extra: peers)"),
    "needs_jit": (DISABLED, "about compiled code; NUMBA_DISABLE_JIT is set"),
    "needs_bfloat16": (
        not (DISABLED or "avx512bf16" in tile.cpu_features()),
        "this CPU does not multiply bfloat16 (avx512_bf16)",
    ),
    "needs_gpu": (bool(_NO_GPU) or SIMULATED, "the simulator does not have what is tested, or there is no GPU"),
}


_window = tile._window


def _window_within(array: np.ndarray, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """What the matrix tile touches, all of it inside ``array``."""
    last = start + sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
    if not 0 <= start <= last < array.size:
        raise IndexError(f"the tile touches {start} to {last} of {array.size} elements")
    return _window(array, start, shape, strides)


tile._window = _window_within


def pytest_configure(config: pytest.Config) -> None:
    for name, (_, reason) in _NEEDS.items():
        config.addinivalue_line("markers", f"{name}: skipped when {reason}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, (missing, reason) in _NEEDS.items():
            if missing and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def clean_state() -> Iterator[None]:
    """Seeds every draw; fails, after putting it right, a test that leaves global state changed."""
    mr.manual_seed(1337)
    threads = mr.get_num_threads()
    yield
    leaks = []
    if not tape._mode.recording:
        leaks.append("recording is still off (no_grad)")
    if tape._mode.anomaly:
        leaks.append("detect_anomaly is still on")
    if mr.get_num_threads() != threads:
        leaks.append(f"set_num_threads: {threads} threads became {mr.get_num_threads()}")
    tape._mode.recording, tape._mode.anomaly = True, False
    mr.set_num_threads(threads)
    assert not leaks, f"the test leaks global state: {'; '.join(leaks)}"


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype:
    return np.dtype(request.param)


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """Each device; "cuda" is skipped where there is neither a GPU nor the simulator."""
    if request.param == "cuda" and _NO_GPU:
        pytest.skip(_NO_GPU)
    return request.param


@pytest.fixture(params=["cuda"])
def gpu(request: pytest.FixtureRequest) -> str:
    """The device "cuda" alone, for what compares it with the CPU."""
    if _NO_GPU:
        pytest.skip(_NO_GPU)
    return request.param


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch, the outside oracle; a test that asks for it is skipped where it is missing."""
    return pytest.importorskip("torch", reason="PyTorch is not installed (extra: peers)")


@pytest.fixture
def set_threads() -> Iterator[Any]:
    """``mr.set_num_threads``, undone at the end of the test."""
    before = mr.get_num_threads()
    yield mr.set_num_threads
    mr.set_num_threads(before)
