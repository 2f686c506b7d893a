"""``mr.save`` and ``mr.load``: models come back whole, other modules as state dicts, runs and checkpoints as tasks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support import refusal, run
from tiny import TASKS

import minirnn as mr
from minirnn import checkpoint, tasks
from minirnn.cells import sigmoid, tanh
from minirnn.errors import CheckpointError, OptionError
from minirnn.runs import BEST, LAST
from minirnn.training import Trainer, TrainingConfig

M, nn = mr.models, mr.nn
X = np.random.default_rng(0).standard_normal((4, 2, 3))
TOKENS = np.array([[0, 2], [1, 3], [4, 4]])


@mr.cell
def leaky(a, /, h, *, p=0.5):  # type: ignore[no-untyped-def]
    """A cell of one's own, with a learnt vector."""
    return h + sigmoid(p) * (tanh(a) - h)


MODELS: dict[str, tuple[Callable[[], Any], tuple[Any, ...]]] = {
    "CharLM": (lambda: M.CharLM(np.int64(5), 4, 2, "gru", dropout=0.5, zoneout=0.1), (TOKENS,)),
    "CharLM of an own cell": (lambda: M.CharLM(5, 4, 1, leaky), (TOKENS,)),
    "EncoderDecoder": (lambda: M.EncoderDecoder(5, 6, 4, attention="dot", dtype="float64"), (TOKENS, TOKENS)),
    "ManyToMany": (lambda: M.ManyToMany(3, 4, 2, bidirectional=True, merge="sum"), (X,)),
    "ManyToOne": (lambda: M.ManyToOne(3, 4, 2, cell="peephole_lstm", pooling="attention"), (X, [4, 2])),
    "OneToMany": (lambda: M.OneToMany(3, 4, 2, activation="sigmoid"), (X[0], None, 3)),
    "OneToOne": (lambda: M.OneToOne(3, 4, 2, num_layers=2, activation="tanh").to("float64"), (X,)),
}


class Own(nn.Module):
    """A user's module, of two types, with a weight used twice."""

    def __init__(self) -> None:
        self.layers = nn.ModuleList(nn.Linear(3, 4), nn.Linear(3, 4, dtype="float64"))
        self.tied = self.layers[0]


class OwnLM(M.CharLM):
    """A subclass, which no file can make again."""


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: nn.LSTM(3, 4, 2, bidirectional=True), "own": Own, "subclass of a model": lambda: OwnLM(5, 4, 1),
    "Sequential": lambda: nn.Sequential(nn.Embedding(5, 3), nn.Tanh(), nn.Linear(3, 2)), "nothing": nn.Tanh,
    "model of a module": lambda: M.ManyToMany(3, 4, 2, cell=nn.GRUCell(3, 4)),
}  # fmt: skip


def arrays_of(result: Any) -> list[np.ndarray]:
    parts = result if isinstance(result, tuple) else (result,)
    return [array for part in parts for array in (arrays_of(part) if isinstance(part, tuple) else [part.numpy()])]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_in_evaluation_mode(name: str, tmp_path: Path) -> None:
    make, arguments = MODELS[name]
    model, path = make(), tmp_path / "deep" / "model.safetensors"
    mr.save(path, model)
    assert model.training, "saving changes nothing"
    loaded = mr.load(str(path))
    assert type(loaded) is type(model)
    assert not loaded.training
    assert loaded.config == model.config
    for got, expected in zip(arrays_of(loaded(*arguments)), arrays_of(model.eval()(*arguments)), strict=True):
        np.testing.assert_array_equal(got, expected)
        assert got.dtype == expected.dtype
    mr.save(path, loaded)
    np.testing.assert_array_equal(arrays_of(mr.load(path)(*arguments))[0], arrays_of(model(*arguments))[0])


@pytest.mark.parametrize("name", OTHERS)
def test_another_module_comes_back_as_its_state_dict(name: str, tmp_path: Path) -> None:
    module, other, path = OTHERS[name](), OTHERS[name](), tmp_path / "x.safetensors"
    mr.save(path, module)
    other.load_state_dict(mr.load(path))
    expected = module.state_dict()
    assert other.state_dict().keys() == expected.keys()
    for key, array in other.state_dict().items():
        np.testing.assert_array_equal(array, expected[key])
        assert array.dtype == expected[key].dtype


