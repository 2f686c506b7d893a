"""Files that PyTorch, Keras and onnx have written: the module computes what they compute."""

from __future__ import annotations

import json
import os
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support import invoke, json_of, refusal

import minirnn as mr
from minirnn import checkpoint, tasks
from minirnn.errors import CheckpointError, MinirnnError, OptionError
from minirnn.export.network import describe
from minirnn.export.record import record
from minirnn.export.to_onnx import program
from minirnn.importing import load_weights, read_parts
from minirnn.importing.model import import_model, read_vocabulary

REASON = "is not installed (extra: peers)"
T, N = 6, 3
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:keras", "ignore::UserWarning:keras")


def values(module: Any) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in module.state_dict().items()}


def refused(module: Any, path: Any, *messages: str, error: type[Exception] = CheckpointError, **options: Any) -> None:
    """Loading raises an error with the file's name and these messages, and leaves the module as it was."""
    before = values(module)
    with pytest.raises(error) as caught:
        load_weights(module, path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    for message in messages:
        assert message in str(caught.value)
    after = module.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)


# ---------------------------------------------------------------------------------------------------- PyTorch


@pytest.fixture(scope="session")
def torch() -> Any:
    torch = pytest.importorskip("torch", reason=f"torch {REASON}")
    torch.manual_seed(0)
    return torch


