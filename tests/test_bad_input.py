"""What models, optimisers, tasks and tensors do not take is refused at once, by an exception of ours in one line.

For layers and losses see ``nn/test_errors.py``.
"""

from __future__ import annotations

import ast
import math
import textwrap
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn import errors, kernels, metrics, nn, optim  # noqa: F401 - the statements below use these names
from minirnn.data.sequences import Buckets, pad  # noqa: F401
from minirnn.data.text import Characters
from minirnn.models import CharLM, EncoderDecoder, ManyToOne, OneToMany, OneToOne  # noqa: F401
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import TrainingConfig

NAN, INF = math.nan, math.inf
zeros = mr.zeros


def char(**options: Any) -> CharLM:
    return CharLM(**({"vocab_size": 5, "hidden_size": 4} | options))


def one(*arguments: Any, **options: Any) -> Any:
    return ManyToOne(**({"input_size": 7, "hidden_size": 4, "output_size": 2, "embedding_size": 3} | options))(
        *arguments
    )


def many(*arguments: Any, **options: Any) -> Any:
    return OneToMany(10, 4, 6, embedding_size=2)(*arguments, **options)


def write(**options: Any) -> Any:
    return OneToMany(10, 4, 6, embedding_size=2).generate([1], **({"length": 3} | options))


def translator(**options: Any) -> EncoderDecoder:
    return EncoderDecoder(**({"source_size": 6, "target_size": 7, "hidden_size": 4} | options))


def pairs(*arguments: Any, **options: Any) -> Any:
    return translator().loss(*(arguments or ([[1]], [[1], [2]])), **options)


def search(source: Any = ((1,),), **options: Any) -> Any:
    return translator().generate(source, **options)


def sample(**options: Any) -> Any:
    return char().generate(**({"prime_ids": [1], "length": 3} | options))


def task(tokens: Any = None, **options: Any) -> TextGenerator:
    tokens = np.zeros(200, np.uint8) if tokens is None else tokens
    sizes = {"hidden_size": 4, "num_layers": 1, "batch_size": 2, "seq_length": 4}
    return TextGenerator.build(Corpus(tokens, Characters("abc")), CharConfig(**sizes | options))


def training(**options: Any) -> TrainingConfig:
    return TrainingConfig(**({} if options.keys() & {"epochs", "minutes"} else {"steps": 3}) | options)


def parameters() -> list[mr.Tensor]:
    return [nn.Parameter(np.zeros(3, np.float32))]


