"""Operations, losses, models and training on a GPU against the CPU: values and gradients.

Without a GPU these run in Numba's simulator, with NUMBA_ENABLE_CUDASIM=1; otherwise they are skipped.
"""

from __future__ import annotations

import gc
import re
import weakref
from collections.abc import Callable, Sequence
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
F, M = mr.nn.functional, mr.models


def check_same(
    compute: Callable[[str], Sequence[np.ndarray | None]], gpu: str, rtol: float, atol: float, what: str = ""
) -> None:
    """``compute(device)`` must give the same on both devices."""
    expected, got = compute("cpu"), compute(gpu)
    assert len(got) == len(expected) > 1, what
    for ours, theirs in zip(got, expected, strict=True):
        if ours is None or theirs is None:
            assert ours is theirs, what
        else:
            assert ours.dtype == theirs.dtype, what
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=what)


@pytest.mark.parametrize("name", sorted({c.name for c in CASES} - {"cast"}))
def test_operation_matches_cpu(name: str, dtype: np.dtype, gpu: str) -> None:
    for number, (_, fn, inputs) in enumerate(c for c in CASES if c.name == name):

        def compute(device: str, fn: Callable = fn, inputs: Sequence[np.ndarray] = inputs) -> list[np.ndarray | None]:
            """Results, and gradients for a random upstream gradient."""
            mr.manual_seed(5)
            leaves = [mr.tensor(values, True, dtype, device) for values in inputs]
            result = fn(*leaves)
            outputs = [result] if isinstance(result, Tensor) else list(result)
            rng = np.random.default_rng(3)
            assert all(y.device == device for y in outputs)
            ops.stack([(y * rng.standard_normal(y.shape).astype(dtype)).sum() for y in outputs]).sum().backward()
            for x in leaves:
                assert x.grad is None or (x.grad.device, x.grad.dtype, x.grad.shape) == (device, dtype, x.shape)
            return [*(y.numpy() for y in outputs), *(None if x.grad is None else x.grad.numpy() for x in leaves)]

        tolerance = TOLERANCE[str(dtype)]
        check_same(compute, gpu, tolerance, tolerance, f"{name}, case {number}: {[v.shape for v in inputs]}")


# ------------------------------------------------------------------------------------------- between devices


def test_to_records_a_move_and_back_to_the_same_device_does_nothing(gpu: str) -> None:
    x = mr.tensor([1.0, -2.0], requires_grad=True)
    there = (x * 3.0).to(gpu)
    assert (there.device, there.tolist()) == (gpu, [3.0, -6.0])
    back = (there * there).to("cpu")
    assert (back.device, back.tolist()) == ("cpu", [9.0, 36.0])
    (back.sum() + x.sum()).backward()
    assert x.grad.tolist() == [19.0, -35.0]
    assert back.to("cpu") is back
    assert repr(there).startswith("tensor([ 3., -6.], device='cuda'")


MIXED: dict[str, Callable] = {
    "add": lambda a, b: a + b,
    "compare": lambda a, b: a > b,
    "matmul": lambda a, b: a @ b,
    "cat": lambda a, b: mr.cat([a, b]),
    "stack": lambda a, b: mr.stack([a, b]),
    "where": lambda a, b: mr.where(a > 0, a, b),
    "linear": lambda a, b: ops.linear(a, b),
    "mse_loss": lambda a, b: F.mse_loss(a, b),
    "lstm state": lambda a, b: mr.nn.LSTM(2, 2).to(a.device)(a.unsqueeze(0), (b.unsqueeze(0), b.unsqueeze(0))),
    "lstm": lambda a, b: mr.nn.LSTM(2, 2).to(b.device)(a),
    "array": lambda a, b: a.data + b.data,
}


@pytest.mark.parametrize("name", MIXED)
def test_mixing_devices_raises(name: str, gpu: str) -> None:
    a, b = mr.ones(2, 2), mr.ones(2, 2, device=gpu)
    for x, y in ((a, b), (b, a)):
        if name == "array" and x is b:
            continue  # there an array of the host is a constant, as a number is
        with pytest.raises(DeviceError, match=r"device|cuda"):
            MIXED[name](x, y)


def test_implicit_copies_to_the_host_raise(gpu: str) -> None:
    x = mr.ones(2, 3, device=gpu).data
    for attempt in (np.asarray, bool, list, np.exp, lambda a: np.add(1.0, a), lambda a: np.ones((2, 3)) * a):
        with pytest.raises(DeviceError, match="cuda"):
            attempt(x)


