"""Bad arguments of models, optimisers, tasks and tensors raise a minirnn exception with a message of one line.

For layers and losses see ``nn/test_errors.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import metrics, models, nn, optim
from minirnn.data.sequences import Buckets, pad
from minirnn.data.text import Characters
from minirnn.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexRangeError,
    MinirnnError,
    OptionError,
    ShapeError,
)
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import TrainingConfig

NAN, INF = math.nan, math.inf


def zeros(*shape: int) -> mr.Tensor:
    return mr.zeros(*shape)


def lm(*arguments: Any) -> Any:
    return models.CharLM(5, 4)(*arguments)


def sample(**options: Any) -> Any:
    return models.CharLM(5, 4).generate(**({"prime_ids": [1], "length": 3} | options))


def one(*arguments: Any, **options: Any) -> Any:
    return models.ManyToOne(7, 4, 2, embedding_size=3, **options)(*arguments)


def many(*arguments: Any, **options: Any) -> Any:
    return models.OneToMany(10, 4, 6, embedding_size=2)(*arguments, **options)


def translator(**options: Any) -> models.EncoderDecoder:
    return models.EncoderDecoder(**({"source_size": 6, "target_size": 7, "hidden_size": 4} | options))


def pairs(*arguments: Any, **options: Any) -> Any:
    return translator().loss(*arguments, **options)


def search(source: Any = ((1,),), *arguments: Any, **options: Any) -> Any:
    return translator().generate(source, *arguments, **options)


def task(tokens: Any = None, **options: Any) -> TextGenerator:
    tokens = np.zeros(200, np.uint8) if tokens is None else tokens
    sizes = {"hidden_size": 4, "num_layers": 1, "batch_size": 2, "seq_length": 4}
    return TextGenerator.build(Corpus(tokens, Characters("abc")), CharConfig(**sizes | options))


def parameters() -> list[mr.Tensor]:
    return [nn.Parameter(np.zeros(3, np.float32))]


Refusal = tuple[type[MinirnnError], list[Callable[[], Any]]]
REFUSALS: dict[str, Refusal] = {
    "options of models": (OptionError, [
        *(lambda o=o: models.CharLM(**({"vocab_size": 5, "hidden_size": 4} | o)) for o in (
            {"cell": "elman"}, {"cell": None}, {"vocab_size": 0}, {"hidden_size": 0}, {"hidden_size": -1},
            {"hidden_size": NAN}, {"hidden_size": "8"}, {"num_layers": 0}, {"embedding_size": 0}, {"dropout": NAN},
            {"dropout": -0.1}, {"dropout": 1.5},
        )),
        *(lambda o=o: models.ManyToOne(**({"input_size": 3, "hidden_size": 4, "output_size": 2} | o)) for o in (
            {"pooling": "median"}, {"merge": "max"}, {"output_size": 0}, {"embedding_size": -1},
            {"embedding_size": 1.5}, {"cell": "lstmm"},
        )),
        *(lambda o=o: models.OneToOne(3, 4, 2, **o) for o in (
            {"activation": "gelu"}, {"num_layers": -1}, {"num_layers": 1.5},
        )),
        *(lambda o=o: models.OneToMany(3, 4, 6, **o) for o in (
            {"activation": "relu"}, {"num_layers": 0}, {"num_layers": -1}, {"num_layers": 1.5},
        )),
        *(lambda o=o: translator(**o) for o in (
            {"attention": "cosine"}, {"cell": "x"}, {"merge": "max"}, {"source_size": 0}, {"source_size": 1.5},
            {"target_size": 2}, {"hidden_size": 0}, {"embedding_size": -1}, {"dropout": NAN}, {"num_layers": 0},
        )),
    ]),
    "tokens out of range": (IndexRangeError, [
        lambda: lm([[5]]), lambda: lm([[-1]]), lambda: lm([[2**62]]), lambda: sample(prime_ids=[9]),
        lambda: one([[7]]), lambda: many([10], length=3), lambda: many([-1], length=3),
        lambda: many([1], targets=[[9], [9]]), lambda: pairs([[6]], [[1], [2]]), lambda: pairs([[1]], [[1], [7]]),
        lambda: pairs([[1]], [[1], [-1]]), lambda: search([[99]]), lambda: task(np.full(200, 9)).loss(0, 0.0),
        lambda: mr.gather(zeros(2, 3), 1, [[5]]), lambda: zeros(2, 3)[5],
    ]),
    "types": (DTypeError, [
        lambda: lm([[0.5]]), lambda: lm("abc"), lambda: lm(None), lambda: sample(prime_ids=[0.5]),
        lambda: models.CharLM(5, 4, dtype="int8"), lambda: models.ManyToOne(3, 4, 2)(np.zeros((2, 1, 3))),
        lambda: one([[1, 2]], [NAN, 1]), lambda: many([1], targets=[[0.5], [0.5]]), lambda: search([[0.5]]),
        lambda: task(np.zeros(200)).loss(0, 0.0), lambda: mr.tensor([1.0], dtype="complex64"),
        lambda: mr.tensor([{}]), lambda: mr.tensor([1.0]).to("tpu"), lambda: nn.GRU(3, 4).to("tpu"),
        lambda: zeros(2) + "a",
    ]),
    "shapes": (ShapeError, [
        lambda: lm([[1, 2], [3]]), lambda: lm(np.zeros((2, 2, 2), int)), lambda: lm(3),
        lambda: lm([[1]], zeros(2, 1, 4)), lambda: lm([[1]], (zeros(1, 1, 4), zeros(1, 1, 4))),
        lambda: sample(prime_ids=[]), lambda: one([[1, 2]], [1]), lambda: models.OneToOne(3, 4, 2)(zeros(2, 4)),
        lambda: many([1], targets=[[1, 2]]), lambda: many(np.zeros((2, 4, 3)), length=2),
        lambda: pairs([[1, 1]], [[1], [2]]), lambda: pairs([[1]], [[1]]), lambda: search([1, 2]),
        lambda: search(np.zeros((0, 2), int)), lambda: mr.tensor([[1], [1, 2]]), lambda: mr.zeros(-1),
        lambda: mr.ones("a"), lambda: mr.randn(1.5), lambda: mr.matmul(zeros(2, 3), zeros(2, 3)),
        lambda: mr.cat([zeros(2, 3), zeros(2, 4)]), lambda: mr.stack([zeros(2), zeros(3)]),
        lambda: zeros(2, 3).reshape(4), lambda: zeros(2, 3).reshape(1.5, 4), lambda: zeros(2, 3).reshape(-1, -1),
        lambda: mr.squeeze(zeros(2, 3), 7), lambda: mr.permute(zeros(2, 3), 0, 0), lambda: mr.flip(zeros(2), 4),
        lambda: mr.softmax(zeros(2), 4), lambda: zeros(2) + zeros(3), lambda: mr.where(zeros(2), zeros(3), zeros(4)),
        lambda: pad(["ab"]),
        lambda: metrics.accuracy([1, 2], [1]), lambda: metrics.rmse(np.zeros(2), np.zeros(3)), lambda: zeros(2).item(),
    ]),
    "lengths": (OptionError, [
        lambda: one([[1, 2]], [2, 0]), lambda: one([[1, 2]], [-1, 0]), lambda: many([1], targets=[[1]], lengths=[5]),
        lambda: one([[1, 2]], [2, 0], pooling="mean"), lambda: pairs([[1]], [[1], [2]], [2]),
        lambda: pairs([[1]], [[1], [2]], [1], [3]),
    ]),
    "options of sampling": (OptionError, [
        *(lambda o=o: sample(**o) for o in (
            {"length": -1}, {"length": 1.5}, {"temperature": -1}, {"temperature": NAN}, {"temperature": INF},
            {"top_k": 0}, {"top_k": 1.5}, {"top_p": 0}, {"top_p": 1.1}, {"top_p": NAN}, {"seed": -1}, {"seed": 1.5},
        )),
        *(lambda o=o: models.OneToMany(10, 4, 6, embedding_size=2).generate([1], **({"length": 3} | o)) for o in (
            {"length": 0}, {"length": 1.5}, {"temperature": NAN}, {"seed": -1}, {"seed": 1.5},
        )),
        *(lambda o=o: search(**o) for o in (
            {"beam_width": 0}, {"beam_width": 1.5}, {"max_length": 0}, {"length_penalty": NAN},
        )),
        *(lambda o=o: pairs([[1]], [[1], [2]], **o) for o in (
            {"teacher_forcing_ratio": 1.5}, {"teacher_forcing_ratio": NAN}, {"draw": "coin"}, {"label_smoothing": NAN},
            {"reduction": "average"},
        )),
        lambda: many([1]), lambda: many([1], length=3, targets=[[1]]), lambda: mr.manual_seed(-1),
        lambda: mr.manual_seed(1.5), lambda: mr.dropout(zeros(2), NAN), lambda: mr.split(zeros(4), 0),
    ]),
    "options of optimisers": (OptionError, [
        *(lambda o=o, O=O: O(parameters(), **o) for O in (
            optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad,
        ) for o in (
            {"lr": -1}, {"lr": NAN}, {"lr": INF}, {"lr": "x"}, {"weight_decay": -1}, {"weight_decay": NAN},
        )),
        *(lambda O=O: O([], lr=0.1) for O in (optim.SGD, optim.Adam)), lambda: optim.Adam([np.zeros(3)], lr=0.1),
        lambda: optim.SGD(parameters() * 2, lr=0.1), lambda: optim.SGD(parameters(), momentum=NAN),
        lambda: optim.SGD(parameters(), nesterov=True), lambda: optim.Adam(parameters(), betas=(1.0, 0.9)),
        lambda: optim.Adam(parameters(), betas=(NAN, 0.9)), lambda: optim.Adam(parameters(), betas=(0.9,)),
        lambda: optim.RMSprop(parameters(), alpha=-1), lambda: optim.clip_grad_norm_(parameters(), -1),
        lambda: optim.clip_grad_norm_(parameters(), NAN),
    ]),
    "options of training": (OptionError, [
        *(lambda o=o: TrainingConfig(**({} if o.keys() & {"epochs", "minutes"} else {"steps": 3}) | o) for o in (
            {"steps": 0}, {"steps": NAN}, {"epochs": -1}, {"epochs": INF}, {"minutes": 0}, {"minutes": NAN},
            {"lr": NAN}, {"lr": INF}, {"lr": 0}, {"warmup": -1}, {"warmup": NAN}, {"final_lr": NAN}, {"final_lr": -1},
            {"weight_decay": INF}, {"weight_decay": NAN}, {"clip": NAN}, {"clip": -1}, {"evaluations": 0},
            {"log_every": 0}, {"save_every": 0}, {"optimizer": "lion"},
        )),
        *(lambda o=o: task(**o) for o in (
            {"val_fraction": NAN}, {"val_fraction": 0}, {"val_fraction": 1}, {"batch_size": 0}, {"batch_size": 2.5},
            {"seq_length": 0}, {"cell": "x"}, {"seed": -1}, {"dropout": NAN},
        )),
        lambda: Buckets([1, 2], 0), lambda: Buckets([1, 2], 1.5),  # type: ignore[arg-type]
    ]),
    "data": (DataError, [lambda: task(np.zeros(3, np.uint8)), lambda: task(np.zeros(0, np.uint8))]),
    "devices": (DeviceError, [
        lambda: mr.kernels.on("tpu"), lambda: mr.tensor([1.0], device="tpu"),
    ]),
    "gradients": (GradientError, [lambda: zeros(2).backward()]),
    "states": (CheckpointError, [
        lambda: nn.GRU(3, 4).load_state_dict({}),
        lambda: nn.Linear(3, 4).load_state_dict({"weight": np.zeros((4, 4)), "bias": np.zeros(4)}),
        lambda: nn.Linear(3, 4).load_state_dict({"weight": "x", "bias": np.zeros(4)}),
        lambda: nn.Linear(1, 1).load_state_dict({"weight": np.zeros((1, 1), complex), "bias": np.zeros(1)}),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
def test_bad_input_is_refused(kind: str) -> None:
    error, calls = REFUSALS[kind]
    wrong = []
    for number, call in enumerate(calls):
        try:
            call()
        except Exception as raised:
            if type(raised) is not error or "\n" in str(raised) or not str(raised):
                wrong.append((number, repr(raised)))
        else:
            wrong.append((number, "accepted"))
    assert not wrong


def test_empty_input_is_valid() -> None:
    """No steps, no sequences, no lengths: results without elements."""
    assert lm(np.zeros((0, 2), int))[0].shape == (0, 2, 5)
    assert lm(np.zeros((3, 0), int))[0].shape == (3, 0, 5)
    assert one(np.zeros((2, 0), int)).shape == (0, 2)
    empty = one(np.zeros((2, 1), int), [0])  # the head of a zero state
    assert np.isfinite(empty.numpy()).all()
    assert search(np.zeros((2, 0), int)) == []
    assert sample(length=0).shape == (0,)
    assert mr.zeros(0, 3).sum().item() == 0