REFUSALS = {
    "options of models": (
        errors.OptionError,
        """
        char(cell="elman"); char(cell=None); char(vocab_size=0); char(hidden_size=0); char(hidden_size=-1)
        char(hidden_size=NAN); char(hidden_size="8"); char(num_layers=0); char(embedding_size=0)
        char(dropout=NAN); char(dropout=-0.1); char(dropout=1.5)
        one(pooling="median"); one(merge="max"); one(output_size=0); one(embedding_size=-1); one(embedding_size=1.5)
        one(cell="lstmm")
        OneToOne(3, 4, 2, activation="gelu"); OneToOne(3, 4, 2, num_layers=-1); OneToOne(3, 4, 2, num_layers=1.5)
        OneToMany(3, 4, 6, activation="relu"); OneToMany(3, 4, 6, num_layers=0); OneToMany(3, 4, 6, num_layers=-1)
        OneToMany(3, 4, 6, num_layers=1.5); OneToMany(3, 4, 6, condition="end"); OneToMany(3, 4, 6, end=2)
        OneToMany(3, 4, 6, embedding_size=2, end=6); OneToMany(3, 4, 6, embedding_size=2, end=0.5)
        translator(attention="cosine"); translator(cell="x"); translator(merge="max"); translator(source_size=0)
        translator(source_size=1.5); translator(target_size=2); translator(hidden_size=0)
        translator(embedding_size=-1); translator(dropout=NAN); translator(num_layers=0)
        """,
    ),
    "tokens out of range": (
        errors.IndexRangeError,
        """
        char()([[5]]); char()([[-1]]); char()([[2**62]]); sample(prime_ids=[9]); one([[7]])
        many([10], length=3); many([-1], length=3); many([1], targets=[[9], [9]])
        pairs([[6]], [[1], [2]]); pairs([[1]], [[1], [7]]); pairs([[1]], [[1], [-1]]); search([[99]])
        task(np.full(200, 9)).loss(0, 0.0); mr.gather(zeros(2, 3), 1, [[5]]); zeros(2, 3)[5]
        """,
    ),
    "types": (
        errors.DTypeError,
        """
        char()([[0.5]]); char()("abc"); char()(None); sample(prime_ids=[0.5]); char(dtype="int8")
        ManyToOne(3, 4, 2)(zeros(2, 1, 3, dtype="float64")); one([[1, 2]], [NAN, 1]); many([1], targets=[[0.5], [0.5]])
        search([[0.5]]); task(np.zeros(200)).loss(0, 0.0)
        mr.tensor([1.0], dtype="complex64"); mr.tensor([{}]); mr.tensor([1.0]).to("tpu"); nn.GRU(3, 4).to("tpu")
        zeros(2) + "a"
        """,
    ),
    "shapes": (
        errors.ShapeError,
        """
        char()([[1, 2], [3]]); char()(np.zeros((2, 2, 2), int)); char()(3); char()([[1]], zeros(2, 1, 4))
        char()([[1]], (zeros(1, 1, 4), zeros(1, 1, 4))); sample(prime_ids=[])
        one([[1, 2]], [1]); OneToOne(3, 4, 2)(zeros(2, 4)); many([1], targets=[[1, 2]])
        many(np.zeros((2, 4, 3)), length=2)
        pairs([[1, 1]], [[1], [2]]); pairs([[1]], [[1]]); search([1, 2]); search(np.zeros((0, 2), int))
        mr.tensor([[1], [1, 2]]); mr.zeros(-1); mr.ones("a"); mr.randn(1.5); mr.matmul(zeros(2, 3), zeros(2, 3))
        mr.cat([zeros(2, 3), zeros(2, 4)]); mr.stack([zeros(2), zeros(3)])
        zeros(2, 3).reshape(4); zeros(2, 3).reshape(1.5, 4); zeros(2, 3).reshape(-1, -1)
        mr.squeeze(zeros(2, 3), 7); mr.permute(zeros(2, 3), 0, 0); mr.flip(zeros(2), 4); mr.softmax(zeros(2), 4)
        zeros(2) + zeros(3); mr.where(zeros(2), zeros(3), zeros(4)); pad(["ab"]); zeros(2).item()
        metrics.accuracy([1, 2], [1]); metrics.rmse(np.zeros(2), np.zeros(3))
        """,
    ),
    "lengths": (
        errors.OptionError,
        """
        one([[1, 2]], [2, 0]); one([[1, 2]], [-1, 0]); one([[1, 2]], [2, 0], pooling="mean")
        many([1], targets=[[1]], lengths=[5]); pairs([[1]], [[1], [2]], [2]); pairs([[1]], [[1], [2]], [1], [3])
        """,
    ),
    "options of sampling": (
        errors.OptionError,
        """
        sample(length=-1); sample(length=1.5); sample(temperature=-1); sample(temperature=NAN)
        sample(temperature=INF); sample(top_k=0); sample(top_k=1.5); sample(top_p=0); sample(top_p=1.1)
        sample(top_p=NAN); sample(seed=-1); sample(seed=1.5)
        write(beam_width=2); write(length=0); write(length=1.5); write(temperature=NAN); write(seed=-1); write(seed=1.5)
        search(beam_width=0); search(beam_width=1.5); search(max_length=0); search(length_penalty=NAN)
        pairs(teacher_forcing_ratio=1.5); pairs(teacher_forcing_ratio=NAN); pairs(draw="coin")
        pairs(label_smoothing=NAN); pairs(reduction="average")
        many([1]); many([1], length=3, targets=[[1]]); mr.manual_seed(-1); mr.manual_seed(1.5)
        mr.dropout(zeros(2), NAN); mr.split(zeros(4), 0)
        """,
    ),
    **{
        f"options of {optimizer}": (
            errors.OptionError,
            f"""
            optim.{optimizer}(parameters(), lr=-1); optim.{optimizer}(parameters(), lr=NAN)
            optim.{optimizer}(parameters(), lr=INF); optim.{optimizer}(parameters(), lr="x")
            optim.{optimizer}(parameters(), weight_decay=-1); optim.{optimizer}(parameters(), weight_decay=NAN)
            optim.{optimizer}([], lr=0.1); optim.{optimizer}([np.zeros(3)], lr=0.1)
            optim.{optimizer}(parameters() * 2, lr=0.1)
            """,
        )
        for optimizer in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")
    },
    "options of one optimizer": (
        errors.OptionError,
        """
        optim.SGD(parameters(), momentum=NAN); optim.SGD(parameters(), nesterov=True)
        optim.Adam(parameters(), betas=(1.0, 0.9)); optim.Adam(parameters(), betas=(NAN, 0.9))
        optim.Adam(parameters(), betas=(0.9,)); optim.RMSprop(parameters(), alpha=-1)
        optim.clip_grad_norm_(parameters(), -1); optim.clip_grad_norm_(parameters(), NAN)
        """,
    ),
    "options of training": (
        errors.OptionError,
        """
        training(steps=0); training(steps=NAN); training(epochs=-1); training(epochs=INF); training(minutes=0)
        training(minutes=NAN); training(lr=NAN); training(lr=INF); training(lr=0); training(warmup=-1)
        training(warmup=NAN); training(final_lr=NAN); training(final_lr=-1); training(weight_decay=INF)
        training(weight_decay=NAN); training(clip=NAN); training(clip=-1); training(evaluations=0)
        training(log_every=0); training(save_every=0); training(optimizer="lion")
        task(val_fraction=NAN); task(val_fraction=0); task(val_fraction=1); task(batch_size=0); task(batch_size=2.5)
        task(seq_length=0); task(cell="x"); task(seed=-1); task(dropout=NAN); Buckets([1, 2], 0); Buckets([1, 2], 1.5)
        """,
    ),
    "data": (errors.DataError, "task(np.zeros(3, np.uint8)); task(np.zeros(0, np.uint8))"),
    "devices": (errors.DeviceError, 'kernels.on("tpu"); mr.tensor([1.0], device="tpu")'),
    "gradients": (errors.GradientError, "zeros(2).backward()"),
    "states": (
        errors.CheckpointError,
        """
        nn.GRU(3, 4).load_state_dict({})
        nn.Linear(3, 4).load_state_dict({"weight": np.zeros((4, 4)), "bias": np.zeros(4)})
        nn.Linear(3, 4).load_state_dict({"weight": "x", "bias": np.zeros(4)})
        nn.Linear(1, 1).load_state_dict({"weight": np.zeros((1, 1), complex), "bias": np.zeros(1)})
        """,
    ),
}
"""Statements that must fail, and the exception they must raise."""


@pytest.mark.parametrize("kind", REFUSALS)
def test_bad_input_is_refused(kind: str) -> None:
    error, source = REFUSALS[kind]
    wrong = []
    for statement in ast.parse(textwrap.dedent(source)).body:
        try:
            exec(compile(ast.Module([statement], []), kind, "exec"), globals())
        except Exception as raised:
            if type(raised) is not error or "\n" in str(raised) or not str(raised):
                wrong.append((ast.unparse(statement), repr(raised)))
        else:
            wrong.append((ast.unparse(statement), "accepted"))
    assert not wrong


def test_empty_input_gives_empty_results() -> None:
    """No steps, no sequences, no lengths."""
    assert char()(np.zeros((0, 2), int))[0].shape == (0, 2, 5)
    assert char()(np.zeros((3, 0), int))[0].shape == (3, 0, 5)
    assert one(np.zeros((2, 0), int)).shape == (0, 2)
    nothing = one(np.zeros((2, 1), int), [0])  # the head of a zero state
    assert np.isfinite(nothing.numpy()).all()
    assert search(np.zeros((2, 0), int)) == []
    assert sample(length=0).shape == (0,)
    assert mr.zeros(0, 3).sum().item() == 0