@pytest.mark.parametrize("name", TASKS)
def test_a_run_and_a_checkpoint_give_the_trained_task(name: str, tmp_path: Path) -> None:
    """The best of a run, else the last; and a task that is saved again."""
    task, folder = TASKS[name].make(TASKS[name].write(tmp_path)), tmp_path / "run"
    run(Trainer(task, TrainingConfig(steps=2, evaluations=1), folder))
    for path in (folder, folder / LAST):
        loaded = mr.load(path)
        assert type(loaded) is type(task)
        expected = tasks.load(folder / BEST if path == folder else path)
        assert loaded.config() == expected.config()
        for key, array in loaded.model.state_dict().items():
            np.testing.assert_array_equal(array, expected.model.state_dict()[key])
    mr.save(tmp_path / "again.safetensors", loaded)
    again = mr.load(tmp_path / "again.safetensors")
    source = [str(tmp_path / TASKS[name].name)]
    assert (type(again), again.measure(source)) == (type(task), loaded.measure(source))
    (folder / BEST).unlink()
    assert mr.load(folder).config() == loaded.config()


def test_only_modules_and_tasks_are_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for value, kind in ((nn.Linear(2, 2).state_dict(), "dict"), (str(path), "str"), (mr.zeros(2), "Tensor")):
        with pytest.raises(OptionError, match=f"save: expected a path and then a module .*, got {kind}"):
            mr.save(path, value)  # type: ignore[arg-type]
    assert not path.exists()


def test_what_is_not_a_file_of_minirnn_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "torch.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros((2, 2), np.float32)}, other, {"format": "pt"})
    damaged, pickled = tmp_path / "damaged.safetensors", tmp_path / "model.pt"
    mr.save(damaged, nn.Linear(2, 2))
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    pickled.write_bytes(b"\x80\x04K\x01.")
    for path, message in {
        tmp_path / "nowhere": "there is no checkpoint .*nowhere",
        tmp_path: f"no checkpoint in .*; expected {BEST} or {LAST}",
        other: r"torch\.safetensors is a safetensors file, but not a minirnn checkpoint",
        damaged: r"damaged\.safetensors is damaged: array model\.\w+ does not match",
        pickled: r"model\.pt is not a checkpoint, or damaged",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            mr.load(path)


def test_damaged_and_untrusted_descriptions_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "x.safetensors", M.CharLM(5, 4, 1)
    mr.save(path, model)
    arrays, description = checkpoint.load(path)
    assert description == {"class": "CharLM", "model": model.config}
    config = description["model"]
    for changed, message in (
        ({"hidden_size": 10**12}, "is damaged: the description's hidden_size"),
        ({"num_layers": 10**9}, "is damaged: the description's num_layers"),
        ({"hidden_size": 3}, "is damaged: load_state_dict of CharLM"),
        ({"cell": "qrnn"}, "is damaged: .*qrnn"),
        ({"color": 1}, "is damaged: .*color"),
    ):
        checkpoint.save(path, arrays, description | {"model": config | changed})
        with pytest.raises(CheckpointError, match=rf"x\.safetensors {message}"):
            mr.load(path)
    for name in ("Linear", "Model", "os", None, ["CharLM"]):
        checkpoint.save(path, arrays, description | {"class": name})
        with pytest.raises(CheckpointError, match="which this version does not know"):
            mr.load(path)


def test_commands_say_that_a_saved_model_is_no_task(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    mr.save(path, M.CharLM(5, 4, 1))
    message = f"{path} holds a CharLM, not a trained task; minirnn.load reads it"
    assert refusal("predict", str(path), "text") == message
    assert refusal("sample", str(path)) == f"{path} holds a 'CharLM' model; expected a character model"


def test_loading_a_state_dict_imports_no_task(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    mr.save(path, nn.Linear(2, 2))
    code = f"import sys, minirnn; minirnn.load({str(path)!r}); print('minirnn.tasks' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