def test_freed_memory_is_reused(gpu: str) -> None:
    K = kernels.on(gpu)
    first = K.zeros((100,), np.float32)
    part, block = first[50:], first.block
    del first
    assert K.zeros((100,), np.float32).block is not block  # a view still has it
    del part
    memory = block.memory
    del block
    assert K.zeros((97,), np.float32).block.memory is memory


def test_memory_survives_the_cycle_collector(gpu: str) -> None:
    """An array in a cycle of references, like one in a traceback, must not take its memory along."""
    x, lost = kernels.on(gpu).zeros((100,), np.float32), []
    weakref.finalize(x.block.memory, lost.append, x.block.memory.size)
    cycle: list[Any] = [x]
    cycle.append(cycle)
    del x, cycle
    gc.collect()
    assert not lost


@pytest.mark.needs_gpu
def test_cuda_array_interface_shares_memory(gpu: str) -> None:
    x = mr.tensor([[1.0, 2.0], [3.0, 4.0]], device=gpu)
    other = type("Other", (), {"__cuda_array_interface__": x.__cuda_array_interface__})()
    copied = mr.tensor(other, device=gpu)
    kernels.on(gpu).asarray(other)[0] = 5.0
    assert x.tolist() == [[5.0, 5.0], [3.0, 4.0]]
    assert copied.tolist() == [[1.0, 2.0], [3.0, 4.0]]


# ------------------------------------------------------------------------------------------ models, training


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_training_matches_cpu(cell: str, gpu: str) -> None:
    """Losses, norms and weights of some steps of a small model, with dropout, a carried state and clipping."""
    tokens = np.random.default_rng(0).integers(0, 5, (4, 5, 3))

    def train(device: str) -> list[np.ndarray]:
        mr.manual_seed(1)
        model = M.CharLM(5, 6, 2, cell, dropout=0.3).to(device)
        optimizer = mr.optim.AdamW(model.parameters(), lr=0.03)
        facts, state = [], None
        for chunk in tokens:
            optimizer.zero_grad()
            logits, state = model(chunk[:-1], state)
            loss = F.cross_entropy(logits.reshape(-1, 5), chunk[1:].reshape(-1))
            loss.backward()
            state = tuple(s.detach() for s in state) if cell == "lstm" else state.detach()
            facts += [loss.item(), mr.optim.clip_grad_norm_(model.parameters(), 0.5)]
            optimizer.step()
        return [np.array(facts), *model.state_dict().values()]

    check_same(train, gpu, 1e-4, 1e-4)


SIZES = [("lstm", 128, 50, 50), ("gru", 128, 50, 50), ("rnn", 128, 50, 50), ("lstm", 512, 64, 16), ("gru", 512, 64, 16)]


@pytest.mark.needs_gpu
@pytest.mark.parametrize(("cell", "hidden", "batch", "steps"), SIZES)
def test_large_models_match_cpu(cell: str, hidden: int, batch: int, steps: int, gpu: str) -> None:
    """The loss and every gradient of two layers in float32, to 1e-4 of their norm."""
    tokens, targets = np.random.default_rng(0).integers(0, 65, (2, steps, batch))
    found = {}
    for device in ("cpu", gpu):
        mr.manual_seed(1)
        model = M.CharLM(65, hidden, 2, cell).to(device)
        loss, _ = model.loss(tokens, targets)
        loss.backward()
        found[device] = {"loss": loss.numpy()} | {name: p.grad.numpy() for name, p in model.named_parameters()}
    for name, expected in found["cpu"].items():
        assert np.linalg.norm(found[gpu][name] - expected) <= 1e-4 * np.linalg.norm(expected), name


def test_run_resumes_on_another_device(tmp_path: Path, gpu: str) -> None:
    """Half on the GPU, the rest on the CPU, and the reverse, as all of it on the CPU."""
    tokens = np.random.default_rng(0).integers(0, 3, 400)
    weights = {}
    for name, devices in {"cpu": ("cpu", "cpu"), "to gpu": ("cpu", gpu), "to cpu": (gpu, "cpu")}.items():
        for half, device in enumerate(devices):
            config = CharConfig(cell="gru", hidden_size=4, num_layers=1, batch_size=3, seq_length=5)
            task = TextGenerator.build(Corpus(tokens, Characters("abc")), config)
            task.model.to(device)
            trainer = Trainer(task, TrainingConfig(steps=4, evaluations=1), tmp_path / name, resume=half == 1)
            run(trainer, 2)
            assert trainer.position.step == 2 * (half + 1)
        weights[name] = task.model.state_dict()
    for name in ("to gpu", "to cpu"):
        for key, array in weights[name].items():
            np.testing.assert_allclose(array, weights["cpu"][key], rtol=1e-4, atol=1e-5, err_msg=key)


