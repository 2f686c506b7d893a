"""A second process that compiles ahead fills the cache, computes nothing, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.needs_jit, pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork")]

SCRIPT = """
import multiprocessing, os, sys, time
import numpy as np
from minirnn.kernels import cpu
from minirnn.kernels.ahead import compile_ahead
from minirnn.kernels.cache import cache_folder, on_compile
parent, x, computed, compiled = os.getpid(), np.ones((3, 4)), [], []

def step():
    total = cpu.square_sum(np.ones(5))
    if os.getpid() == parent:
        computed.append(total)
    print("not shown")
    cpu.column_sums(x)
    raise RuntimeError("not shown either")

with on_compile(compiled.append), compile_ahead(step):
    cpu.dropout(x, 0.5, 1)
    for _ in range(1200 if sys.argv[1] == "helped" else 0):
        if len(list(cache_folder().glob("*_s*ums.*.nbc"))) == 2:
            break
        time.sleep(0.05)
    sums = cpu.square_sum(np.ones(5)), cpu.column_sums(x).tolist()
assert not multiprocessing.active_children()
print(computed, compiled, sums)
"""

MEETING = """
import os, sys, time
from pathlib import Path
import numpy as np
from minirnn.kernels import cpu
from minirnn.kernels.ahead import compile_ahead
from minirnn.kernels.cache import KernelCache
from minirnn.kernels.cpu import rows
parent, save, saving = os.getpid(), KernelCache.save_overload, Path(os.environ["MINIRNN_CACHE_DIR"], "saving")

def save_late(*args):
    if os.getpid() != parent:
        saving.touch()
        time.sleep(0.5)
    save(*args)

KernelCache.save_overload = save_late
with compile_ahead(lambda: cpu.column_sums(np.ones((3, 4)))):
    cpu.dropout(np.ones((3, 4)), 0.5, 1)
    for _ in range(1200):
        if saving.exists():
            break
        time.sleep(0.05)
    sums = cpu.column_sums(np.ones((3, 4))).tolist()
print(sums, len(rows._column_sums.stats.cache_hits), len(rows._column_sums.stats.cache_misses))
"""


def output(root: Path, threads: int, mode: str, script: str = SCRIPT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, mode],
        env=os.environ
        | {"MINIRNN_CACHE_DIR": str(root), "MINIRNN_NUM_THREADS": str(threads)}
        | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_second_process_compiles_what_a_step_needs_and_ends(tmp_path: Path) -> None:
    """Although its step fails at the end, and its parent is busy with another kernel."""
    assert output(tmp_path, 2, "helped") == "[] ['_dropout'] (5.0, [3.0, 3.0, 3.0, 3.0])"
    assert output(tmp_path, 2, "helped") == "[] [] (5.0, [3.0, 3.0, 3.0, 3.0])", "there was nothing to compile"


def test_a_kernel_that_the_second_process_compiles_is_waited_for(tmp_path: Path) -> None:
    assert output(tmp_path, 2, "", MEETING) == "[3.0, 3.0, 3.0, 3.0] 1 0"


def test_one_thread_compiles_alone(tmp_path: Path) -> None:
    names = ["_dropout", "_square_sums", "_column_sums"]
    assert output(tmp_path, 1, "alone") == f"[] {names} (5.0, [3.0, 3.0, 3.0, 3.0])"
