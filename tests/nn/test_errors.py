"""What does not fit is refused: the right exception, and a message with the operation, what came, what was expected.

Each exception is also the built-in one a Python programmer expects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn.nn.functional as F
from minirnn import nn
from minirnn.autograd.tensor import Tensor, tensor
from minirnn.errors import DTypeError, IndexRangeError, MinirnnError, OptionError, ShapeError


def zeros(*shape: int, dtype: str = "float32") -> Tensor:
    return tensor(np.zeros(shape), dtype=dtype)


def layer(**options: Any) -> Any:
    return nn.GRU(3, 4, **options)


def toy(lengths: Any) -> Any:
    return nn.Recurrent(nn.GRUCell(3, 4))(zeros(5, 2, 3), lengths=lengths)


def loss(logits: Any, target: Any, **options: Any) -> Tensor:
    return F.cross_entropy(logits, target, **options)


TABLE = tensor(np.zeros((7, 3)))
BUILTIN = {ShapeError: ValueError, DTypeError: TypeError, OptionError: ValueError, IndexRangeError: IndexError}

Case = tuple[Callable[[], Any], type[MinirnnError], str]
CASES: dict[str, Case] = {
    # shapes of layers
    "x too narrow": (lambda: layer()(zeros(5, 2, 4)), ShapeError, r"GRU.*\[T, N, 3\].*\[5, 2, 4\]"),
    "x batch first": (lambda: layer(batch_first=True)(zeros(5, 2, 4)), ShapeError, r"GRU.*\[N, T, 3\].*\[5, 2, 4\]"),
    "x of one dimension": (lambda: layer()(zeros(3)), ShapeError, r"GRU.*\[T, N, 3\].*\[3\]"),
    "x of four dimensions": (lambda: layer()(zeros(1, 5, 2, 3)), ShapeError, r"GRU.*\[1, 5, 2, 3\]"),
    "state of another batch": (
        lambda: layer()(zeros(5, 2, 3), zeros(1, 3, 4)),
        ShapeError,
        r"GRU.*\[1, 2, 4\].*\[1, 3, 4\]",
    ),
    "state of another layer count": (
        lambda: layer(num_layers=2)(zeros(5, 2, 3), zeros(1, 2, 4)),
        ShapeError,
        r"GRU.*\[2, 2, 4\].*\[1, 2, 4\]",
    ),
    "batched state, one sequence": (
        lambda: layer()(zeros(5, 3), zeros(1, 1, 4)),
        ShapeError,
        r"GRU.*\[1, 4\].*\[1, 1, 4\]",
    ),
    "half a state": (lambda: nn.LSTM(3, 4)(zeros(5, 2, 3), zeros(1, 2, 4)), ShapeError, r"LSTM.*pair \(h_0, c_0\)"),
    "a state too many": (lambda: layer()(zeros(5, 2, 3), (zeros(1, 2, 4),) * 2), ShapeError, "GRU.*one state h_0"),
    "h_0 wide as c_0": (
        lambda: nn.LSTM(3, 4, proj_size=2)(zeros(5, 2, 3), (zeros(1, 2, 4),) * 2),
        ShapeError,
        r"LSTM.*\[1, 2, 2\].*\[1, 2, 4\]",
    ),
    # types of layers
    "x float64": (lambda: layer()(zeros(5, 2, 3, dtype="float64")), DTypeError, "GRU.*float64.*float32"),
    "x integers": (lambda: layer()(np.zeros((5, 2, 3), int)), DTypeError, "GRU.*int64.*float32"),
    "x text": (lambda: layer()([["a"]]), DTypeError, "tensor or numbers"),
    "state float64": (
        lambda: layer()(zeros(5, 2, 3), zeros(1, 2, 4, dtype="float64")),
        DTypeError,
        "GRU.*state.*float64.*float32",
    ),
    "weights of integers": (lambda: layer(dtype="int64"), DTypeError, "weights.*float32.*int64"),
    "weights of nothing known": (lambda: layer(dtype="float17"), DTypeError, "float17"),
    # lengths
    "length below 0": (lambda: layer()(zeros(5, 2, 3), lengths=[-1, 2]), OptionError, "GRU.*lengths.*0 to 5.*-1"),
    "length above T": (lambda: layer()(zeros(5, 2, 3), lengths=[6, 2]), OptionError, "GRU.*lengths.*0 to 5.*6"),
    "too many lengths": (
        lambda: layer()(zeros(5, 2, 3), lengths=[1, 2, 3]),
        ShapeError,
        r"GRU.*length.*2 sequences.*\[3\]",
    ),
    "lengths of two dimensions": (lambda: layer()(zeros(5, 2, 3), lengths=[[1, 2]]), ShapeError, r"GRU.*\[1, 2\]"),
    "lengths of the batch-first T": (
        lambda: layer(batch_first=True)(zeros(5, 2, 3), lengths=[2, 2]),
        ShapeError,
        r"GRU.*5 sequences.*\[2\]",
    ),
    "fractional lengths": (
        lambda: layer()(zeros(5, 2, 3), lengths=[1.0, 2.0]),
        DTypeError,
        "GRU lengths.*integers.*float64",
    ),
    "lengths of a mask": (
        lambda: layer()(zeros(5, 2, 3), lengths=[True, False]),
        DTypeError,
        "GRU lengths.*integers.*bool",
    ),
    "Recurrent: length below 0": (lambda: toy([3, -2]), OptionError, "Recurrent.*lengths.*0 to 5.*-2"),
    "Recurrent: length above T": (lambda: toy([3, 6]), OptionError, "Recurrent.*lengths.*0 to 5.*6"),
    "Recurrent: one length for all": (lambda: toy([3]), ShapeError, r"Recurrent.*2 sequences.*\[1\]"),
    "Recurrent: fractional lengths": (lambda: toy([3.0, 2.0]), DTypeError, "Recurrent lengths.*integers.*float64"),
    "Recurrent: two dimensions": (
        lambda: nn.Recurrent(nn.GRUCell(3, 4))(zeros(5, 3)),
        ShapeError,
        r"Recurrent.*three.*\[5, 3\]",
    ),
    "Recurrent: no cells": (lambda: nn.Recurrent([]), OptionError, "Recurrent.*a list of at least one"),
    "Recurrent: a state for each layer": (
        lambda: nn.Recurrent([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])(zeros(5, 2, 3), [zeros(2, 4)]),
        ShapeError,
        "Recurrent.*2 states",
    ),
    "Recurrent: no steps": (lambda: nn.Recurrent(nn.GRUCell(3, 4))(zeros(0, 2, 3)), ShapeError, "Recurrent.*one step"),
    # tokens
    "token out of range": (lambda: layer()([[1, 7]], embedding=TABLE), IndexRangeError, "GRU.*7.*7 rows"),
    "token below 0": (lambda: layer()([[-1, 2]], embedding=TABLE), IndexRangeError, "GRU.*-1.*7 rows"),
    "fractional tokens": (lambda: layer()([[1.0, 2.0]], embedding=TABLE), DTypeError, "GRU tokens.*integers.*float64"),
    "tokens of three dimensions": (
        lambda: layer()(np.zeros((2, 2, 2), int), embedding=TABLE),
        ShapeError,
        r"GRU.*\[T, N\].*\[2, 2, 2\]",
    ),
    "table too wide": (lambda: layer()([[1]], embedding=zeros(7, 4)), ShapeError, r"GRU.*\[V, 3\].*\[7, 4\]"),
    "table of another type": (
        lambda: layer()([[1]], embedding=zeros(7, 3, dtype="float64")),
        DTypeError,
        "float64.*float32",
    ),
    # options
    "no inputs": (lambda: nn.RNN(0, 4), OptionError, "RNN.*input_size.*0"),
    "half a unit": (lambda: nn.LSTM(3, 4.5), OptionError, r"LSTM.*hidden_size.*4\.5"),  # type: ignore[arg-type]
    "no layers": (lambda: layer(num_layers=0), OptionError, "GRU.*num_layers.*0"),
    "layers: yes": (lambda: layer(num_layers=True), OptionError, "GRU.*num_layers.*True"),
    "dropout above 1": (lambda: layer(dropout=1.5), OptionError, r"GRU.*dropout.*1\.5"),
    "nonlinearity": (lambda: nn.RNN(3, 4, nonlinearity="gelu"), OptionError, "RNN.*'tanh' or 'relu'.*'gelu'"),
    "nonlinearity of a cell": (
        lambda: nn.RNNCell(3, 4, nonlinearity="x"),
        OptionError,
        "RNNCell.*'tanh' or 'relu'.*'x'",
    ),
    "projection too wide": (lambda: nn.LSTM(3, 4, proj_size=4), OptionError, "LSTM.*proj_size.*3.*4"),
    "projection below 0": (lambda: nn.LSTM(3, 4, proj_size=-1), OptionError, "LSTM.*proj_size.*-1"),
    "fractional projection": (lambda: nn.LSTM(3, 4, proj_size=1.5), OptionError, r"LSTM.*proj_size.*1\.5"),  # type: ignore[arg-type]
    "merge": (
        lambda: nn.Bidirectional(nn.GRUCell(3, 4), nn.GRUCell(3, 4), "max"),
        OptionError,
        "Bidirectional.*concat, sum, mul, ave.*'max'",
    ),
    "both forwards": (
        lambda: nn.Bidirectional(nn.GRUCell(3, 4), nn.Recurrent(nn.GRUCell(3, 4))),
        OptionError,
        "Bidirectional.*backwards.*reverse=True",
    ),
    "a cell without a beginning": (
        lambda: nn.Cell().initial_state(2),
        OptionError,
        r"Cell.*initial_state\(batch_size\)",
    ),
    # cells
    "cell input": (lambda: nn.GRUCell(3, 4)(zeros(2, 5)), ShapeError, r"GRUCell.*\[N, 3\].*\[2, 5\]"),
    "cell input of no dimension": (lambda: nn.GRUCell(3, 4)(tensor(1.0)), ShapeError, r"GRUCell.*\[N, 3\].*\[\]"),
    "cell input of three dimensions": (lambda: nn.GRUCell(3, 4)(zeros(5, 2, 3)), ShapeError, r"GRUCell.*\[5, 2, 3\]"),
    "cell state": (lambda: nn.RNNCell(3, 4)(zeros(2, 3), zeros(1, 4)), ShapeError, r"RNNCell.*\[N, 4\].*\[1, 4\]"),
    "cell c of one row": (
        lambda: nn.LSTMCell(3, 4)(zeros(2, 3), (zeros(2, 4), zeros(1, 4))),
        ShapeError,
        r"LSTMCell.*\[2, 4\].*\[1, 4\]",
    ),
    "cell state no pair": (lambda: nn.LSTMCell(3, 4)(zeros(2, 3), zeros(2, 4)), ShapeError, r"LSTMCell.*pair \(h, c\)"),
    "cell type": (lambda: nn.GRUCell(3, 4)(zeros(2, 3, dtype="float64")), DTypeError, "float64.*float32"),
    # layers without time
    "linear": (lambda: nn.Linear(3, 4)(zeros(2, 5)), ShapeError, r"linear.*\[\.\.\., 3\].*\[2, 5\]"),
    "linear type": (lambda: nn.Linear(3, 4)(zeros(2, 3, dtype="float64")), DTypeError, "linear.*float64.*float32"),
    "linear size": (lambda: nn.Linear(-3, 4), OptionError, "Linear.*in_features.*-3"),
    "embedding index": (lambda: nn.Embedding(4, 2)([4]), IndexRangeError, "embedding.*4.*4 rows"),
    "embedding type": (lambda: nn.Embedding(4, 2)([1.0]), DTypeError, "embedding.*integers.*float"),
    "embedding padding": (lambda: nn.Embedding(4, 2, padding_idx=4), OptionError, "Embedding.*padding_idx 4.*4 rows"),
    "functional padding": (
        lambda: F.embedding([1], TABLE, padding_idx=9),
        OptionError,
        "embedding.*padding_idx 9.*7 rows",
    ),
    "pretrained": (lambda: nn.Embedding.from_pretrained(np.zeros(3)), ShapeError, r"from_pretrained.*\[V, E\].*\[3\]"),
    "layer norm": (lambda: nn.LayerNorm((2, 3))(zeros(5, 3)), ShapeError, r"layer_norm.*\[2, 3\].*\[5, 3\]"),
    "layer norm size": (lambda: nn.LayerNorm(0), OptionError, "LayerNorm.*0"),
    "dropout": (lambda: nn.Dropout(-0.1), OptionError, r"Dropout.*0 to 1.*-0\.1"),
    "functional dropout": (lambda: F.dropout(zeros(3), 2.0), OptionError, r"dropout.*0 to 1.*2\.0"),
    "dropout of integers": (lambda: nn.Dropout()(np.ones(3, int)), DTypeError, "dropout.*floating.*int64"),
    "one-hot below 0": (lambda: F.one_hot([-1, 2]), IndexRangeError, "one_hot.*-1"),
    "one-hot too large": (lambda: F.one_hot([3], 3), IndexRangeError, "one_hot.*3.*3 rows"),
    "one-hot fraction": (lambda: F.one_hot([0.5]), DTypeError, "one_hot.*integers"),
    # attention
    "attention kind": (lambda: nn.Attention(3, 4, "cosine"), OptionError, "Attention.*additive, dot.*'cosine'"),
    "attention size": (lambda: nn.Attention(3, 4, attention_size=0), OptionError, "Attention.*attention_size.*0"),
    "attention memory": (
        lambda: nn.Attention(3, 4)(zeros(2, 3), zeros(5, 2, 3)),
        ShapeError,
        r"Attention.*\[S, N, 4\].*\[5, 2, 3\]",
    ),
    "attention batch": (
        lambda: nn.Attention(3, 4)(zeros(2, 3), zeros(5, 1, 4)),
        ShapeError,
        r"Attention.*\[2, 3\].*\[5, 1, 4\]",
    ),
    "attention query": (
        lambda: nn.Attention(3, 4)(zeros(3), zeros(5, 2, 4)),
        ShapeError,
        r"Attention.*\[T, N, 3\].*\[N, 3\].*\[S, N, 4\].*\[3\] and \[5, 2, 4\]",
    ),
    "attention query of four dimensions": (
        lambda: nn.Attention(3, 4)(zeros(1, 6, 2, 3), zeros(5, 2, 4)),
        ShapeError,
        r"Attention.*\[1, 6, 2, 3\]",
    ),
    "attention query too wide": (
        lambda: nn.Attention(3, 4)(zeros(6, 2, 5), zeros(5, 2, 4)),
        ShapeError,
        r"Attention.*\[T, N, 3\].*\[6, 2, 5\]",
    ),
    "attention keys of another memory": (
        lambda: nn.Attention(3, 4, attention_size=7)(zeros(2, 3), zeros(5, 2, 4), keys=zeros(6, 2, 7)),
        ShapeError,
        r"Attention.*keys \[5, 2, 7\].*keys\(memory\).*\[6, 2, 7\]",
    ),
    "attention keys of what is no memory": (
        lambda: nn.Attention(3, 4).keys(zeros(5, 4)),
        ShapeError,
        r"Attention.*\[S, N, 4\].*\[5, 4\]",
    ),
    "attention types": (
        lambda: nn.Attention(3, 4, "dot")(zeros(2, 3), zeros(5, 2, 4, dtype="float64")),
        DTypeError,
        r"attention.*one floating-point type.*float32.*float64.*\.to\(",
    ),
    "attention to integers": (
        lambda: nn.Attention(3, 4, "dot")(zeros(2, 3), zeros(5, 2, 4, dtype="int64")),
        DTypeError,
        r"attention.*floating-point.*float32.*int64",
    ),
    "attention to nothing": (
        lambda: nn.Attention(3, 4)(zeros(2, 3), zeros(0, 2, 4)),
        ShapeError,
        r"Attention.*at least 1.*\[0, 2, 4\]",
    ),
    "attention length below": (
        lambda: nn.Attention(3, 4)(zeros(2, 3), zeros(5, 2, 4), [-1, 5]),
        OptionError,
        "Attention.*lengths.*0 to 5.*-1",
    ),
    "attention length above": (
        lambda: nn.Attention(3, 4)(zeros(2, 3), zeros(5, 2, 4), [1, 6]),
        OptionError,
        "Attention.*lengths.*0 to 5.*6",
    ),
    "attention lengths": (
        lambda: nn.Attention(3, 4)(zeros(2, 3), zeros(5, 2, 4), [1]),
        ShapeError,
        r"Attention.*2 sequences.*\[1\]",
    ),
    "attention lengths of fractions": (
        lambda: nn.Attention(3, 4).keys(zeros(5, 2, 4), [1.5, 2.0]),
        DTypeError,
        "Attention lengths.*integers.*float64",
    ),
    # losses
    "targets too many": (lambda: loss(zeros(3, 4), [0, 1]), ShapeError, r"cross_entropy.*\[3, 4\].*\[3\].*\[2\]"),
    "target for one": (lambda: loss(zeros(4), [0]), ShapeError, r"cross_entropy.*\[4\].*targets \[\].*\[1\]"),
    "targets for images": (
        lambda: loss(zeros(3, 4, 5), np.zeros((3, 4), int)),
        ShapeError,
        r"cross_entropy.*\[3, 5\].*\[3, 4\]",
    ),
    "target above": (lambda: loss(zeros(3, 4), [0, 4, 1]), IndexRangeError, "cross_entropy.*4.*4 classes"),
    "target below": (lambda: loss(zeros(3, 4), [0, -1, 1]), IndexRangeError, "cross_entropy.*-1.*4 classes"),
    "targets of fractions": (
        lambda: loss(zeros(3, 4), [0.0, 1.0, 2.0]),
        DTypeError,
        "cross_entropy target.*integers.*float64",
    ),
    "logits of integers": (
        lambda: loss(np.zeros((3, 4), int), [0, 1, 2]),
        DTypeError,
        "cross_entropy.*floating.*int64",
    ),
    "weights too few": (
        lambda: loss(zeros(3, 4), [0, 1, 2], weight=[1.0]),
        ShapeError,
        r"cross_entropy.*4 classes.*\[1\]",
    ),
    "smoothing": (
        lambda: loss(zeros(3, 4), [0, 1, 2], label_smoothing=2),
        OptionError,
        "cross_entropy.*label_smoothing.*2",
    ),
    "nll targets": (lambda: F.nll_loss(zeros(3, 4), [0, 1]), ShapeError, r"nll_loss.*\[3\].*\[2\]"),
    "nll target above": (lambda: F.nll_loss(zeros(3, 4), [0, 1, 9]), IndexRangeError, "nll_loss.*9.*4 classes"),
    "bce shapes": (
        lambda: F.binary_cross_entropy_with_logits(zeros(3), zeros(2)),
        ShapeError,
        r"binary_cross_entropy_with_logits.*\[3\].*\[2\]",
    ),
    "bce of no probability": (
        lambda: F.binary_cross_entropy(tensor([1.5]), [1.0]),
        OptionError,
        "binary_cross_entropy.*0 to 1",
    ),
    "bce of nan": (
        lambda: F.binary_cross_entropy(tensor([np.nan]), [1.0]),
        OptionError,
        "binary_cross_entropy.*0 to 1",
    ),
    "mse shapes": (lambda: F.mse_loss(zeros(3, 1), zeros(3)), ShapeError, r"mse_loss.*\[3, 1\].*\[3\]"),
    "l1 shapes": (lambda: F.l1_loss(zeros(3), zeros(2)), ShapeError, r"l1_loss.*\[3\].*\[2\]"),
    "huber shapes": (lambda: F.huber_loss(zeros(3), zeros(2)), ShapeError, r"huber_loss.*\[3\].*\[2\]"),
    "huber delta": (lambda: F.huber_loss(zeros(3), zeros(3), delta=0), OptionError, "huber_loss.*delta.*0"),
    **{
        f"reduction of {f.__name__}": (
            lambda f=f, y=y: f(zeros(2, 3), y, reduction="average"),
            OptionError,
            f"{f.__name__}.*reduction.*'average'",
        )
        for f, y in [
            (F.cross_entropy, [0, 1]),
            (F.nll_loss, [0, 1]),
            (F.mse_loss, zeros(2, 3)),
            (F.l1_loss, zeros(2, 3)),
            (F.huber_loss, zeros(2, 3)),
            (F.binary_cross_entropy, zeros(2, 3)),
            (F.binary_cross_entropy_with_logits, zeros(2, 3)),
        ]
    },
}


@pytest.mark.parametrize(("call", "error", "message"), CASES.values(), ids=CASES)
def test_what_does_not_fit_is_refused(call: Callable[[], Any], error: type[MinirnnError], message: str) -> None:
    with pytest.raises(MinirnnError, match=message) as caught:
        call()
    assert type(caught.value) is error
    assert isinstance(caught.value, BUILTIN[error])
    assert "\n" not in str(caught.value)


def test_a_module_without_forward_says_so() -> None:
    with pytest.raises(TypeError, match=r"Module has no forward\(\)"):
        nn.Module()()


def test_a_refused_call_leaves_the_layer_as_it_was() -> None:
    rnn = layer()
    x = np.ones((5, 2, 3), np.float32)
    before = rnn(x)[0].numpy().copy()
    for bad in ([9, 9], [-1, 0]):
        with pytest.raises(OptionError):
            rnn(x, lengths=bad)
    np.testing.assert_array_equal(rnn(x)[0].numpy(), before)
