"""The kernel cache: loads instead of compiling, and whatever is wrong with it costs time, never numbers.

Most tests drive the cache inside this process: ``jit`` of the same function is a new dispatcher, which finds in the
cache what the one before it left there. What is about processes runs in processes.
"""

from __future__ import annotations

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

import numpy as np
import pytest

from minirnn.kernels import cache, jit, tile
from minirnn.kernels.cpu import rows


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of this test's own."""
    monkeypatch.setenv("MINIRNN_CACHE_DIR", str(tmp_path / "cache"))
    cache.cache_folder.cache_clear()
    yield tmp_path / "cache"
    cache.cache_folder.cache_clear()


def sums(dtype: str = "float32") -> list[str]:
    """Column sums by a dispatcher that knows only the cache; the kernels it compiled. The numbers are checked."""
    kernel = jit.jit(getattr(rows._column_sums, "py_func", rows._column_sums))
    x = np.arange(12, dtype=dtype).reshape(3, 4)
    out = np.full(4, np.nan, dtype)
    compiled: list[str] = []
    with cache.on_compile(compiled.append):
        kernel(0, 1, x, out)
    assert out.tolist() == [12, 15, 18, 21]
    return compiled


def files(root: Path, suffix: str) -> list[Path]:
    return sorted(root.rglob(f"*{suffix}"))


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


# ------------------------------------------------------------------------------------------ in this process


@pytest.mark.needs_jit
def test_the_second_dispatcher_loads_and_compiles_nothing(root: Path) -> None:
    assert sums() == ["_column_sums"]
    assert sums() == []
    assert sums("float64") == ["_column_sums"], "another element type is another entry"
    assert sums("float64") == sums() == []
    assert [len(files(root, suffix)) for suffix in (".nbi", ".nbc")] == [1, 2]
    assert stat.S_IMODE(cache.cache_folder().stat().st_mode) & 0o022 == 0  # type: ignore[union-attr]


@pytest.mark.needs_jit
def test_what_a_kernel_is_made_of_tells_it_from_others(root: Path) -> None:
    """Made by one function, from helpers that differ in a number of their closure, or are lambdas of one line."""
    x = np.ones(2, np.float32)
    heard: list[str] = []
    with cache.on_compile(heard.append):
        for _ in range(2):
            assert [_first(_times(factor))(x) for factor in (2, 3)] == [2, 3]
            assert [_first(change)(x) for change in (_ADD, _SUBTRACT, _NEXT)] == [6, -4, 7]
    assert heard.count("_first.<locals>.first") == 5


_TRAIN_AND_SAMPLE = """
import sys
import numpy as np
import minirnn as mr

from minirnn.kernels.cpu.recurrence import kernels_of

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
for module in [m for name, m in sys.modules.items() if name.startswith("minirnn.kernels")]:
    for name, value in vars(module).items():
        if type(getattr(value, "_cache", None)).__name__ == "KernelCache" and value.__module__ == module.__name__:
            for signature in value.nopython_signatures:
                print(name, *[a for a in signature.args if "array" in str(a)], sep=";")
plan, *kernels = kernels_of(mr.cells.get("lstm").equations.resolve(True), False)
sampled = kernels_of(mr.cells.get("lstm").equations.resolve(False), False)[1]
for kernel in (*kernels, sampled):
    for signature in kernel.compiled.nopython_signatures:
        print(kernel.compiled.__name__, *[a for a in signature.args if "array" in str(a)], sep=";")
"""


@pytest.mark.needs_jit
def test_a_run_in_float32_compiles_no_kernel_twice_and_none_for_float64() -> None:
    done = subprocess.run([sys.executable, "-c", _TRAIN_AND_SAMPLE], capture_output=True, text=True, check=True)
    signatures = [line.split(";") for line in done.stdout.splitlines()]
    names = [name for name, *_ in signatures]
    assert {"lstm_forward", "lstm_backward", "_cross_entropy", "_adam"} <= set(names)
    twice = {name for name in names if names.count(name) > 1}
    assert twice <= {"lstm_forward"}, "sampling alone compiles it again, as a part of its loop"
    for name, *arrays in signatures:
        doubles = [array for array in arrays if array.startswith("array(float64")]
        assert len(doubles) == (name == "_square_sums"), f"{name}: {arrays}"  # its sums


