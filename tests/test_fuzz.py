"""Untrusted files: thousands of damaged and forged ones give a clear error or the right result, in bounded memory."""

from __future__ import annotations

import copy
import gzip
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import run
from tiny import TASKS

import minirnn as mr
from minirnn import checkpoint, tasks
from minirnn.checkpoint import FORMAT
from minirnn.data.corpus import read_bytes, read_characters
from minirnn.data.embeddings import read_embeddings
from minirnn.data.images import read_idx
from minirnn.data.lines import read_columns, read_pairs
from minirnn.data.music import read_pieces
from minirnn.data.tables import read_table
from minirnn.errors import CheckpointError, DataError
from minirnn.kernels.jit import DISABLED
from minirnn.runs import LAST
from minirnn.tasks.base import rebuild
from minirnn.training import Trainer, TrainingConfig

CHECKPOINTS = 200 if DISABLED else 2_400
FILES = 50 if DISABLED else 400  # of each kind
MAX_BYTES = 1 << 29  # that a reader may allocate

ODD: list[Any] = [None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 0.5, -2.5, 1e308, "", "lstm", "\ud800", "x" * 1000]
ODD += ["../lstm", "_cell", [], [1], [[[]]], {}, {"a": 1}]


@pytest.fixture
def in_bounded_memory() -> Iterator[None]:
    """The test may use MAX_BYTES more of address space; more is a MemoryError."""
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to know how much is used")
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def _attempt(action: Callable[[], Any], refusal: type[Exception]) -> tuple[Any, str | None]:
    """The result of an action, or the message of its refusal; any other exception fails the test."""
    try:
        return action(), None
    except refusal as error:
        return None, str(error)


# ------------------------------------------------------------------------------------------------ checkpoints


def _originals(folder: Path) -> list[Path]:
    """A run's last state of every task; one of them with an own cell."""
    for name, tiny in TASKS.items():
        changed = {"cell": _own_cell()} if name == "music" else {}
        task = tiny.make(tiny.write(folder), hidden_size=4, **changed)
        run(Trainer(task, TrainingConfig(steps=1, optimizer="sgd"), folder / name))
    return [folder / name / LAST for name in TASKS]


