"""The size and shape of the code: lines, long files, import circles, types, docstrings, for one or several commits.

    python benchmarks/code_size.py                  # the working tree
    python benchmarks/code_size.py 2c58a13 HEAD     # two commits side by side
    python benchmarks/code_size.py --commit v0.2 --json

Only Python files count, and every line of them. Import circles are strongly connected components of the modules of the
package; an import inside a function counts, one under ``TYPE_CHECKING`` does not, nor does the package of a module that
is imported by its own name. Two figures for docstrings: every parameter is named under ``Args`` (of a class: in its
docstring or that of ``__init__``, or under ``Attributes``); or there or in double backticks, as in a first line that
says what the function does with ``x``. Of the kernels only the contract counts, which documents both backends.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONG = 300  # lines
CORE = re.compile(r"minirnn/(autograd|cells|nn|optim|models|training|checkpoint|kernels/(?!cuda/))")
SECTION = re.compile(
    r"^ *(Args|Attributes):\n(.*?)(?=^ *(?:Returns|Raises|Yields|Example|Examples|Note|Notes):|\Z)", re.M | re.S
)

Figures = dict[str, int | float]
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def measure(root: Path) -> Figures:
    """All figures of the checkout at ``root``, in the order of the table."""
    files = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items() if not name.startswith(".")}
    package = {name: text for name, text in texts.items() if name.startswith(("minirnn/", "cli/"))}
    trees = {name: ast.parse(text) for name, text in package.items()}
    figures: Figures = dict(sorted(lines_by_part(texts).items()))
    figures["lines: package and CLI"] = sum(map(count_lines, package.values()))
    figures["lines: core (autograd, cells, nn, optim, models, training, checkpoint, CPU kernels)"] = sum(
        count_lines(text) for name, text in package.items() if CORE.match(name)
    )
    figures[f"files over {LONG} lines, package and CLI"] = sum(count_lines(text) > LONG for text in package.values())
    tests = [text for name, text in texts.items() if name.startswith("tests/")]
    figures[f"files over {LONG} lines, tests"] = sum(count_lines(text) > LONG for text in tests)
    circles = import_circles(trees)
    figures["import circles"] = len(circles)
    figures["modules in import circles"] = sum(map(len, circles))
    figures["bare Any in annotations"] = sum(map(count_any, trees.values()))
    figures["`fmt: skip`, everywhere"] = sum(text.count("# fmt: " + "skip") for text in texts.values())
    figures |= docstrings({name: tree for name, tree in trees.items() if name.startswith("minirnn/")})
    readme = root / "README.md"
    words = readme.read_text(encoding="utf-8") if readme.exists() else ""
    return figures | {"words of README": len(words.split()), "lines of README": count_lines(words)}


def count_lines(text: str) -> int:
    return len(text.splitlines())


def lines_by_part(texts: dict[str, str]) -> Counter[str]:
    """Lines of every package of ``minirnn``, of its modules outside packages, and of the other folders."""
    lines: Counter[str] = Counter()
    for name, text in texts.items():
        first, *rest = name.split("/")
        if first == "minirnn":
            lines[f"lines: minirnn/{rest[0]}/" if len(rest) > 1 else "lines: minirnn/*.py"] += count_lines(text)
        elif rest:
            lines[f"lines: {first}/"] += count_lines(text)
    return lines


def module_name(path: str) -> str:
    """``minirnn.data.text`` of ``minirnn/data/text.py``; a package has the name of its folder."""
    return path.removeprefix("cli/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str]]:
    """``(module, name)`` of every import at run time; the name is empty for ``import module``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from imports(other, module, is_package)
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((source, alias.name) for alias in node.names)
        yield from imports(node, module, is_package)


def import_circles(trees: dict[str, ast.Module]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others."""
    modules = {module_name(path): path for path in trees}
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = imports(trees[path], module, path.endswith("__init__.py"))
        names = {f"{source}.{name}" if f"{source}.{name}" in modules else source for source, name in found}
        graph[module] = (names & modules.keys()) - {module}
    return [sorted(group) for group in strongly_connected(graph) if len(group) > 1]


def strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of a graph: nodes that reach one another (Kosaraju's algorithm)."""

    def visit(edges: dict[str, set[str]], start: str, seen: set[str]) -> list[str]:
        """Nodes reachable from ``start`` that were not seen, each after those it leads to."""
        finished, stack = [], [(start, iter(sorted(edges[start])))]
        seen.add(start)
        while stack:
            node, rest = stack[-1]
            following = next((other for other in rest if other not in seen), None)
            if following is None:
                finished.append(node)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sorted(edges[following]))))
        return finished

    reverse: dict[str, set[str]] = {node: set() for node in graph}
    for node, others in graph.items():
        for other in others:
            reverse[other].add(node)
    seen: set[str] = set()
    order = [node for start in sorted(graph) if start not in seen for node in visit(graph, start, seen)]
    seen = set()
    return [set(visit(reverse, start, seen)) for start in reversed(order) if start not in seen]