def flip(data: bytes, where: float) -> bytes:
    at = int(where * (len(data) - 1))
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda data: b"",
    "cut inside its digest": lambda data: data[:20],
    "cut after its digest": lambda data: data[:32],
    "last byte missing": lambda data: data[:-1],
    "a byte too long": lambda data: data + b"\0",
    "replaced": lambda data: b"not a cache entry at all" * 10,
    **{f"bit flipped at {w:.0%}": lambda data, w=w: flip(data, w) for w in (0.0, 0.5, 1.0)},
}


@pytest.mark.needs_jit
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_entries_are_compiled_anew(root: Path, suffix: str, damage: str) -> None:
    sums()
    (file,) = files(root, suffix)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    assert sums() == ["_column_sums"]
    assert sums() == [], "the damaged entry must have been replaced"


@pytest.mark.needs_jit
@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_missing_entries_are_compiled_anew(root: Path, suffix: str) -> None:
    sums()
    files(root, suffix)[0].unlink()
    assert sums() == ["_column_sums"]
    assert sums() == []


@pytest.mark.needs_jit
def test_a_whole_entry_of_other_sources_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums()
    old = cache.cache_folder()
    assert old is not None
    monkeypatch.setattr(cache, "source_digest", lambda: "f" * 20)
    cache.cache_folder.cache_clear()
    new = cache.cache_folder()
    assert new is not None
    assert new != old
    for file in old.iterdir():
        shutil.copy(file, new)
    assert sums() == ["_column_sums"], "the stamp inside the index tells it apart"


@pytest.mark.needs_jit
@pytest.mark.parametrize("make", ["file", "file above", "nowhere"])
def test_no_folder_is_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str) -> None:
    place = tmp_path / "cache"
    if make != "nowhere":
        place.write_text("in the way")
    chosen = {"file": place, "file above": place / "below", "nowhere": Path("/proc/no/such/place")}[make]
    monkeypatch.setenv("MINIRNN_CACHE_DIR", str(chosen))
    cache.cache_folder.cache_clear()
    try:
        assert cache.cache_folder() is None
        assert sums() == sums() == ["_column_sums"]
    finally:
        cache.cache_folder.cache_clear()
    if make != "nowhere":
        assert place.read_text() == "in the way"


