"""No loop over units stays scalar in float32: each generated loop works on vectors and calls no scalar function."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numba
import pytest

import minirnn as mr
from minirnn.kernels.build import build_function
from minirnn.kernels.cpu.kernel import FUNCTIONS, kernels_of, set_noalias
from minirnn.kernels.jit import jit

pytestmark = pytest.mark.needs_jit

ARRAY = numba.types.float32[::1]
ARITHMETIC = r"\b(fadd|fsub|fmul|fdiv|fcmp|fneg|select)\b[^\n]*<\d+ x float>|@llvm\.[\w.]+\.v\d+f32"
SCALAR = r"call [^@\n]*\b(?:float|double) @((?!Py|llvm\.)[\w.]+)"
"""Calls of functions on scalars; neither single instructions nor what takes Python's numbers apart are such."""


def problems(kernel: Any, name: str) -> list[str]:
    """What of the optimised code of one loop works on single units."""
    code, text = optimised(kernel, name), kernel.sources[name]
    body = text.split("for j in")[1].split("\n", 1)[1]
    found = [f"{called} is called" for called in sorted(set(re.findall(SCALAR, code)) - {"sqrtf"})]
    if re.search(r"[-+*/<]|\w\(", body) and not re.search(ARITHMETIC, code):
        found.append("no arithmetic on vectors")
    if re.search(r"\] \+?= ", body) and not re.search(r"store <\d+ x float>", code):
        found.append("no vector is stored")
    return found


def optimised(kernel: Any, name: str) -> str:
    """LLVM's code of one loop, compiled as for the kernel but by itself."""
    text = kernel.sources[name]
    function = build_function(name, text, FUNCTIONS, f"alone_{name}")
    compiled = set_noalias(jit(function, inline=True, reassociate=name in kernel.reductions))
    parameters = re.search(r"\((.*)\)", text.splitlines()[0]).group(1).split(", ")  # type: ignore[union-attr]
    scalar = {"seed": numba.types.uint64, "counter": numba.types.int64}
    types = tuple(ARRAY if p.startswith("a") else scalar.get(p, numba.types.float32) for p in parameters)
    compiled.compile(types)
    return compiled.inspect_llvm(types)


@pytest.mark.parametrize("cell", mr.cells.names())
def test_loops_of_built_in_cells_vectorise(cell: str) -> None:
    _, forward, backward = kernels_of(mr.cells.get(cell).equations.resolve(training=True), False)
    for kernel in (forward, backward):
        loops = [name for name in kernel.sources if name != kernel.name]
        assert loops
        for name in loops:
            assert problems(kernel, name) == [], f"{kernel.name} {name} of {cell}:\n{kernel.sources[name]}"


LOOP = """def loop(a0, a1):
    kind = a0.dtype.type
    t = kind(0)
    for j in range(a0.size):
        {}
    return t
"""


@pytest.mark.parametrize(("line", "expected"), [
    ("a0[j] = tanh(a1[j])", []), ("t += a0[j] * a1[j]", ["no arithmetic on vectors"]),
    ("a0[j] = tanh(a0[max(j, 1) - 1])", ["no arithmetic on vectors", "no vector is stored"]),
])  # fmt: skip
def test_a_scalar_loop_is_found(line: str, expected: list[str]) -> None:
    """The check itself: a sum in order, and a loop whose steps need the one before, cannot work on vectors."""
    assert problems(SimpleNamespace(sources={"loop": LOOP.format(line)}, reductions=set()), "loop") == expected
