"""The house: every floor imports only from floors below it, importing is light, and ``__all__`` is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minirnn as mr
from minirnn.kernels.contract import Backend

PACKAGE = Path(mr.__file__).parent

# A module's floor is that of the longest prefix found here.
FLOORS = {
    "minirnn.errors": 0,
    "minirnn.random": 0,
    "minirnn.kernels": 1,
    "minirnn.autograd": 2,
    "minirnn.cells": 2,
    "minirnn.nn": 3,
    "minirnn.optim": 3,
    "minirnn.models": 4,
    "minirnn.data": 0,  # know NumPy only
    "minirnn.decode": 0,
    "minirnn.metrics": 0,
    "minirnn.checkpoint": 4,
    "minirnn.runs": 5,
    "minirnn.training": 5,
    "minirnn.tasks": 6,
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _floor(module: str) -> int | None:
    while module:
        if module in FLOORS:
            return FLOORS[module]
        module = module.rpartition(".")[0]
    return None


def _imports(path: Path) -> set[str]:
    """Modules of the package that a file imports at run time, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "minirnn"}


@pytest.mark.parametrize("module", [name for name in _modules() if name != "minirnn"])
def test_floors_import_downwards_only(module: str) -> None:
    floor = _floor(module)
    assert floor is not None, f"{module} belongs to no floor; add it to FLOORS"
    for imported in _imports(_modules()[module]):
        below = _floor(imported)
        if imported == "minirnn" or below is None:
            assert _floor(imported.rpartition(".")[0]) is not None or imported.startswith("minirnn."), imported
            continue
        assert below <= floor, f"{module} (floor {floor}) imports {imported} (floor {below})"


def test_only_one_place_imports_each_outer_library() -> None:
    """Numba stays in the kernels, safetensors in the checkpoints."""
    for module, path in _modules().items():
        text = path.read_text(encoding="utf-8")
        if "import numba" in text or "from numba" in text or "llvmlite" in text:
            assert module.startswith("minirnn.kernels."), module
        if "safetensors" in text.replace(".safetensors", ""):
            assert module in ("minirnn.checkpoint", "minirnn.training"), module


def test_numba_cuda_is_imported_by_one_line() -> None:
    """What it is called, and which package it is of, has changed before."""
    lines = [
        (module, line)
        for module, path in _modules().items()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) numba.*\bcuda\b", line)
    ]
    assert lines == [("minirnn.kernels.cuda.jit", "    from numba import cuda")]


def test_both_backends_have_every_name_of_the_contract() -> None:
    """Read from the sources, since a GPU may be missing; mypy checks the types."""
    expected = {name for name in vars(Backend) if not name.startswith("_")}
    for backend in ("cpu", "cuda"):
        tree = ast.parse((PACKAGE / "kernels" / backend / "__init__.py").read_text(encoding="utf-8"))
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        names |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert expected <= names, backend


def test_no_pickle_and_no_eval() -> None:
    """The kernel cache alone unpickles: Numba's format, in a folder only its user can write. One module compiles the
    source that is generated from a graph whose names and numbers were checked.
    """
    for module, path in _modules().items():
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "compile"} or module == "minirnn.kernels.build", module
        if "import pickle" in path.read_text(encoding="utf-8"):
            assert module == "minirnn.kernels.cache"


def test_importing_is_light() -> None:
    """No compiler, no CUDA, no rich, no SciPy before they are needed."""
    heavy = ("numba", "numba_cuda", "rich", "scipy", "typer", "torch")
    code = f"import sys, minirnn; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [mr, mr.nn, mr.optim, mr.models, mr.nn.functional])
def test_all_names_exist(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(module, name), name