VECTORS = np.random.default_rng(2).standard_normal((3, 2, 4)).astype(np.float32)
TOKENS, LENGTHS = [[4, 1], [2, 3], [1, 0]], [3, 2]
TARGETS = [[1, 1], [4, 5], [2, 2]]


def recurrent(*args: Any, **options: Any) -> tuple[Callable, Callable]:
    """A recurrent layer of 4 inputs and 3 units, and its use on ``VECTORS``."""
    sizes = () if isinstance(args[0], list) else (4, 3)
    return (
        lambda: mr.nn.Recurrent(args[0], *sizes, *args[1:], **options),
        lambda m: m(mr.tensor(VECTORS, device=next(m.parameters()).device), lengths=LENGTHS)[0],
    )


def model(name: str, use: Callable, *args: Any, **options: Any) -> tuple[Callable, Callable]:
    return lambda: getattr(M, name)(*args, **options), use


def on_vectors(m: Any) -> Tensor:
    return m(VECTORS, LENGTHS)


def forced(m: Any) -> Tensor:
    return m.loss(TOKENS, TARGETS, LENGTHS, [3, 3])


def half_forced(m: Any) -> Tensor:
    return m.loss(TOKENS, TARGETS, LENGTHS, teacher_forcing_ratio=0.5)


def captioned(m: Any) -> Tensor:
    return m.loss(VECTORS[0], TOKENS, LENGTHS)


MODELS: dict[str, tuple[Callable, Callable]] = {
    "one to one": model("OneToOne", lambda m: m(VECTORS[0]), 4, 5, 3),
    "last": model("ManyToOne", on_vectors, 4, 3, 2, cell="gru", bidirectional=True),
    "mean": model("ManyToOne", on_vectors, 4, 3, 2, pooling="mean"),
    "max": model("ManyToOne", on_vectors, 4, 3, 2, pooling="max"),
    "attention": model("ManyToOne", lambda m: m(TOKENS, LENGTHS), 5, 3, 2, pooling="attention", embedding_size=2),
    "sum": model("ManyToMany", lambda m: on_vectors(m)[0], 4, 3, 2, cell="rnn", bidirectional=True, merge="sum"),
    "one-hot": model("ManyToMany", lambda m: m(TOKENS)[0], 5, 3, 2, cell="gru", embedding_size=0),
    "one to many": model("OneToMany", lambda m: m([1, 3], length=3), 4, 3, 2),
    "every step": model("OneToMany", captioned, 4, 3, 5, embedding_size=2, condition="every_step", end=2),
    "teacher forcing": model("OneToMany", lambda m: m(VECTORS[0], targets=TOKENS), 4, 3, 5, embedding_size=2),
    "additive": model("EncoderDecoder", forced, 5, 6, 4, attention="additive", bidirectional=True),
    "scheduled sampling": model("EncoderDecoder", half_forced, 5, 6, 4, attention="dot"),
    "cells": recurrent([mr.nn.GRUCell(4, 3), mr.nn.LSTMCell(3, 2)]),
    "zoneout, two directions": recurrent("layer_norm_lstm", bidirectional=True, zoneout=0.3),
    "one mask for all steps": recurrent("gru_reset_before", 2, recurrent_dropout=0.4),
    "dropped updates": recurrent("mgu", weight_drop=0.5, recurrent_dropout=0.4, recurrent_dropout_on="update"),
    "layer norm": (lambda: mr.nn.Sequential(mr.nn.Linear(4, 3), mr.nn.LayerNorm(3)), lambda m: m(VECTORS)),
}


@pytest.mark.parametrize("name", MODELS)
def test_model_matches_cpu(name: str, gpu: str) -> None:
    """Outputs and the gradients of all weights."""
    make, use = MODELS[name]

    def compute(device: str) -> list[np.ndarray]:
        mr.manual_seed(3)
        model = make().to(device)
        y = use(model)
        assert y.device == device
        (y * np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)).sum().backward()
        return [y.numpy(), *(p.grad.numpy() for p in model.parameters() if p.grad is not None)]

    check_same(compute, gpu, 1e-4, 1e-5)


