"""The import graph: packages import downwards only, no two modules import each other, and importing is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import minirnn as mr
from minirnn.kernels.contract import Backend

ROOT = Path(mr.__file__).parents[1]
SOURCES = {"minirnn": ROOT / "minirnn", "minirnn_cli": ROOT / "cli" / "minirnn_cli"}

LAYERS = [
    {"minirnn.errors"},
    {"minirnn.validation"},
    {"minirnn.config", "minirnn.random", "minirnn.decode", "minirnn.metrics", "minirnn.data"},
    {"minirnn.kernels"},
    {"minirnn.distributed"},
    {"minirnn.autograd"},
    {"minirnn.cells"},
    {"minirnn.nn", "minirnn.optim"},
    {"minirnn.models"},
    {"minirnn.gradient_flow"},
    {"minirnn.checkpoint"},
    {"minirnn.runs"},
    {"minirnn.training"},
    {"minirnn.tensorboard"},
    {"minirnn.tasks"},
    {"minirnn.plot", "minirnn.serialization", "minirnn.sweep"},
    {"minirnn.export", "minirnn.importing"},
    {"minirnn"},
    {"minirnn_cli"},
    {"minirnn.__main__"},
]
"""From the bottom up, as docs/architecture.md draws it: each package or module imports from those above it in this list
only, from none beside it."""
NUMPY_ONLY = ("minirnn.errors", "minirnn.validation")
"""What ``data``, ``decode`` and ``metrics`` may import beside each other."""


@cache
def modules() -> dict[str, Path]:
    """Every module of both packages and its file."""
    found = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def run_time_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """The node and everything below it, but for what only type checkers read."""
    yield node
    checking = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    for child in node.orelse if checking else ast.iter_child_nodes(node):  # type: ignore[attr-defined]
        yield from run_time_nodes(child)


@cache
def imports(module: str) -> set[str]:
    """The modules that a module imports at run time, anywhere in the file; TYPE_CHECKING blocks do not count.

    ``from package import name`` imports the module ``package.name`` where there is one, else the package.
    """
    found: set[str] = set()
    for node in run_time_nodes(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            assert node.level == 0, f"{module}: imports are absolute"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in names}
    return {name for name in found if name in modules()} - {module}


def layer(module: str) -> int:
    """The number of a module's layer: that of the longest name in LAYERS that it begins with."""
    name = module
    while name:
        for number, names in enumerate(LAYERS):
            if name in names and (name != "minirnn" or module == "minirnn"):
                return number
        name = name.rpartition(".")[0]
    raise AssertionError(f"{module} belongs to no layer; add it to LAYERS")


def package_of(module: str) -> str:
    return next(name for name in LAYERS[layer(module)] if module == name or module.startswith(f"{name}."))


def import_circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of nodes that all reach each other: strongly connected components of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(node: str) -> None:
        number[node] = lowest[node] = len(number)
        stack.append(node)
        for target in graph[node]:
            if target not in number:
                visit(target)
            if target in stack:
                lowest[node] = min(lowest[node], lowest[target])
        if lowest[node] == number[node]:
            at = stack.index(node)
            component = set(stack[at:])
            del stack[at:]
            if len(component) > 1:
                circles.append(component)

    for node in graph:
        if node not in number:
            visit(node)
    return circles


@pytest.mark.parametrize("module", modules())
def test_packages_import_downwards_only(module: str) -> None:
    for imported in imports(module):
        assert layer(imported) < layer(module) or package_of(imported) == package_of(module), (
            f"{module} imports {imported}, which is not in a layer below it"
        )


@pytest.mark.parametrize(
    "module", [m for m in modules() if m.startswith(("minirnn.data", "minirnn.metrics", "minirnn.decode"))]
)
def test_data_metrics_and_decode_know_numpy_only(module: str) -> None:
    allowed = (*NUMPY_ONLY, package_of(module))
    assert all(package_of(imported) in allowed for imported in imports(module)), imports(module)


def test_no_import_circles_between_modules() -> None:
    """Imports inside functions included: they only hide a circle."""
    assert import_circles({module: imports(module) for module in modules()}) == []


def test_import_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}, "g": set()}
    assert sorted(map(sorted, import_circles(graph))) == [["a", "b", "c"], ["d", "e"]]


def test_only_one_package_imports_each_outer_library() -> None:
    """Numba is imported by the kernels only, safetensors by the checkpoints."""
    for module, path in modules().items():
        text = path.read_text(encoding="utf-8")
        if "import numba" in text or "from numba" in text or "llvmlite" in text:
            assert module.startswith("minirnn.kernels."), module
        if "safetensors" in text.replace(".safetensors", "") and module.startswith("minirnn."):
            assert module == "minirnn.checkpoint", module


def test_numba_cuda_is_imported_by_one_line() -> None:
    """Its name, and the package that has it, have changed before."""
    lines = [
        (module, line)
        for module, path in modules().items()
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*(from|import) numba.*\bcuda\b", line)
    ]
    assert lines == [("minirnn.kernels.cuda.jit", "    from numba import cuda")]


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_backends_have_all_names_of_the_contract(backend: str) -> None:
    """Read from the sources, for there may be no GPU; their types are checked by mypy."""
    defined: set[str] = set()
    for node in ast.parse(modules()[f"minirnn.kernels.{backend}"].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            defined |= {alias.name for alias in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    assert {name for name in vars(Backend) if not name.startswith("_")} <= defined


def test_no_pickle_and_no_eval() -> None:
    """Two exceptions: the kernel cache reads Numba's format, which is pickle, from a folder only its user can write;
    one module compiles source generated from a graph whose names and numbers were checked.
    """
    for module, path in modules().items():
        text = path.read_text(encoding="utf-8")
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"eval", "exec", "compile"} or module == "minirnn.kernels.build", module
        assert "import pickle" not in text or module == "minirnn.kernels.cache", module


def test_importing_is_light() -> None:
    """Compiler, CUDA, rich, SciPy are not imported before they are needed."""
    heavy = ("numba", "numba_cuda", "rich", "scipy", "typer", "torch")
    code = f"import sys, minirnn; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [mr, mr.nn, mr.optim, mr.models, mr.nn.functional, mr.autograd.ops])
def test_all_names_exist(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]
    assert len(set(names)) == len(names)
    for name in names:
        assert hasattr(module, name), name