@pytest.mark.needs_jit
def test_a_folder_that_cannot_be_written(root: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("this user may write everywhere")
    folder = cache.cache_folder()
    assert folder is not None
    folder.chmod(0o500)
    try:
        assert sums() == sums() == ["_column_sums"]
    finally:
        folder.chmod(0o700)


@pytest.mark.needs_jit
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), PermissionError(13, "denied")])
def test_a_disk_that_refuses_to_be_written(root: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(self: Any, path: str) -> Any:
        raise error

    monkeypatch.setattr(cache._SealedFile, "_open_for_write", refuse)
    assert sums() == sums() == ["_column_sums"]
    monkeypatch.undo()
    assert not files(root, ".nbc")


@pytest.mark.needs_jit
@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_others_may_write_is_never_used_and_left_alone(root: Path, mode: int) -> None:
    sums()
    folder = cache.cache_folder()
    assert folder is not None
    folder.chmod(mode)
    before = sorted(path.name for path in folder.iterdir())
    for _ in range(2):  # what lies there may be planted, whoever looks and however often
        cache.cache_folder.cache_clear()
        assert cache.cache_folder() is None
        assert sums() == ["_column_sums"]
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_user_without_a_home_has_no_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for variable in ("MINIRNN_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert cache.cache_folder() is None


def test_folders_of_old_sources_are_swept_when_a_new_one_is_made(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    folder = cache.cache_folder()
    assert folder is not None
    left = {path.name for path in root.iterdir()}
    assert left == {folder.name, *names.values(), "2" * 20, "3" * 20} - {names["old"]}

    os.utime(root / names["recent"], (long_ago, long_ago))
    cache.cache_folder.cache_clear()
    cache.cache_folder()
    assert (root / names["recent"]).exists(), "only whoever makes a new folder looks"

    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    shutil.rmtree(folder)
    cache.cache_folder.cache_clear()
    assert cache.cache_folder() == folder


@pytest.mark.needs_jit
def test_without_numbas_internals_kernels_are_compiled_and_not_kept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numba.core.caching

    monkeypatch.delattr(numba.core.caching, "IndexDataCacheFile")
    specification = importlib.util.spec_from_file_location("cache_elsewhere", cache.__file__)
    assert specification is not None
    assert specification.loader is not None
    elsewhere = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(elsewhere)
    assert elsewhere.cache_folder() is None
    monkeypatch.setattr(jit, "KernelCache", elsewhere.KernelCache)
    kernel = jit.jit(rows._column_sums.py_func)
    compiled: list[str] = []
    out = np.empty(4, np.float32)
    with elsewhere.on_compile(compiled.append):
        for _ in range(2):
            kernel(0, 1, np.ones((3, 4), np.float32), out)
    assert out.tolist() == [3, 3, 3, 3]
    assert compiled == ["_column_sums"]
    assert not root.exists()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX owners")
def test_a_folder_of_another_user_is_not_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.cache_folder() is not None
    mine = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    cache.cache_folder.cache_clear()
    assert cache.cache_folder() is None


def test_two_writers_of_different_entries_never_mix_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read an index without entries, then both write: one may forget the other, neither may hold its data."""
    one, two = (cache._SealedFile(str(tmp_path), "kernel", "stamp") for _ in range(2))
    load_index = cache._SealedFile._load_index
    monkeypatch.setattr(cache._SealedFile, "_load_index", lambda self: {})
    one.save(("float32",), "data of float32")
    two.save(("float64",), "data of float64")
    monkeypatch.setattr(cache._SealedFile, "_load_index", load_index)
    assert one.load(("float64",)) == "data of float64"
    assert one.load(("float32",)) in (None, "data of float32")
    one.save(("float32",), "new data of float32")
    assert (two.load(("float32",)), two.load(("float64",))) == ("new data of float32", "data of float64")
    assert cache._SealedFile(str(tmp_path), "kernel", "other stamp").load(("float32",)) is None


# ---------------------------------------------------------------------------------------------- the digest


def test_any_change_of_a_kernel_source_changes_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "kernels"
    shutil.copytree(Path(cache.__file__).parent, tree, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(cache, "__file__", str(tree / "cache.py"))
    digest = cache.source_digest.__wrapped__
    seen = {digest()}
    assert digest() in seen, "the same sources, the same digest"
    for change in ("cpu/lstm.py", "pointwise.py", "tile.py"):  # a callee in another file, too
        with open(tree / change, "a") as file:
            file.write("\n# changed\n")
        assert digest() not in seen
        seen.add(digest())
    (tree / "cpu" / "new.py").write_text("")
    assert digest() not in seen
    seen.add(digest())
    (tree / "cpu" / "new.py").rename(tree / "cpu" / "renamed.py")
    assert digest() not in seen


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIRNN_CACHE_DIR", "/chosen")
    assert cache.cache_root() == Path("/chosen")
    monkeypatch.delenv("MINIRNN_CACHE_DIR")
    if os.name != "nt":
        monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
        assert cache.cache_root() == Path("/xdg/minirnn/kernels")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/home/someone")
        assert cache.cache_root() == Path("/home/someone/.cache/minirnn/kernels")


# ------------------------------------------------------------------------------------------------ processes

_SCRIPT = """
import json
import numpy as np
from minirnn.kernels import cache, cpu, threads, tile
compiled = []
with cache.on_compile(compiled.append):
    sums = [cpu.column_sums(np.arange(12, dtype=d).reshape(3, 4)).tolist() for d in ("float32", "float64")]
    packed = tile.pack(np.arange(6, dtype=np.float32).reshape(2, 3), False)[0, :, :3].tolist()
print(json.dumps([compiled, sums, packed]))
"""
NUMBERS = [[[12, 15, 18, 21]] * 2, [[0, 1, 2], [3, 4, 5]]]


def start(root: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"MINIRNN_CACHE_DIR": str(root), "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _SCRIPT], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The kernels the process compiled; its numbers are checked."""
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    compiled, *numbers = json.loads(out)
    assert numbers == NUMBERS
    return compiled


@pytest.mark.needs_jit
def test_processes_at_once_and_one_after(tmp_path: Path) -> None:
    first, second = start(tmp_path), start(tmp_path)
    assert set(finish(first)) | set(finish(second)) == {"_column_sums", "pack_rows"}
    finish(start(tmp_path))  # of two writers of one index, one may have forgotten the other's entry
    assert finish(start(tmp_path)) == []
    for file in tmp_path.rglob("*.nb?"):
        file.write_bytes(file.read_bytes()[:-7])
    assert len(finish(start(tmp_path))) == 3
    assert finish(start(tmp_path)) == []
    assert not list(tmp_path.rglob("*.tmp*")), "nothing half-written stays behind"


_THIRD = """
import numpy as np
from minirnn.kernels import cache, jit
compiled = []
@jit.jit
def third(x):
    return x[2]
with cache.on_compile(compiled.append):
    try:
        print(third(np.ones(4)[:2]), compiled)
    except IndexError:
        print("IndexError", compiled)
"""


@pytest.mark.needs_jit
def test_kernels_that_check_indices_and_those_that_do_not_are_kept_apart(tmp_path: Path) -> None:
    said = []
    for flag in ("0", "1", "0", "1"):
        environment = os.environ | {
            "MINIRNN_CACHE_DIR": str(tmp_path), "NUMBA_BOUNDSCHECK": flag,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", _THIRD], env=environment, text=True, stdout=subprocess.PIPE)
        said.append(done.stdout.strip())
    assert said == ["1.0 ['third']", "IndexError ['third']", "1.0 []", "IndexError []"]


_SAMPLE = """
import json
import minirnn as mr
from minirnn.kernels import cache
compiled, texts = [], []
with cache.on_compile(compiled.append):
    for cell in ("rnn", "lstm", "gru"):
        mr.manual_seed(1)
        texts.append(mr.models.CharLM(5, 4, cell=cell).generate([1], 6, seed=2).tolist())
print(json.dumps([compiled, texts]))
"""


@pytest.mark.slow
@pytest.mark.needs_jit
def test_sampling_kernels_are_found_by_the_next_process(tmp_path: Path) -> None:
    """They are closures, and three of them share one name and one index."""
    path = os.pathsep.join(p for p in sys.path if p)
    environment = os.environ | {"MINIRNN_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _SAMPLE], env=environment, text=True, stdout=subprocess.PIPE, check=True
        )
        runs.append(json.loads(done.stdout))
    (compiled, texts), (compiled_again, texts_again) = runs
    assert sum("generate" in name for name in compiled) == 3
    assert compiled_again == []
    assert texts_again == texts


@pytest.mark.needs_jit
def test_a_process_without_a_place_for_its_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert len(finish(start(tmp_path / "file"))) == 3


def test_listeners_are_removed_after_their_block() -> None:
    heard: list[str] = []
    with pytest.raises(KeyError), cache.on_compile(heard.append):
        raise KeyError
    assert cache._listeners == []
    assert tile.ROWS == 6