def count_any(tree: ast.Module) -> int:
    """How often ``Any`` stands in annotations of parameters, results and variables."""
    annotations: list[ast.expr | None] = []
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            annotations.append(node.returns)
        elif isinstance(node, (ast.arg, ast.AnnAssign)):
            annotations.append(node.annotation)
    parts = [part for annotation in annotations if annotation is not None for part in ast.walk(annotation)]
    return sum(
        (isinstance(part, ast.Name) and part.id == "Any") or (isinstance(part, ast.Attribute) and part.attr == "Any")
        for part in parts
    )


def docstrings(trees: dict[str, ast.Module]) -> Figures:
    """How many public definitions there are, and the percentages with a docstring and with all parameters in it."""
    found = [
        definition
        for name, tree in trees.items()
        if not any(part.startswith("_") and part != "__init__.py" for part in name.split("/"))
        and (not name.startswith("minirnn/kernels/") or name.endswith("/contract.py"))
        for definition in public(tree)
    ]
    documented = [definition for definition in found if ast.get_docstring(definition)]
    with_parameters = [(definition, parameters(definition)) for definition in found if parameters(definition)]
    texts = [(docstring(definition), names) for definition, names in with_parameters]
    listed = sum(names <= described(text) for text, names in texts)
    named = sum(names <= described(text) | quoted(text) for text, names in texts)
    return {
        "public functions, classes and methods": len(found),
        "with a docstring, %": round(100 * len(documented) / max(1, len(found)), 1),
        "with parameters": len(with_parameters),
        "with every parameter under Args, %": round(100 * listed / max(1, len(texts)), 1),
        "with every parameter under Args or quoted, %": round(100 * named / max(1, len(texts)), 1),
    }


def public(tree: ast.Module | ast.ClassDef) -> Iterator[Definition]:
    for node in tree.body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


def initializer(definition: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def parameters(definition: Definition) -> set[str]:
    """Names of the parameters besides ``self`` and ``cls``; of a class those of ``__init__``."""
    function = initializer(definition) if isinstance(definition, ast.ClassDef) else definition
    if function is None:
        return set()
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *([a.vararg] if a.vararg else []), *([a.kwarg] if a.kwarg else [])]
    return {arg.arg for arg in every} - {"self", "cls"}


def docstring(definition: Definition) -> str:
    """The docstring of a function, or those of a class and its ``__init__``."""
    owners: list[Definition | None] = [definition]
    if isinstance(definition, ast.ClassDef):
        owners.append(initializer(definition))
    return "\n".join(ast.get_docstring(owner) or "" for owner in owners if owner is not None)


def described(text: str) -> set[str]:
    """The words of the sections of a docstring that describe parameters."""
    return {word for section in SECTION.finditer(text) for word in re.findall(r"\w+", section[2])}


def quoted(text: str) -> set[str]:
    """The words of a docstring in double backticks."""
    return {word for code in re.findall("``(.+?)``", text) for word in re.findall(r"\w+", code)}


def measure_commit(commit: str) -> Figures:
    """The figures of a commit, read by ``git archive`` into a temporary folder."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
        return measure(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs="*", metavar="COMMIT", help="the working tree unless given")
    parser.add_argument("--commit", action="append", default=[], metavar="REF", help="another commit")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a Markdown table")
    options = parser.parse_args()
    commits = [*options.commits, *options.commit]
    states = {commit: measure_commit(commit) for commit in commits} or {"working tree": measure(ROOT)}
    if options.json:
        print(json.dumps(states, indent=1))
        return
    print(f"| | {' | '.join(states)} |\n|---|{'---:|' * len(states)}")
    rows = dict.fromkeys(name for figures in states.values() for name in figures)
    for row in rows:
        cells = [f"{figures[row]:,}" if row in figures else "" for figures in states.values()]
        print(f"| {row} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
