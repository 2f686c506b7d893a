"""The kernel cache: loads instead of compiling, and whatever is wrong with it costs time, never numbers.

Most tests use the cache inside this process: ``jit`` of the same function is a new dispatcher, which finds in the cache
what the one before it stored there.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import event

from minirnn.kernels import cache, jit
from minirnn.kernels.cpu import rows

NAME = "_column_sums"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache for one test."""
    monkeypatch.setenv("MINIRNN_CACHE_DIR", str(tmp_path / "cache"))
    cache.cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache.cache_folder.cache_clear()


def folder() -> Path:
    found = cache.cache_folder()
    assert found is not None
    return found


def run(dtype: str = "float32", module: Any = cache) -> list[str]:
    """Run a kernel by a new dispatcher, check its numbers, and return the names of the kernels that were compiled."""
    kernel = jit.jit(getattr(rows._column_sums, "py_func", rows._column_sums))
    x = np.arange(12, dtype=dtype).reshape(3, 4)
    out = np.full(4, np.nan, dtype)
    compiled: list[str] = []
    with module.on_compile(compiled.append):
        kernel(0, 1, x, out)
    assert out.tolist() == [12, 15, 18, 21]
    return compiled


def script(root: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    """Start ``code`` in a new process, with ``compiled`` the list of kernels it compiles."""
    head = "import json, numpy as np, minirnn as mr\nfrom minirnn.kernels import cache, cpu, jit\ncompiled = []\n"
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", f"{head}with cache.on_compile(compiled.append):\n{body}"],
        env=os.environ | {"MINIRNN_CACHE_DIR": str(root), "PYTHONPATH": path} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def result(process: subprocess.Popen[str]) -> Any:
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    return json.loads(out)


# ------------------------------------------------------------------------------------------ hits and misses


@pytest.mark.needs_jit
def test_second_dispatcher_loads_and_compiles_nothing(root: Path) -> None:
    assert run() == [NAME]
    assert run() == []
    assert run("float64") == [NAME], "another element type is another entry"
    assert run("float64") == run() == []
    assert len(list(root.rglob("*.nbc"))) == 2
    assert stat.S_IMODE(folder().stat().st_mode) & 0o022 == 0


def _times(factor: int) -> Callable:
    @jit.jit(inline=True)
    def times(x: Any) -> Any:
        return x * factor

    return times


_ADD, _SUBTRACT, _NEXT = jit.jit(lambda x: x + 5), jit.jit(lambda x: x - 5), jit.jit(lambda x: x + 6)


def _first(change: Callable) -> Callable:
    @jit.jit
    def first(x: Any) -> Any:
        return change(x[0])

    return first


@pytest.mark.needs_jit
def test_kernels_are_told_apart_by_code_and_closure(root: Path) -> None:
    """Made by one function, from helpers that differ in a number of their closure, or are lambdas of one line."""
    x = np.ones(2, np.float32)
    compiled: list[str] = []
    with cache.on_compile(compiled.append):
        for _ in range(2):
            assert [_first(_times(factor))(x) for factor in (2, 3)] == [2, 3]
            assert [_first(change)(x) for change in (_ADD, _SUBTRACT, _NEXT)] == [6, -4, 7]
    assert compiled.count("_first.<locals>.first") == 5


def flip(data: bytes, where: float) -> bytes:
    at = int(where * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut inside its digest": lambda data: data[:20],
    "cut after its digest": lambda data: data[:32],
    "last byte missing": lambda data: data[:-1],
    "a byte too long": lambda data: data + b"\0",
    "replaced": lambda data: b"not a cache entry at all" * 10,
    **{f"bit flipped at {w:.0%}": lambda data, w=w: flip(data, w) for w in (0.0, 0.5, 1.0)},
}


@pytest.mark.needs_jit
@pytest.mark.parametrize("damage", [*DAMAGE, "missing"])
def test_damaged_entries_are_compiled_again_and_replaced(root: Path, damage: str) -> None:
    run()
    (file,) = root.rglob("*.nbc")
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert run() == [NAME]
    assert run() == []


@pytest.mark.needs_jit
def test_entry_copied_from_other_sources_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    old = folder()
    monkeypatch.setattr(cache, "source_digest", lambda: "f" * 20)
    cache.cache_folder.cache_clear()
    assert folder() != old
    for file in old.iterdir():
        shutil.copy(file, folder())
    assert run() == [NAME]


# --------------------------------------------------------------------------------- folders that cannot be used


def _fail(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **options: Any) -> Any:
        raise error

    return fail


PLACES = {"file in its place": "cache", "file above it": "cache/below", "no such place": "/proc/no/such/place"}
ERRORS = {"disk full": OSError(28, "No space left on device"), "denied": PermissionError(13, "denied")}


@pytest.mark.needs_jit
@pytest.mark.parametrize("case", [*PLACES, *ERRORS, "read-only"])
def test_kernels_run_where_nothing_can_be_stored(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    if case in PLACES:
        root.write_text("in the way")
        monkeypatch.setenv("MINIRNN_CACHE_DIR", str(tmp_path / PLACES[case]))
        assert cache.cache_folder() is None
    elif case in ERRORS:
        monkeypatch.setattr(Path, "write_bytes", _fail(ERRORS[case]))
    elif os.name == "nt" or os.geteuid() == 0:
        pytest.skip("this user may write everywhere")
    else:
        folder().chmod(0o500)
    assert run() == run() == [NAME]
    assert not list(root.rglob("*.nbc*"))
    assert case not in PLACES or root.read_text() == "in the way"


@pytest.mark.needs_jit
@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_others_can_write_is_never_used_and_not_changed(root: Path, mode: int) -> None:
    run()
    shared = folder()
    shared.chmod(mode)
    before = sorted(path.name for path in shared.iterdir())
    for _ in range(2):
        cache.cache_folder.cache_clear()
        assert cache.cache_folder() is None
        assert run() == [NAME]
    assert stat.S_IMODE(shared.stat().st_mode) == mode
    assert sorted(path.name for path in shared.iterdir()) == before


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX owners")
def test_folder_of_another_user_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder()
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    cache.cache_folder.cache_clear()
    assert cache.cache_folder() is None


def test_user_without_a_home_has_no_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MINIRNN_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", _fail(RuntimeError("Could not determine home directory.")))
    assert cache.cache_folder() is None


@pytest.mark.needs_jit
def test_without_numbas_internals_kernels_are_compiled_and_not_stored(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba.core.caching

    monkeypatch.delattr(numba.core.caching, "CompileResultCacheImpl")
    specification = importlib.util.spec_from_file_location("cache_elsewhere", cache.__file__)
    assert specification is not None
    assert specification.loader is not None
    elsewhere = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(elsewhere)
    assert elsewhere.cache_folder() is None
    monkeypatch.setattr(jit, "KernelCache", elsewhere.KernelCache)
    assert run(module=elsewhere) == run(module=elsewhere) == [NAME]
    assert not root.exists()


def test_old_folders_are_deleted_when_a_new_one_is_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    names = {"old": "0" * 20, "recent": "1" * 20, "not a digest": "0" * 19, "upper": "A" * 20}
    for name in names.values():
        (root / name).mkdir()
        (root / name / "kernel.nbc").write_bytes(b"code")
    (root / ("2" * 20)).write_text("a file")
    (root / ("3" * 20)).symlink_to(root / names["upper"])
    long_ago = time.time() - 61 * 24 * 3600
    for name in (names["old"], names["not a digest"], names["upper"], "2" * 20):
        os.utime(root / name, (long_ago, long_ago))
    new = folder()
    left = {path.name for path in root.iterdir()}
    assert left == {new.name, *names.values(), "2" * 20, "3" * 20} - {names["old"]}

    os.utime(root / names["recent"], (long_ago, long_ago))
    cache.cache_folder.cache_clear()
    folder()
    assert (root / names["recent"]).exists(), "only whoever makes a new folder deletes old ones"

    monkeypatch.setattr(Path, "iterdir", _fail(ERRORS["denied"]))
    shutil.rmtree(new)
    cache.cache_folder.cache_clear()
    assert folder() == new


# ---------------------------------------------------------------------------------------------- where and what


def test_any_change_of_a_kernel_source_changes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "kernels"
    shutil.copytree(Path(cache.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "__file__", str(tree / "cache.py"))
    digest = cache.source_digest.__wrapped__
    seen = [digest()]
    assert digest() == seen[0]
    for change in ("cpu/loss.py", "pointwise.py", "tile.py"):  # a callee in another file, too
        with open(tree / change, "a") as file:
            file.write("\n# changed\n")
        seen.append(digest())
    (tree / "cpu" / "new.py").write_text("")
    seen.append(digest())
    (tree / "cpu" / "new.py").rename(tree / "cpu" / "renamed.py")
    seen.append(digest())
    assert len(set(seen)) == 6


def test_cache_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIRNN_CACHE_DIR", "/chosen")
    assert cache.cache_root() == Path("/chosen")
    monkeypatch.delenv("MINIRNN_CACHE_DIR")
    if os.name != "nt":
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert cache.cache_root() == Path("/xdg/minirnn/kernels")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/home/someone")
        assert cache.cache_root() == Path("/home/someone/.cache/minirnn/kernels")


def test_listeners_are_removed_after_their_block() -> None:
    heard: list[str] = []
    with pytest.raises(KeyError), cache.on_compile(heard.append):
        raise KeyError
    assert cache._listeners == []


# ------------------------------------------------------------------------------------------------ processes

SUMS = """
sums = [cpu.column_sums(np.arange(12, dtype=d).reshape(3, 4)).tolist() for d in ("float32", "float64")]
print(json.dumps([compiled, sums]))
"""
NUMBERS = [[12, 15, 18, 21]] * 2


@pytest.mark.needs_jit
def test_processes_share_the_cache(tmp_path: Path) -> None:
    both = [script(tmp_path, SUMS) for _ in range(2)]
    for process in both:
        compiled, sums = result(process)
        assert (set(compiled) <= {NAME}, sums) == (True, NUMBERS)
    assert result(script(tmp_path, SUMS)) == [[], NUMBERS]
    for file in tmp_path.rglob("*.nbc"):
        file.write_bytes(file.read_bytes()[:-7])
    assert result(script(tmp_path, SUMS)) == [[NAME] * 2, NUMBERS]
    assert result(script(tmp_path, SUMS)) == [[], NUMBERS]
    assert not list(tmp_path.rglob("*.tmp*")), "nothing half-written stays behind"
    (tmp_path / "file").write_text("")
    assert result(script(tmp_path / "file", SUMS)) == [[NAME] * 2, NUMBERS]


PREPARED = """
import sys
sums = [cpu.column_sums(np.arange(12, dtype=d).reshape(3, 4)).tolist() for d in DTYPES]
print(json.dumps([compiled, sums, "numba.np.linalg" in sys.modules]))
"""


@pytest.mark.needs_jit
def test_only_a_process_that_compiles_loads_what_compiling_needs(tmp_path: Path) -> None:
    """Which is most of Numba, 45 MB; a process may still compile after it has loaded a kernel."""
    for dtypes, names, compiles in (
        (["float32"], [NAME], True),
        (["float32"], [], False),
        (["float32", "float64"], [NAME], True),
    ):
        said = result(script(tmp_path, PREPARED.replace("DTYPES", repr(dtypes))))
        assert said == [names, NUMBERS[: len(dtypes)], compiles]


OUT_OF_BOUNDS = """
@jit.jit
def third(x):
    return x[2]
try:
    value = third(np.ones(4)[:2])
except IndexError:
    value = "IndexError"
print(json.dumps([value, compiled]))
"""


@pytest.mark.slow
@pytest.mark.needs_jit
def test_kernels_with_and_without_bounds_checks_are_separate_entries(tmp_path: Path) -> None:
    said = [result(script(tmp_path, OUT_OF_BOUNDS, NUMBA_BOUNDSCHECK=flag)) for flag in "0101"]
    assert said == [[1.0, ["third"]], ["IndexError", ["third"]], [1.0, []], ["IndexError", []]]


SAMPLE = """
texts = []
for cell in ("rnn", "lstm", "gru"):
    mr.manual_seed(1)
    texts.append(mr.models.CharLM(5, 4, cell=cell).generate([1], 6, seed=2).tolist())
print(json.dumps([compiled, texts]))
"""


@pytest.mark.slow
@pytest.mark.needs_jit
def test_sampling_kernels_are_found_by_the_next_process(tmp_path: Path) -> None:
    """They are closures, and three of them share one name."""
    (compiled, texts), again = (result(script(tmp_path, SAMPLE)) for _ in range(2))
    assert sum("generate" in name for name in compiled) == 3
    assert again == [[], texts]


TRAIN_AND_SAMPLE = """
import sys
from minirnn.kernels.cpu.kernel import kernels_of
model = mr.models.CharLM(11, 16, 2)
optimizer = mr.optim.Adam(model.parameters())
tokens, targets = np.random.default_rng(0).integers(11, size=(2, 9, 4))
for step in range(2):
    optimizer.zero_grad()
    model.loss(tokens, targets)[0].backward()
    mr.optim.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
model.generate([1, 2], 20, top_k=3, seed=1)
model.generate([[1, 2], [3, 4]], 20, temperature=0.0, seed=1)
found = []
for module in [m for name, m in sys.modules.items() if name.startswith("minirnn.kernels")]:
    for value in vars(module).values():
        if type(getattr(value, "_cache", None)).__name__ == "KernelCache" and value.__module__ == module.__name__:
            found.append(value)
equations = mr.cells.get("lstm").equations
_, *kernels = kernels_of(equations.resolve(True), False)
found += [kernel.compiled for kernel in (*kernels, kernels_of(equations.resolve(False), False)[1])]
print(json.dumps([[f.__name__, [str(a) for a in s.args]] for f in found for s in f.nopython_signatures]))
"""


@pytest.mark.slow
@pytest.mark.needs_jit
def test_float32_run_compiles_no_kernel_twice_and_none_for_float64() -> None:
    signatures = result(script(cache.cache_root(), TRAIN_AND_SAMPLE))
    names = [name for name, _ in signatures]
    assert {"lstm_forward", "lstm_backward", "_cross_entropy", "_adam"} <= set(names)
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"lstm_forward"}, "sampling alone compiles it again, as a part of its loop"
    for name, arguments in signatures:
        doubles = [kind for kind in arguments if kind.startswith("array(float64")]
        assert len(doubles) == (name == "_square_sums"), f"{name}: {arguments}"  # its sums


CALLERS = """
from minirnn.kernels import tile
@jit.jit
def product(a, panels, out):
    tile.multiply_add(a, 0, 3, 1, 2, panels, 0, panels.shape[2] * 3, 3, out, 0, 4, 4)
@jit.jit
def first(a, panels, out):
    product(a, panels, out)
@jit.jit
def second(a, panels, out):
    product(a, panels, out)
a, b, out = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4), np.zeros((2, 4))
CALLER(a, tile.pack(b, False), out)
print(json.dumps([compiled, (out - a @ b).tolist()]))
"""


@pytest.mark.slow
@pytest.mark.needs_jit
def test_kernel_compiled_with_one_from_the_cache_loads_what_that_one_needs(root: Path) -> None:
    """The code of both calls the tiles by a symbol, which a process that compiles nothing has to define first."""
    for caller, expected in (
        ("first", ["pack_rows", "first", "product", "_product"]),
        ("second", ["second"]),
        ("second", []),
    ):
        assert result(script(root, CALLERS.replace("CALLER", caller))) == [expected, [[0.0] * 4] * 2]


@pytest.mark.needs_jit
def test_seconds_of_compiling_are_counted_once_and_nothing_is_collected_meanwhile() -> None:
    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            collects.append(gc.isenabled())

        on_end = on_start

    collects: list[bool] = []
    inner = numba.njit(lambda x: x + 1)
    before, began = cache.compile_seconds(), time.perf_counter()
    with event.install_listener("numba:compile", Listener()):
        numba.njit(lambda x: inner(x))(1)
    seconds = cache.compile_seconds() - before
    assert 0 < seconds <= time.perf_counter() - began
    assert collects == [False, False, False, True]
    assert gc.isenabled()
    with pytest.raises(numba.TypingError):
        numba.njit(lambda x: x.nothing)(1)
    assert gc.isenabled()
