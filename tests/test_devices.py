"""Every operation on a GPU against the CPU: values, and the gradients that follow from a random upstream gradient.

Without a GPU these run where Numba simulates one (NUMBA_ENABLE_CUDASIM=1), and are skipped elsewhere.
"""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from autograd.test_ops_gradients import CASES
from support import run

import minirnn as mr
from minirnn import kernels
from minirnn.autograd import Tensor, ops
from minirnn.data.text import Characters
from minirnn.errors import DeviceError
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import Trainer, TrainingConfig

TOLERANCE = {"float32": 3e-5, "float64": 1e-12}


def outcome(fn: Any, inputs: tuple[np.ndarray, ...], dtype: np.dtype, device: str) -> tuple[list[Any], list[Any]]:
    """Values, and gradients, as NumPy arrays."""
    mr.manual_seed(5)
    leaves = [mr.tensor(values, True, dtype, device) for values in inputs]
    result = fn(*leaves)
    outputs = [result] if isinstance(result, Tensor) else list(result)
    rng = np.random.default_rng(3)
    assert all(y.device == device for y in outputs)
    ops.stack([(y * rng.standard_normal(y.shape).astype(dtype)).sum() for y in outputs]).sum().backward()
    for x in leaves:
        assert x.grad is None or (x.grad.device, x.grad.dtype, x.grad.shape) == (device, dtype, x.shape)
    return [y.numpy() for y in outputs], [None if x.grad is None else x.grad.numpy() for x in leaves]


@pytest.mark.parametrize("name", sorted({c.name for c in CASES} - {"cast"}))
def test_operations_do_as_on_the_cpu(name: str, dtype: np.dtype, gpu: str) -> None:
    tolerance = TOLERANCE[str(dtype)]
    for number, (_, fn, inputs) in enumerate(c for c in CASES if c.name == name):
        try:
            expected, got = (outcome(fn, inputs, dtype, device) for device in ("cpu", gpu))
            for ours, theirs in zip([*got[0], *got[1]], [*expected[0], *expected[1]], strict=True):
                if theirs is None:
                    assert ours is None
                    continue
                assert ours.dtype == theirs.dtype
                np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
        except Exception as error:
            error.add_note(f"{name}, case {number}: inputs {[v.shape for v in inputs]}")
            raise


# ------------------------------------------------------------------------------------------- between devices


def test_a_move_is_recorded_and_back_again_is_nothing(gpu: str) -> None:
    x = mr.tensor([1.0, -2.0], requires_grad=True)
    there = (x * 3.0).to(gpu)
    assert (there.device, there.tolist()) == (gpu, [3.0, -6.0])
    back = (there * there).to("cpu")
    assert (back.device, back.tolist()) == ("cpu", [9.0, 36.0])
    (back.sum() + x.sum()).backward()
    assert x.grad.tolist() == [19.0, -35.0]
    assert back.to("cpu") is back
    assert repr(there).startswith("tensor([ 3., -6.], device='cuda'")