def test_generated_text_and_translations_are_those_of_the_cpu(gpu: str) -> None:
    found = {}
    for device in ("cpu", gpu):
        mr.manual_seed(3)
        text, translator = M.CharLM(5, 4, 1, "gru").to(device), M.EncoderDecoder(5, 6, 4, attention="dot").to(device)
        best = translator.generate(TOKENS, LENGTHS, max_length=3, beam_width=2)
        sampled = text.generate([1, 2], 6, seed=4).tolist(), text.generate([[1, 2]], 4, temperature=0).tolist()
        found[device] = sampled, [one.tokens.tolist() for one in best]
    assert found[gpu] == found["cpu"]


LOGITS, CLASSES = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32), [2, 0, -100, 1]
CLASS_WEIGHT = np.random.default_rng(2).standard_normal((3, 3)).astype(np.float32)
VALUES = np.random.default_rng(1).random((4, 3)).astype(np.float32)
LOSSES: dict[str, Callable] = {
    "cross entropy": lambda x: F.cross_entropy(x, CLASSES, weight=[1.0, 2.0, 0.5], label_smoothing=0.1),
    "linear": lambda x: F.linear_cross_entropy(
        x, mr.tensor(CLASS_WEIGHT, device=x.device), CLASSES, label_smoothing=0.1
    ),
    "of each": lambda x: F.cross_entropy(x, CLASSES, reduction="none"),
    "ctc": lambda x: F.ctc_loss(x.log_softmax(1), [1, 1], 4, 2),
    "nll": lambda x: F.nll_loss(x.log_softmax(1), CLASSES, weight=[1.0, 2.0, 0.5]),
    "binary": lambda x: F.binary_cross_entropy(x.sigmoid(), VALUES),
    "with logits": lambda x: F.binary_cross_entropy_with_logits(x, VALUES, pos_weight=2.0),
    "mse": lambda x: F.mse_loss(x, VALUES),
    "huber": lambda x: F.huber_loss(x, VALUES, delta=0.3),
    "l1": lambda x: F.l1_loss(x, VALUES, reduction="sum"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_loss_matches_cpu(name: str, gpu: str) -> None:
    def compute(device: str) -> list[np.ndarray]:
        x = mr.tensor(LOGITS, True, device=device)
        y = LOSSES[name](x)
        (y * 3.0).sum().backward()
        assert x.grad is not None
        return [y.numpy(), x.grad.numpy()]

    check_same(compute, gpu, 1e-5, 1e-6)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_ctc_loss_matches_cpu(reduction: Any, dtype: np.dtype, gpu: str) -> None:
    """More labels and classes than a simulated block has threads; repeated labels, none, and too many."""
    logits = np.random.default_rng(0).standard_normal((12, 5, 7))
    targets = [[1, 1, 3, 1, 6, 6], [5, 2, 5, 1, 0, 0], [3] * 6, [1, 2, 3, 4, 5, 6], [2, 3, 0, 0, 0, 0]]
    cases = [
        ([12, 9, 10, 6, 0], [6, 4, 6, 5, 1], 0, True),
        ([12, 9, 10, 6, 3], [6, 3, 6, 0, 0], 4, False),
        ([12, 9, 10, 6, 3], [0] * 5, 4, False),
    ]

    def compute(device: str, *given: Any) -> list[np.ndarray]:
        x = mr.tensor(logits, True, dtype, device)
        loss = F.ctc_loss(x.log_softmax(2), targets, *given)
        (loss * 3.0).sum().backward()
        assert x.grad is not None
        return [loss.numpy(), x.grad.numpy()]

    for lengths, sizes, blank, zero_infinity in cases:
        given = lengths, sizes, blank, reduction, zero_infinity
        check_same(lambda device, given=given: compute(device, *given), gpu, *[TOLERANCE[str(dtype)]] * 2)


def test_command_line_trains_and_samples_on_a_gpu(tmp_path: Path, monkeypatch: Any, gpu: str) -> None:
    from minirnn_cli.main import app
    from typer.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("to be or not to be\n" * 30)
    options = ["--steps", "2", "--hidden", "4", "--layers", "1", "--seq-length", "4", "--batch-size", "3", "--quiet"]
    assert CliRunner().invoke(app, ["train-char", "text", "--device", gpu, *options]).exit_code == 0
    sampled = [
        CliRunner().invoke(app, ["sample", "--device", device, "--length", "5", "--seed", "1", "--quiet"])
        for device in ("cpu", gpu)
    ]
    assert sampled[0].exit_code == 0
    assert sampled[0].stdout == sampled[1].stdout
    info = CliRunner().invoke(app, ["info"]).stdout
    assert re.search(r"cuda: usable \(.+; products: (own kernel|cuBLAS)\); recurrent kernel: block", info)