def save_torch(torch: Any, module: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        state = {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}
        safetensors.numpy.save_file(state, path)
    else:
        torch.save(module.state_dict(), path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_pytorch_layers(kind: str, suffix: str, tmp_path: Path, torch: Any) -> None:
    """Two layers in two directions, under their own names and below a module."""
    other = getattr(torch.nn, kind)(4, 5, 2, bidirectional=True)
    x = RNG.standard_normal((T, N, 4)).astype("float32")
    expected = other(torch.from_numpy(x))[0].detach().numpy()
    for name, module in (("bare", other), ("below", torch.nn.ModuleDict({"encoder": other}))):
        mine = getattr(mr.nn, kind)(4, 5, 2, bidirectional=True)
        load_weights(mine, save_torch(torch, module, tmp_path / f"{name}{suffix}"))
        np.testing.assert_allclose(mine(x)[0].numpy(), expected, atol=1e-5)


def language_model(torch: Any, kind: str = "LSTM", size: int = 7, width: int = 4) -> Any:
    class Model(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(size, width)
            self.lstm = getattr(torch.nn, kind)(width, 5, 2)
            self.fc = torch.nn.Linear(5, size)

        def forward(self, x: Any) -> Any:
            return self.fc(self.lstm(self.embed(x))[0])

    return Model().eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_with_names_of_its_own(suffix: str, dtype: Any, tmp_path: Path, torch: Any) -> None:
    other = language_model(torch).to(getattr(torch, dtype))
    path = save_torch(torch, other, tmp_path / f"model{suffix}")
    mine = mr.models.CharLM(7, 5, 2, embedding_size=4, dtype=dtype)
    load_weights(mine, path)
    x = RNG.integers(0, 7, (T, N))
    expected = other(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(mine(x)[0].numpy(), expected, atol=1e-5 if dtype == "float32" else 1e-12)
    half = mr.models.CharLM(7, 5, 2, embedding_size=4, dtype="float32" if dtype == "float64" else "float64")
    load_weights(half, path)
    np.testing.assert_allclose(half(x)[0].numpy(), expected, atol=1e-5)


def test_prefixes_and_names(tmp_path: Path, torch: Any) -> None:
    """Lightning's checkpoint, a part of a state dict, and arrays that are called otherwise."""
    other = language_model(torch)
    torch.save(
        {"state_dict": {f"model.{n}": v for n, v in other.state_dict().items()}, "epoch": 3}, tmp_path / "l.ckpt"
    )
    lstm, head = mr.nn.LSTM(4, 5, 2), mr.nn.Linear(5, 7)
    load_weights(lstm, tmp_path / "l.ckpt", prefix="model.lstm.")
    assert np.array_equal(lstm.state_dict()["weight_hh_l1"], other.lstm.weight_hh_l1.detach().numpy())
    model = mr.models.CharLM(7, 5, 2, embedding_size=4)
    load_weights(model, tmp_path / "l.ckpt")
    assert np.array_equal(model.state_dict()["head.weight"], other.fc.weight.detach().numpy())
    torch.save({"w": other.fc.weight.detach().half(), "b": other.fc.bias.detach()}, tmp_path / "h.pt")
    load_weights(head, tmp_path / "h.pt", names={"w": "weight", "b": "bias"})
    assert np.array_equal(head.state_dict()["weight"], other.fc.weight.detach().half().float().numpy())
    checkpoint.save(
        tmp_path / "c.safetensors",
        {"model.weight": np.ones((7, 5)), "model.bias": np.ones(7), "m": head.weight.numpy()},
        {},
    )
    load_weights(head, tmp_path / "c.safetensors", prefix="model.")
    assert (head.state_dict()["weight"] == 1).all()
    refused(head, tmp_path / "h.pt", "there is no array x; it has w, b", names={"x": "weight"})
    refused(lstm, tmp_path / "l.ckpt", "begins with 'gru.'; it has model.embed", prefix="gru.")


def test_pytorch_files_that_do_not_fit(tmp_path: Path, torch: Any) -> None:
    path = save_torch(torch, torch.nn.LSTM(4, 5, 2), tmp_path / "lstm.pt")
    refused(mr.nn.LSTM(4, 6, 2), path, "weight_ih_l0 has shape [20, 4], expected [24, 4]")
    refused(mr.nn.LSTM(4, 5, 3), path, "missing weight_ih_l2, weight_hh_l2, bias_ih_l2, bias_hh_l2")
    refused(mr.nn.LSTM(4, 5), path, "unexpected weight_ih_l1")
    refused(mr.models.ManyToMany(4, 5, 3), path, "recurrent layers: expected 1 for ManyToMany, got 2: .l0, .l1")
    gru = save_torch(torch, language_model(torch, "GRU"), tmp_path / "gru.pt")
    refused(mr.models.CharLM(7, 5, 2, embedding_size=4), gru, "expected the cell lstm", "got gru")
    refused(mr.models.CharLM(7, 5, 2, "gru"), gru, "embedding.weight has shape [7, 4], expected [7, 5]")
    torch.save({"norm.weight": torch.zeros(3)}, tmp_path / "norm.pt")
    refused(mr.nn.Linear(3, 3), tmp_path / "norm.pt", "got norm.weight [3]")
    two = {f"{name}.{n}": v for name in "ba" for n, v in torch.nn.Linear(3, 3).state_dict().items()}
    two_layers = mr.nn.Sequential(mr.nn.Linear(3, 3), mr.nn.Linear(3, 3))
    safetensors.numpy.save_file({n: v.numpy() for n, v in two.items()}, tmp_path / "two.safetensors")
    refused(two_layers, tmp_path / "two.safetensors", "does not say in which order its layers", "names=")
    torch.save(two, tmp_path / "two.pt")
    load_weights(two_layers, tmp_path / "two.pt")
    assert np.array_equal(two_layers.state_dict()["0.weight"], two["b.weight"].numpy())


class Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("created_by_code",)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    lstm = mr.nn.LSTM(4, 5)
    torch.save({"weight_ih_l0": Code()}, "code.pt")
    refused(lstm, "code.pt", "PyTorch does not read it as weights alone")
    assert not Path("created_by_code").exists()
    torch.save([1, 2], "list.pt")
    refused(lstm, "list.pt", "expected a state dict")
    for name in ("a.pt", "a.safetensors", "a.keras", "a.weights.h5", "a.onnx"):
        Path(name).write_bytes(b"\x08not such a file")
        refused(lstm, name)
        Path(name).unlink()
        refused(lstm, name, "there is no such file")
    refused(lstm, "a.bin", "expected a file ending in one of .safetensors", error=OptionError)
    refused(lstm, tmp_path, "expected a file, got a folder")
    refused(lstm, "a.onnx", "are for state dicts", error=OptionError, prefix="x")


@pytest.mark.parametrize(("module", "name"), [("torch", "a.pt"), ("h5py", "a.h5"), ("onnx", "a.onnx")])
def test_a_missing_package_is_named(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).touch()
    refused(mr.nn.LSTM(4, 5), tmp_path / name, f"needs {'PyTorch' if module == 'torch' else ''}", error=OptionError)


# ------------------------------------------------------------------------------------------------------ Keras


@pytest.fixture(scope="session")
def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "numpy")  # starts faster than others
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras", reason=f"keras {REASON}")
    keras.utils.set_random_seed(0)
    return keras


def keras_model(keras: Any, *layers: Any, tokens: bool = False) -> Any:
    """A model whose weights are random, also the biases, which Keras starts at zero."""
    model = keras.Sequential([keras.Input((None,) if tokens else (None, 4)), *layers])
    for weight in model.weights:
        weight.assign(RNG.uniform(-0.7, 0.7, weight.shape))
    return model


LAYERS: dict[str, tuple[Callable[[Any], Any], Callable[[], Any]]] = {
    "LSTM": (lambda L: [L.LSTM(5, return_sequences=True)], lambda: mr.nn.LSTM(4, 5)),
    "LSTM without bias": (lambda L: [L.LSTM(5, return_sequences=True, use_bias=False)], lambda: mr.nn.LSTM(4, 5)),
    "GRU": (lambda L: [L.GRU(5, return_sequences=True)], lambda: mr.nn.GRU(4, 5)),
    "GRU, reset before": (
        lambda L: [L.GRU(5, return_sequences=True, reset_after=False)],
        lambda: mr.nn.Recurrent("gru_reset_before", 4, 5),
    ),
    "SimpleRNN": (lambda L: [L.SimpleRNN(5, return_sequences=True)], lambda: mr.nn.RNN(4, 5)),
    "SimpleRNN, relu": (
        lambda L: [L.SimpleRNN(5, activation="relu", return_sequences=True)],
        lambda: mr.nn.RNN(4, 5, nonlinearity="relu"),
    ),
    "two layers": (
        lambda L: [L.LSTM(5, return_sequences=True) for _ in range(2)],
        lambda: mr.nn.LSTM(4, 5, 2),
    ),
    "two directions": (
        lambda L: [L.Bidirectional(L.GRU(5, return_sequences=True)) for _ in range(2)],
        lambda: mr.nn.GRU(4, 5, 2, bidirectional=True),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_keras_layers(name: str, tmp_path: Path, keras: Any) -> None:
    layers, make = LAYERS[name]
    model = keras_model(keras, *layers(keras.layers))
    x = RNG.standard_normal((N, T, 4)).astype("float32")
    expected = np.asarray(model(x))
    for suffix in (".keras", ".weights.h5", ".h5"):
        mine, path = make(), tmp_path / f"model{suffix}"
        model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
        load_weights(mine, path)
        found = mine(x.transpose(1, 0, 2))[0].numpy().transpose(1, 0, 2)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=suffix)


def test_a_keras_model_of_different_layers(tmp_path: Path, keras: Any) -> None:
    """Their order is in the configuration, not in the weights; an optimizer and dropout have arrays of their own."""
    L = keras.layers
    layers = [L.Embedding(9, 4), L.Bidirectional(L.LSTM(3, return_sequences=True)), L.Dropout(0.1)]
    layers += [L.LSTM(6, return_sequences=True), L.Dense(5), L.TimeDistributed(L.Dense(2))]
    model = keras_model(keras, *layers, tokens=True)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    x = RNG.integers(0, 9, (N, T))
    expected = np.asarray(model(x))

    class Mine(mr.nn.Module):
        def __init__(self) -> None:
            self.table, self.first = mr.nn.Embedding(9, 4), mr.nn.LSTM(4, 3, bidirectional=True)
            self.second, self.third, self.out = mr.nn.LSTM(6, 6), mr.nn.Linear(6, 5), mr.nn.Linear(5, 2)

        def forward(self, x: Any) -> Any:
            return self.out(self.third(self.second(self.first(self.table(x))[0])[0]))

    for suffix in (".keras", ".h5"):
        mine = Mine()
        model.save(tmp_path / f"model{suffix}")
        load_weights(mine, tmp_path / f"model{suffix}")
        np.testing.assert_allclose(mine(x.T).numpy().transpose(1, 0, 2), expected, atol=1e-5)
    model.save_weights(tmp_path / "model.weights.h5")
    refused(Mine(), tmp_path / "model.weights.h5", "does not say in which order its layers bidirectional, lstm come")
    refused(mr.nn.LSTM(4, 3), tmp_path / "model.keras", "recurrent layers: expected 1 for LSTM, got 2")


def test_keras_files_that_do_not_fit(tmp_path: Path, keras: Any) -> None:
    L, path = keras.layers, tmp_path / "model.keras"
    keras_model(keras, L.LSTM(5)).save(path)
    refused(mr.nn.LSTM(4, 6), path, "weight_ih_l0 has shape [20, 4], expected [24, 4]")
    refused(mr.nn.GRU(4, 5), path, "lstm: expected the cell gru of layer 0, got lstm")
    refused(mr.nn.LSTM(4, 5, bidirectional=True), path, "lstm: expected 2 directions as of layer 0, got 1")
    keras_model(keras, L.GRU(5, reset_after=False)).save(path)
    refused(mr.nn.GRU(4, 5), path, "gru: expected the cell gru of layer 0, got gru_reset_before")
    keras_model(keras, L.LSTM(5, activation="relu")).save(path)
    refused(mr.nn.LSTM(4, 5), path, "expected activation tanh, got relu")
    keras_model(keras, L.LayerNormalization()).save(path)
    refused(mr.nn.LSTM(4, 5), path, "layer_normalization: expected an LSTM")


def test_damaged_and_malicious_keras_files(tmp_path: Path, keras: Any) -> None:
    """Truncated, larger inside than outside, and with a link to another file."""
    h5py, path, mine = pytest.importorskip("h5py"), tmp_path / "model.weights.h5", mr.nn.LSTM(4, 5)
    keras_model(keras, keras.layers.LSTM(5)).save_weights(path)
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 1, 8):
        path.write_bytes(whole[:size])
        refused(mine, path, "damaged")
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/lstm/cell/vars/0", (1 << 20, 1 << 20), "f4", chunks=(1024, 1024))
    refused(mine, path, "its arrays are larger than the file")
    (tmp_path / "other.h5").write_bytes(whole)
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/layers")
    refused(mine, path, "recurrent layers: expected 1 for LSTM, got 0")
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(1 << 24))
        archive.writestr("config.json", "{}")
    refused(mine, bomb, "its contents are larger than the file")


# ------------------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_onnx_written_by_pytorch(kind: str, tmp_path: Path, torch: Any) -> None:
    pytest.importorskip("onnx", reason=f"onnx {REASON}")
    other, x = language_model(torch, kind), torch.from_numpy(RNG.integers(0, 7, (T, N)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(other, (x,), str(tmp_path / "model.onnx"), dynamo=False)
    mine = mr.models.CharLM(7, 5, 2, kind.lower(), 4)
    load_weights(mine, tmp_path / "model.onnx")
    np.testing.assert_allclose(mine(x.numpy())[0].numpy(), other(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "peephole_lstm", "gru", "gru_reset_before", "rnn", "rnn_relu"])
def test_what_is_exported_to_onnx_is_read_again(cell: str, tmp_path: Path) -> None:
    """The exported file is compared with onnxruntime elsewhere, so what is read here is what the format means."""
    pytest.importorskip("onnx", reason=f"onnx {REASON}")
    model, mine = (mr.models.ManyToMany(9, 5, 4, 2, cell, True, embedding_size=3) for _ in range(2))
    path = tmp_path / "model.onnx"
    path.write_bytes(program(describe(model), record(model)))
    load_weights(mine, path)
    x = RNG.integers(0, 9, (T, N))
    with model.evaluating():
        np.testing.assert_allclose(mine(x)[0].numpy(), model(x)[0].numpy(), atol=1e-6)


def test_onnx_nodes_that_minirnn_does_not_compute(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason=f"onnx {REASON}")
    helper, path = onnx.helper, tmp_path / "model.onnx"

    def write(direction: str = "forward", **attributes: Any) -> None:
        arrays = {"W": np.zeros((1, 20, 4), "f"), "R": np.zeros((1, 20, 5), "f")}
        node = helper.make_node(
            "LSTM", ["x", "W", "R"], ["y"], "layer", hidden_size=5, direction=direction, **attributes
        )
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy")
        stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
        onnx.save_model(helper.make_model(helper.make_graph([node], "g", [x], [y], stored)), path)

    write()
    load_weights(mr.nn.LSTM(4, 5), path)
    for message, attributes in (
        ("layer: direction reverse", {"direction": "reverse"}),
        ("layer: clip", {"clip": 1.0}),
        ("layer: activations hardsigmoid, tanh, tanh", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
    ):
        write(**attributes)
        refused(mr.nn.LSTM(4, 5), path, message)


# ---------------------------------------------------------------------------------------------- damaged files


def test_files_with_changed_bytes_load_or_are_refused(tmp_path: Path, keras: Any, torch: Any) -> None:
    """Nothing but an error of minirnn, of one line, whatever is in a file."""
    pytest.importorskip("onnx", reason=f"onnx {REASON}")
    L, model, path = keras.layers, mr.models.ManyToMany(4, 5, 3, cell="gru", bidirectional=True), tmp_path / "file"
    path.with_suffix(".onnx").write_bytes(program(describe(model), record(model)))
    safetensors.numpy.save_file(model.state_dict(), path.with_suffix(".safetensors"))
    torch.save({name: torch.from_numpy(array) for name, array in model.state_dict().items()}, path.with_suffix(".pt"))
    other = keras_model(keras, L.Bidirectional(L.GRU(5, return_sequences=True)), L.Dense(3))
    other.save(path.with_suffix(".keras"))
    other.save(path.with_suffix(".h5"))
    rng, loaded, messages = np.random.default_rng(0), 0, []
    for suffix in (".onnx", ".safetensors", ".pt", ".keras", ".h5"):
        file = path.with_suffix(suffix)
        whole = file.read_bytes()
        load_weights(model, file)
        for _ in range(30):
            data = bytearray(whole if rng.random() < 0.7 else whole[: rng.integers(len(whole))])
            for place in rng.integers(min(len(data), 3000), size=rng.integers(1, 20)) if data else ():
                data[place] = rng.integers(256)
            file.write_bytes(data)
            try:
                read_parts(file)
                loaded += 1
            except MinirnnError as error:
                messages.append(str(error))
    assert loaded > 10
    assert len(messages) > 10
    assert not any("\n" in message for message in messages)


# ------------------------------------------------------------------------------------------------ whole models

SYMBOLS = ["b", "a", "\n", " ", "é", "z", "t"]


def test_a_character_model_of_pytorch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    """Its vocabulary in another order than minirnn's; the checkpoint can be sampled from and inspected."""
    monkeypatch.chdir(tmp_path)
    other = language_model(torch)
    save_torch(torch, other, Path("model.pt"))
    Path("symbols.json").write_text(json.dumps({symbol: number for number, symbol in enumerate(SYMBOLS)}))
    invoke("import", "model.pt", "-o", "new/char.safetensors", "--vocabulary", "symbols.json")
    task = tasks.load("new/char.safetensors")
    text = "at z\ntab"
    expected = other(torch.tensor([SYMBOLS.index(c) for c in text])[:, None]).detach().numpy()[:, 0]
    with task.model.evaluating():
        found = task.model(task.symbols.encode(text)[:, None])[0].numpy()[:, 0]
    order = [SYMBOLS.index(c) for c in task.symbols.characters]
    np.testing.assert_allclose(found, expected[:, order], atol=1e-5)
    tokens, written = [SYMBOLS.index("a")], ""
    for _ in range(20):
        tokens.append(int(other(torch.tensor(tokens)[:, None])[-1, 0].argmax()))
        written += SYMBOLS[tokens[-1]]
    options = ["--prime", "a", "--length", "20", "--temperature", "0"]
    assert json_of("sample", "new/char.safetensors", *options)["text"] == written
    assert json_of("info", "new/char.safetensors")["symbols"]["characters"] == "".join(sorted(SYMBOLS))


def test_a_one_hot_model_of_keras(tmp_path: Path, keras: Any) -> None:
    L = keras.layers
    model = keras.Sequential([keras.Input((None, 7)), L.LSTM(5, return_sequences=True), L.Dense(7)])
    model.save(tmp_path / "model.keras")
    task: Any = import_model(tmp_path / "model.keras", SYMBOLS)
    text = "ab\nzt"
    expected = np.asarray(model(np.eye(7, dtype="f")[[SYMBOLS.index(c) for c in text]][None]))[0]
    with task.model.evaluating():
        found = task.model(task.symbols.encode(text)[:, None])[0].numpy()[:, 0]
    np.testing.assert_allclose(found, expected[:, [SYMBOLS.index(c) for c in task.symbols.characters]], atol=1e-5)


def test_a_model_without_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(4, 5, bidirectional=True), "out": torch.nn.Linear(10, 3)})
    save_torch(torch, module, Path("model.safetensors"))
    invoke("import", "model.safetensors", "-o", "plain.safetensors", "--quiet")
    arrays, config = checkpoint.load("plain.safetensors")
    model = getattr(mr.models, config["class"])(**config["model"])
    model.load_state_dict(checkpoint.part(arrays, "model."))
    x = RNG.standard_normal((T, N, 4)).astype("float32")
    expected = module["out"](module["rnn"](torch.from_numpy(x))[0]).detach().numpy()
    np.testing.assert_allclose(model(x)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", json.dumps(SYMBOLS)),
        ("numbers.json", json.dumps({symbol: number for number, symbol in enumerate(SYMBOLS)})),
        ("symbols.json", json.dumps(dict(reversed(list(enumerate(SYMBOLS)))))),
    ],
)
def test_vocabularies_of_scripts(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_vocabulary(tmp_path / name) == SYMBOLS


def test_a_text_is_a_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("".join(SYMBOLS) * 2, encoding="utf-8")
    assert read_vocabulary(tmp_path / "corpus.txt") == sorted(SYMBOLS)


def test_imports_that_fail_are_one_line_and_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    save_torch(torch, language_model(torch), Path("model.pt"))
    save_torch(torch, torch.nn.LSTM(4, 5), Path("lstm.pt"))
    files = {
        "six.txt": "abcdef",
        "words.json": '["the", "of"]',
        "twice.json": '["a", "a"]',
        "holes.json": '{"a": 0, "b": 2}',
        "number.json": "3",
        "broken.json": "[",
    }
    for name, text in files.items():
        Path(name).write_text(text)

    def failed(file: str, *options: str) -> str:
        message = refusal("import", file, "-o", "out.safetensors", *options)
        assert not Path("out.safetensors").exists()
        assert message.startswith((file, options[-1] if options else file, "cannot read"))
        return message

    assert "expected a vocabulary for 7 characters, got 6" in failed("model.pt", "--vocabulary", "six.txt")
    assert "single characters" in failed("model.pt", "--vocabulary", "words.json")
    assert "more than once" in failed("model.pt", "--vocabulary", "twice.json")
    assert "numbers from 0 to 1" in failed("model.pt", "--vocabulary", "holes.json")
    assert "single characters" in failed("model.pt", "--vocabulary", "number.json")
    assert "JSON" in failed("model.pt", "--vocabulary", "broken.json")
    assert "No such file" in failed("model.pt", "--vocabulary", "none.json")
    assert "one linear layer" in failed("lstm.pt")
    assert "ending in" in failed("six.txt")
    assert "cannot write" in refusal("import", "model.pt", "-o", "six.txt/out.safetensors")