MIXED = {
    "add": lambda a, b: a + b, "compare": lambda a, b: a > b, "matmul": lambda a, b: a @ b,
    "cat": lambda a, b: mr.cat([a, b]), "stack": lambda a, b: mr.stack([a, b]),
    "where": lambda a, b: mr.where(a > 0, a, b), "linear": lambda a, b: ops.linear(a, b),
    "mse_loss": lambda a, b: mr.nn.functional.mse_loss(a, b), "lstm state": lambda a, b: mr.nn.LSTM(2, 2).to(a.device)(
        a.unsqueeze(0), (b.unsqueeze(0), b.unsqueeze(0))), "lstm": lambda a, b: mr.nn.LSTM(2, 2).to(b.device)(a),
    "array": lambda a, b: a.data + b.data,
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_devices_do_not_mix(name: str, gpu: str) -> None:
    a, b = mr.ones(2, 2), mr.ones(2, 2, device=gpu)
    for x, y in ((a, b), (b, a)):
        if name == "array" and x is b:
            continue  # an array of the host is a constant there, as a number is
        with pytest.raises(DeviceError, match=r"device|cuda"):
            MIXED[name](x, y)


def test_nothing_comes_to_the_host_unasked(gpu: str) -> None:
    x = mr.ones(2, 3, device=gpu).data
    for attempt in (np.asarray, bool, list, np.exp, lambda a: np.add(1.0, a), lambda a: np.ones((2, 3)) * a):
        with pytest.raises(DeviceError, match="cuda"):
            attempt(x)


def test_memory_is_used_again(gpu: str) -> None:
    K = kernels.on(gpu)
    first = K.zeros((100,), np.float32)
    part, block = first[50:], first.block
    del first
    assert K.zeros((100,), np.float32).block is not block  # a view still has it
    del part
    memory = block.memory
    del block
    assert K.zeros((97,), np.float32).block.memory is memory


def test_memory_outlives_what_is_collected_with_it(gpu: str) -> None:
    """An array in a cycle of references, as one in a traceback is, must not take with it what others get next."""
    x, lost = kernels.on(gpu).zeros((100,), np.float32), []
    weakref.finalize(x.block.memory, lost.append, x.block.memory.size)
    cycle: list[Any] = [x]
    cycle.append(cycle)
    del x, cycle
    gc.collect()
    assert not lost


@pytest.mark.needs_gpu
def test_other_libraries_share_memory(gpu: str) -> None:
    x = mr.tensor([[1.0, 2.0], [3.0, 4.0]], device=gpu)
    other = type("Other", (), {"__cuda_array_interface__": x.__cuda_array_interface__})()
    copied = mr.tensor(other, device=gpu)
    kernels.on(gpu).asarray(other)[0] = 5.0
    assert x.tolist() == [[5.0, 5.0], [3.0, 4.0]]
    assert copied.tolist() == [[1.0, 2.0], [3.0, 4.0]]


# ------------------------------------------------------------------------------------------ models, training


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_training_does_as_on_the_cpu(cell: str, gpu: str) -> None:
    """Losses, norms and weights of some steps of a small model, with dropout, a carried state and clipping."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 5, (4, 5, 3))
    found = {}
    for device in ("cpu", gpu):
        mr.manual_seed(1)
        model = mr.models.CharLM(5, 6, 2, cell, dropout=0.3).to(device)
        optimizer = mr.optim.AdamW(model.parameters(), lr=0.03)
        facts, state = [], None
        for chunk in tokens:
            optimizer.zero_grad()
            logits, state = model(chunk[:-1], state)
            loss = mr.nn.functional.cross_entropy(logits.reshape(-1, 5), chunk[1:].reshape(-1))
            loss.backward()
            state = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
            facts += [loss.item(), mr.optim.clip_grad_norm_(model.parameters(), 0.5)]
            optimizer.step()
        found[device] = [np.array(facts), *model.state_dict().values()]
    for ours, theirs in zip(found[gpu], found["cpu"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


SIZES = [("lstm", 128, 50, 50), ("gru", 128, 50, 50), ("rnn", 128, 50, 50), ("lstm", 512, 64, 16), ("gru", 512, 64, 16)]


@pytest.mark.needs_gpu
@pytest.mark.parametrize(("cell", "hidden", "batch", "steps"), SIZES)
def test_sizes_of_real_life(cell: str, hidden: int, batch: int, steps: int, gpu: str) -> None:
    """The loss and every gradient of two layers in float32, to 1e-4 of their norm."""
    tokens, targets = np.random.default_rng(0).integers(0, 65, (2, steps, batch))
    found = {}
    for device in ("cpu", gpu):
        mr.manual_seed(1)
        model = mr.models.CharLM(65, hidden, 2, cell).to(device)
        loss, _ = model.loss(tokens, targets)
        loss.backward()
        found[device] = {"loss": loss.numpy()} | {name: p.grad.numpy() for name, p in model.named_parameters()}
    for name, expected in found["cpu"].items():
        assert np.linalg.norm(found[gpu][name] - expected) <= 1e-4 * np.linalg.norm(expected), name


def test_a_run_goes_on_on_another_device(tmp_path: Path, gpu: str) -> None:
    """Half on the GPU, the rest on the CPU, and the other way round: as all of it on the CPU."""
    tokens = np.random.default_rng(0).integers(0, 3, 400)
    weights = {}
    for name, devices in {"plain": ("cpu", "cpu"), "there": ("cpu", gpu), "back": (gpu, "cpu")}.items():
        for half, device in enumerate(devices):
            config = CharConfig(cell="gru", hidden_size=4, num_layers=1, batch_size=3, seq_length=5)
            task = TextGenerator.build(Corpus(tokens, Characters("abc")), config)
            task.model.to(device)
            trainer = Trainer(task, TrainingConfig(steps=4, evaluations=1), tmp_path / name, resume=half == 1)
            run(trainer, 2)
            assert trainer.position.step == 2 * (half + 1)
        weights[name] = task.model.state_dict()
    for name in ("there", "back"):
        for key, array in weights[name].items():
            np.testing.assert_allclose(array, weights["plain"][key], rtol=1e-4, atol=1e-5, err_msg=key)


def outputs_of(layer: Any) -> Any:
    """Of a recurrent layer over ``VECTORS``."""
    return layer(mr.tensor(VECTORS, device=next(layer.parameters()).device), lengths=LENGTHS)[0]


VECTORS = np.random.default_rng(2).standard_normal((3, 2, 4)).astype(np.float32)
TOKENS, LENGTHS = [[4, 1], [2, 3], [1, 0]], [3, 2]
M = mr.models
MODELS: dict[str, tuple[Any, Any]] = {
    "one to one": (lambda: M.OneToOne(4, 5, 3), lambda m: m(VECTORS[0])),
    "last": (lambda: M.ManyToOne(4, 3, 2, cell="gru", bidirectional=True), lambda m: m(VECTORS, LENGTHS)),
    "mean": (lambda: M.ManyToOne(4, 3, 2, pooling="mean"), lambda m: m(VECTORS, LENGTHS)),
    "max": (lambda: M.ManyToOne(4, 3, 2, pooling="max"), lambda m: m(VECTORS, LENGTHS)),
    "attention": (lambda: M.ManyToOne(5, 3, 2, pooling="attention", embedding_size=2), lambda m: m(TOKENS, LENGTHS)),
    "sum of directions": (
        lambda: M.ManyToMany(4, 3, 2, cell="rnn", bidirectional=True, merge="sum"), lambda m: m(VECTORS, LENGTHS)[0]
    ),
    "one-hot": (lambda: M.ManyToMany(5, 3, 2, cell="gru", embedding_size=0), lambda m: m(TOKENS)[0]),
    "one to many": (lambda: M.OneToMany(4, 3, 2), lambda m: m([1, 3], length=3)),
    "teacher forcing": (lambda: M.OneToMany(4, 3, 5, embedding_size=2), lambda m: m(VECTORS[0], targets=TOKENS)),
    "additive": (
        lambda: M.EncoderDecoder(5, 6, 4, attention="additive", bidirectional=True),
        lambda m: m.loss(TOKENS, [[1, 1], [4, 5], [2, 2]], LENGTHS, [3, 3]),
    ),
    "dot, scheduled sampling": (
        lambda: M.EncoderDecoder(5, 6, 4, attention="dot"),
        lambda m: m.loss(TOKENS, [[1, 1], [4, 5], [2, 2]], LENGTHS, teacher_forcing_ratio=0.5),
    ),
    "cells": (lambda: mr.nn.Recurrent([mr.nn.GRUCell(4, 3), mr.nn.LSTMCell(3, 2)]), outputs_of),
    "zoneout, two directions": (
        lambda: mr.nn.Recurrent("layer_norm_lstm", 4, 3, bidirectional=True, zoneout=0.3), outputs_of
    ),
    "one mask for all steps": (
        lambda: mr.nn.Recurrent("gru_reset_before", 4, 3, 2, recurrent_dropout=0.4), outputs_of
    ),
    "dropped weights and updates": (
        lambda: mr.nn.Recurrent("mgu", 4, 3, weight_drop=0.5, recurrent_dropout=0.4, recurrent_dropout_on="update"),
        outputs_of,
    ),
    "layer norm": (lambda: mr.nn.Sequential(mr.nn.Linear(4, 3), mr.nn.LayerNorm(3)), lambda m: m(VECTORS)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_do_as_on_the_cpu(name: str, gpu: str) -> None:
    """Outputs and the gradients of all weights."""
    make, use = MODELS[name]
    found = {}
    for device in ("cpu", gpu):
        mr.manual_seed(3)
        model = make().to(device)
        y = use(model)
        assert y.device == device
        (y * np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)).sum().backward()
        found[device] = [y.numpy()] + [p.grad.numpy() for p in model.parameters() if p.grad is not None]
    assert len(found[gpu]) == len(found["cpu"]) > 1
    for ours, theirs in zip(found[gpu], found["cpu"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_written_text_and_translations_are_those_of_the_cpu(gpu: str) -> None:
    found = {}
    for device in ("cpu", gpu):
        mr.manual_seed(3)
        text, translator = M.CharLM(5, 4, 1, "gru").to(device), M.EncoderDecoder(5, 6, 4, attention="dot").to(device)
        best = translator.generate(TOKENS, LENGTHS, max_length=3, beam_width=2)
        found[device] = [
            text.generate([1, 2], 6, seed=4).tolist(), text.generate([[1, 2]], 4, temperature=0).tolist(),
            [one.tokens.tolist() for one in best],
        ]  # fmt: skip
    assert found[gpu] == found["cpu"]


def test_losses_do_as_on_the_cpu(gpu: str) -> None:
    F = mr.nn.functional
    logits, classes = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), [2, 0, -100, 1]
    shares = np.random.default_rng(1).random((4, 3)).astype(np.float32)
    losses: dict[str, Any] = {
        "cross entropy": lambda x: F.cross_entropy(x, classes, weight=[1.0, 2.0, 0.5], label_smoothing=0.1),
        "of each": lambda x: F.cross_entropy(x, classes, reduction="none"),
        "nll": lambda x: F.nll_loss(x.log_softmax(1), classes, weight=[1.0, 2.0, 0.5]),
        "binary": lambda x: F.binary_cross_entropy(x.sigmoid(), shares),
        "with logits": lambda x: F.binary_cross_entropy_with_logits(x, shares, pos_weight=2.0),
        "mse": lambda x: F.mse_loss(x, shares), "huber": lambda x: F.huber_loss(x, shares, delta=0.3),
        "l1": lambda x: F.l1_loss(x, shares, reduction="sum"),
    }  # fmt: skip
    for name, loss in losses.items():
        found = []
        for device in ("cpu", gpu):
            x = mr.tensor(logits, True, device=device)
            y = loss(x)
            (y * 3.0).sum().backward()
            assert x.grad is not None
            found.append((y.numpy(), x.grad.numpy()))
        for ours, theirs in zip(found[1], found[0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_command_line_trains_and_writes_on_a_card(tmp_path: Path, monkeypatch: Any, gpu: str) -> None:
    from minirnn_cli.main import app
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("to be or not to be\n" * 30)
    options = ["--steps", "2", "--hidden", "4", "--layers", "1", "--seq-length", "4", "--batch-size", "3", "--quiet"]
    assert CliRunner().invoke(app, ["train-char", "text", "--device", gpu, *options]).exit_code == 0
    written = [
        CliRunner().invoke(app, ["sample", "--device", device, "--length", "5", "--seed", "1", "--quiet"])
        for device in ("cpu", gpu)
    ]
    assert written[0].exit_code == 0
    assert written[0].stdout == written[1].stdout
    told = CliRunner().invoke(app, ["info"]).stdout
    assert re.search(r"cuda: usable \(.+\); products: (own kernel|cuBLAS); recurrent kernel: block", told)