def _own_cell() -> dict[str, Any]:
    """The data of a cell that is not built in."""
    return mr.cells.get("peephole_lstm").to_data() | {"name": "own"}


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _packed(header: dict[str, Any] | str, body: bytes, size: int | None = None) -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def _damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes truncated, flipped, inserted, removed or doubled."""
    kind, at = rng.randrange(5), rng.randrange(len(data))
    if kind == 0:
        return data[:at]
    if kind == 1:
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if kind == 2:
        return data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:]
    if kind == 3:
        return data[:at] + data[at + rng.randint(1, 40) :]
    return data[:at] + data[max(0, at - rng.randint(1, 200)) :]


def _with_false_header(data: bytes, rng: random.Random) -> bytes:
    """A header with false shapes, types, offsets, sizes or names, or a name twice."""
    header, body = _header(data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    kind = rng.randrange(7)
    if kind == 0:
        header[name]["shape"] = [rng.choice([0, 1, 7, 2**31, 2**62, 10**20]) for _ in range(rng.randint(0, 4))]
    elif kind == 1:
        header[name]["dtype"] = rng.choice(["F64", "F16", "BF16", "I64", "BOOL", "U8", "F8_E5M2", "X"])
    elif kind == 2:
        header[name]["data_offsets"] = [rng.randrange(len(body)), rng.choice([0, len(body), 2**60])]
    elif kind == 3:
        return _packed(header, body, rng.choice([0, 1, len(data), 2**33, 2**63]))
    elif kind == 4:
        entry = json.dumps(header[name])
        return _packed(json.dumps(header)[:-1] + f', "{name}": {entry}}}', body)
    elif kind == 5:
        header[name + "2"] = header.pop(name)
    else:
        header["__metadata__"] = rng.choice([{}, {"minirnn": "{}"}, {"minirnn": "[1]"}, {"minirnn": "no"}])
    return _packed(header, body)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _paths(item, (*path, key))


def _forged(data: bytes, rng: random.Random) -> bytes:
    """A description changed somewhere, with the right checksums."""
    header, body = _header(data)
    described = json.loads(header["__metadata__"]["minirnn"])
    config = described["config"]
    part = rng.choice(sorted(config.keys() - {"options", "optimizer", "random", "position", "notes", "fresh_epoch"}))
    *parents, last = rng.choice([path for path in _paths(config) if path and path[0] == part])
    target = config
    for key in parents:
        target = target[key]
    if rng.random() < 0.2 and isinstance(target, dict):
        del target[last]
    else:
        target[last] = copy.deepcopy(rng.choice(ODD))
    described["own_crc32"] = zlib.crc32(json.dumps([config, described["crc32"]], sort_keys=True).encode())
    described["format"] = FORMAT
    header["__metadata__"]["minirnn"] = json.dumps(described)
    return _packed(header, body)


@pytest.mark.slow
@pytest.mark.usefixtures("in_bounded_memory")
def test_damaged_and_forged_checkpoints_are_refused_or_load_the_saved_values(tmp_path: Path) -> None:
    rng, path = random.Random(20_240), tmp_path / "mutant.safetensors"
    refused = loaded = 0
    files = _originals(tmp_path)
    originals = [(file.read_bytes(), checkpoint.part(checkpoint.load(file)[0], "model.")) for file in files]
    for number in range(CHECKPOINTS):
        data, expected = originals[number % len(originals)]
        mutate: Callable[[bytes, random.Random], bytes] = (_damaged, _with_false_header, _forged)[number % 3]
        path.write_bytes(mutate(data, rng))
        model, refusal = _attempt(lambda: tasks.load(path).model, CheckpointError)
        if refusal is not None:
            refused += 1
            assert "\n" not in refusal
            continue
        loaded += 1
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"mutant {number}")
    assert refused > 0.6 * CHECKPOINTS
    assert loaded > 0


NAN, LONG = float("nan"), [["gate", "i"], ["state", "h"]] + [["add", n, 1] for n in range(10_000)]
PRODUCTS = [["gate", "i"], *(["product", n, n] for n in range(400))]
MANY_PRODUCTS = {"nodes": PRODUCTS, "gates": ["i"], "vectors": {}, "new": [400, 400]}
HOSTILE: dict[str, tuple[Any, str]] = {
    "unknown operation": ({"nodes": [["gate", "i"], ["__import__", 0]], "new": [1, 1]}, "__import__"),
    "operation of the compiler": ({"nodes": [["mask", "x"]], "new": [0, 0]}, "mask"),
    "itself": ({"nodes": [["gate", "i"], ["tanh", 1]], "new": [1, 1]}, "refers to node 1 before it is there"),
    "later node": ({"nodes": [["tanh", 1], ["gate", "i"]], "new": [0, 0]}, "refers to node 1 before"),
    "negative node": ({"nodes": [["gate", "i"], ["tanh", -1]], "new": [0, 0]}, "refers to node -1 before"),
    "no int": ({"nodes": [["gate", "i"], ["tanh", True]], "new": [0, 0]}, "refers to node True before"),
    "too few operands": ({"nodes": [["gate", "i"], ["add", 0]], "new": [1, 1]}, "."),
    "too few states": ({"new": [0]}, "one new value per state"),
    "comparison as state": ({"nodes": [["gate", "i"], ["lt", 0, 0]], "new": [1, 1]}, "one new value per state"),
    "too many nodes": ({"nodes": LONG, "new": [9, 9]}, "more than 512 nodes"),
    "no nodes": ({"nodes": None}, "damaged"),
    "nested junk": ({"nodes": [[["gate"], {"i": [[]]}]], "new": [{}]}, "damaged"),
    "text as nodes": ({"nodes": "tanh"}, "damaged"),
    "name": ({"name": "x; import os"}, "expected the name of a cell"),
    "name of a gate": ({"gates": ["i", "f", "g", "o", "a b"]}, "expected the name of a cell, gate"),
    "long name": ({"states": ["h" * 99, "c"]}, "expected the name of a cell"),
    "name twice": ({"states": ["h", "h"]}, "have one name"),
    "gate without use": ({"gates": ["i", "f", "g", "o", "spare"]}, "never uses spare"),
    "no gates": ({"gates": []}, "at least one gate"),
    "unknown gate": ({"nodes": [["gate", "q"]], "new": [0, 0]}, "has no gate 'q'"),
    "constant": ({"nodes": [["gate", "i"], ["constant", NAN]], "new": [1, 1]}, "expected a finite number, got nan"),
    "infinite constant": ({"nodes": [["constant", 1e308], ["add", 0, 0]], "new": [1, 1]}, "got inf"),
    "huge constant": ({"nodes": [["constant", 10**400]], "new": [0, 0]}, "damaged"),
    "constant of text": ({"nodes": [["constant", "__import__('os')"]], "new": [0, 0]}, "damaged"),
    "vector": ({"vectors": {"p_i": NAN, "p_f": 0, "p_o": 0}}, "got nan"),
    "vectors": ({"vectors": [1]}, "damaged"),
    "other gates": ({"gates": ["f", "i", "g", "o", "i_x"]}, "."),
    "other size": (mr.cells.get("lstm").to_data(), "missing|unexpected|p_f"),
    "products": (MANY_PRODUCTS, "num_layers 1 does not fit"),
}


def test_hostile_descriptions_of_cells_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    task = TASKS["char"].make(TASKS["char"].write(tmp_path), hidden_size=4, num_layers=1, cell=_own_cell())
    arrays = {f"model.{name}": array for name, array in task.model.state_dict().items()}
    config = task.config()
    checkpoint.save(path, arrays, config)
    assert tasks.load(path).model.config == task.model.config  # unchanged, it loads
    cells = [(_own_cell() | change, message) for change, message in HOSTILE.values()]
    cells += [(odd, ".") for odd in ODD if odd != "lstm"]
    for cell, message in cells:
        checkpoint.save(path, arrays, config | {"model": config["model"] | {"cell": cell}})
        with pytest.raises(CheckpointError, match=message) as refusal:
            tasks.load(path)
        assert "\n" not in str(refusal.value)


# ------------------------------------------------------------------------------------------------- data files

TSV = b"".join(b"text number %d \xc3\xa9\tlabel%d\n" % (n, n % 3) for n in range(12))
TAGGED = b"The\tDET\tDT\ndog\tNOUN\tNN\nbarks\tVERB\tVBZ\n\n" * 5
CSV = b'"Month","Sales, total",Other\n' + b"".join(b'1949-%02d,%d.5,"%d"\n' % (n, n * n, n) for n in range(1, 13))
JSON = json.dumps({"train": [[[60, 64], [62], []], [[70]]], "valid": [[[60]]]}).encode()
VECTORS = b"4 3\nthe 0.1 -0.2 3e-1\nof 1 2 3\n\xc3\xa9t\xc3\xa9 0 0 0.5\n, 1 1 1\n"
IDX = struct.pack(">BBBBIII", 0, 0, 8, 3, 4, 3, 2) + bytes(range(24))


def _table(path: str) -> None:
    table = read_table(path)
    table.columns([name for name in table.header if name != "Month"])


KINDS: dict[str, tuple[bytes, Callable[[str], object]]] = {
    "corpus": (TSV, lambda path: read_characters([path])),
    "bytes": (IDX, lambda path: read_bytes([path])),
    "pairs": (TSV, lambda path: read_pairs([path])),
    "columns": (TAGGED, lambda path: read_columns([path], 2)),
    "table": (CSV, _table),
    "music": (JSON, read_pieces),
    "embeddings": (VECTORS, read_embeddings),
    "images": (IDX, read_idx),
    "packed images": (gzip.compress(IDX), read_idx),
}


@pytest.mark.usefixtures("in_bounded_memory")
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_data_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    """By a DataError of one line that names the file."""
    original, read = KINDS[kind]
    rng, path = random.Random(7), tmp_path / "data"
    outcomes = {"read": 0, "refused": 0}
    for _ in range(FILES):
        data = original
        for _ in range(rng.randint(1, 3)):
            data = _damaged(data, rng) if data else rng.randbytes(5)
        path.write_bytes(data)
        _, refusal = _attempt(lambda: read(str(path)), DataError)
        outcomes["read" if refusal is None else "refused"] += 1
        if refusal is not None:
            assert str(path) in refusal
            assert "\n" not in refusal
    assert outcomes["read"] > 0
    assert outcomes["refused"] > 0


def test_deeply_nested_json_and_huge_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.json"
    for text in ("[" * 100_000, "[" * 100_000 + "]" * 100_000, "[[[" + "9" * 5000 + "]]]", "1e999", '{"train": 3}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"bomb\.json"):
            read_pieces(str(path))


def test_a_state_dict_that_does_not_fit_is_refused_before_allocating() -> None:
    arrays = mr.models.CharLM(5, 4).state_dict()
    with pytest.raises(CheckpointError, match="hidden_size"):
        rebuild(mr.models.CharLM, {"vocab_size": 5, "hidden_size": 10**12}, arrays)
    with pytest.raises(CheckpointError, match="num_layers"):
        rebuild(mr.models.CharLM, {"vocab_size": 5, "hidden_size": 4, "num_layers": 10**9}, arrays)
    with pytest.raises(CheckpointError, match="shape"):
        rebuild(mr.models.CharLM, {"vocab_size": 60, "hidden_size": 70}, arrays)
