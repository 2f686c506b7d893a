"""Wrong arguments raise the right exception; its message says which operation, what it expected and what it got."""

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


def gru(*inputs: Any, lengths: Any = None, embedding: Any = None, **options: Any) -> Any:
    return nn.GRU(3, 4, **options)(*inputs, lengths=lengths, embedding=embedding)


def unrolled(lengths: Any) -> Any:
    return nn.Recurrent(nn.GRUCell(3, 4))(X, lengths=lengths)


def attention(*inputs: Any, **given: Any) -> Any:
    return nn.Attention(3, 4)(*inputs, **given)


X, X_ONE, X64 = zeros(5, 2, 3), zeros(5, 3), zeros(5, 2, 3, dtype="float64")
H, TABLE = zeros(1, 2, 4), zeros(7, 3)
QUERY, MEMORY, DOT = zeros(2, 3), zeros(5, 2, 4), nn.Attention(3, 4, "dot")
LOGITS, CUBE = zeros(3, 4), zeros(3, 4, 5)
INTEGERS = np.zeros((5, 2, 3), int)

SHAPES: list[tuple[str, Callable[[], Any]]] = [
    # layers
    (r"GRU.*\[T, N, 3\].*\[5, 2, 4\]", lambda: gru(zeros(5, 2, 4))),
    (r"GRU.*\[N, T, 3\].*\[5, 2, 4\]", lambda: gru(zeros(5, 2, 4), batch_first=True)),
    (r"GRU.*\[T, N, 3\].*\[3\]", lambda: gru(zeros(3))),
    (r"GRU.*\[1, 5, 2, 3\]", lambda: gru(zeros(1, 5, 2, 3))),
    (r"GRU.*\[1, 2, 4\].*\[1, 3, 4\]", lambda: gru(X, zeros(1, 3, 4))),
    (r"GRU.*\[2, 2, 4\].*\[1, 2, 4\]", lambda: gru(X, H, num_layers=2)),
    (r"GRU.*\[1, 4\].*\[1, 1, 4\]", lambda: gru(X_ONE, zeros(1, 1, 4))),
    (r"LSTM.*pair \(h_0, c_0\).*got 1", lambda: nn.LSTM(3, 4)(X, H)),
    (r"GRU.*one state h_0.*got 2", lambda: gru(X, (H, H))),
    (r"LSTM.*\[1, 2, 2\].*\[1, 2, 4\]", lambda: nn.LSTM(3, 4, proj_size=2)(X, (H, H))),
    (r"GRU.*length.*2 sequences.*\[3\]", lambda: gru(X, lengths=[1, 2, 3])),
    (r"GRU.*2 sequences.*\[1, 2\]", lambda: gru(X, lengths=[[1, 2]])),
    (r"GRU.*5 sequences.*\[2\]", lambda: gru(X, lengths=[2, 2], batch_first=True)),
    (r"GRU.*\[T, N\].*\[2, 2, 2\]", lambda: gru(np.zeros((2, 2, 2), int), embedding=TABLE)),
    (r"GRU.*\[V, 3\].*\[7, 4\]", lambda: gru([[1]], embedding=zeros(7, 4))),
    (r"Recurrent.*2 sequences.*\[1\]", lambda: unrolled([3])),
    (r"Recurrent.*three.*\[5, 3\]", lambda: nn.Recurrent(nn.GRUCell(3, 4))(X_ONE)),
    ("Recurrent.*one step", lambda: nn.Recurrent(nn.GRUCell(3, 4))(zeros(0, 2, 3))),
    ("Recurrent.*2 states", lambda: nn.Recurrent([nn.GRUCell(3, 4), nn.GRUCell(4, 4)])(X, [zeros(2, 4)])),
    # cells
    (r"GRUCell.*\[N, 3\].*\[2, 5\]", lambda: nn.GRUCell(3, 4)(zeros(2, 5))),
    (r"GRUCell.*\[N, 3\].*\[\]", lambda: nn.GRUCell(3, 4)(tensor(1.0))),
    (r"GRUCell.*\[5, 2, 3\]", lambda: nn.GRUCell(3, 4)(X)),
    (r"RNNCell.*\[N, 4\].*\[1, 4\]", lambda: nn.RNNCell(3, 4)(zeros(2, 3), zeros(1, 4))),
    (r"LSTMCell.*\[2, 4\].*\[1, 4\]", lambda: nn.LSTMCell(3, 4)(zeros(2, 3), (zeros(2, 4), zeros(1, 4)))),
    (r"LSTMCell.*pair \(h, c\)", lambda: nn.LSTMCell(3, 4)(zeros(2, 3), zeros(2, 4))),
    # layers without a state
    (r"linear.*\[\.\.\., 3\].*\[2, 5\]", lambda: nn.Linear(3, 4)(zeros(2, 5))),
    (r"from_pretrained.*\[V, E\].*\[3\]", lambda: nn.Embedding.from_pretrained(np.zeros(3))),
    (r"layer_norm.*\[2, 3\].*\[5, 3\]", lambda: nn.LayerNorm((2, 3))(X_ONE)),
    # attention
    (r"Attention.*\[S, N, 4\].*\[5, 2, 3\]", lambda: attention(QUERY, X)),
    (r"Attention.*\[2, 3\].*\[5, 1, 4\]", lambda: attention(QUERY, zeros(5, 1, 4))),
    (r"Attention.*\[T, N, 3\].*\[N, 3\].*\[S, N, 4\].*\[3\] and \[5, 2, 4\]", lambda: attention(zeros(3), MEMORY)),
    (r"Attention.*\[1, 6, 2, 3\]", lambda: attention(zeros(1, 6, 2, 3), MEMORY)),
    (r"Attention.*\[T, N, 3\].*\[6, 2, 5\]", lambda: attention(zeros(6, 2, 5), MEMORY)),
    (r"keys \[5, 2, 3\].*keys\(memory\).*\[6, 2, 3\]", lambda: attention(QUERY, MEMORY, keys=zeros(6, 2, 3))),
    (r"Attention.*\[S, N, 4\].*\[5, 4\]", lambda: nn.Attention(3, 4).keys(zeros(5, 4))),
    (r"Attention.*at least 1.*\[0, 2, 4\]", lambda: attention(QUERY, zeros(0, 2, 4))),
    (r"Attention.*2 sequences.*\[1\]", lambda: attention(QUERY, MEMORY, [1])),
    # losses
    (r"cross_entropy.*\[3, 4\].*targets \[3\].*\[2\]", lambda: F.cross_entropy(LOGITS, [0, 1])),
    (r"cross_entropy.*\[4\].*targets \[\].*\[1\]", lambda: F.cross_entropy(zeros(4), [0])),
    (r"cross_entropy.*\[3, 5\].*\[3, 4\]", lambda: F.cross_entropy(CUBE, np.zeros((3, 4), int))),
    (r"cross_entropy.*4 classes.*\[1\]", lambda: F.cross_entropy(LOGITS, [0, 1, 2], weight=[1.0])),
    (r"nll_loss.*\[3\].*\[2\]", lambda: F.nll_loss(LOGITS, [0, 1])),
    (r"cross_entropy_with_logits.*\[3\].*\[2\]", lambda: F.binary_cross_entropy_with_logits(zeros(3), zeros(2))),
    (r"mse_loss.*\[3, 1\].*\[3\]", lambda: F.mse_loss(zeros(3, 1), zeros(3))),
    (r"l1_loss.*\[3\].*\[2\]", lambda: F.l1_loss(zeros(3), zeros(2))),
    (r"huber_loss.*\[3\].*\[2\]", lambda: F.huber_loss(zeros(3), zeros(2))),
    (r"ctc_loss.*\[T, N, C\] or \[T, C\].*\[3\]", lambda: F.ctc_loss(zeros(3), [1], 3, 1)),
    (r"ctc_loss.*not empty.*\[0, 2, 3\]", lambda: F.ctc_loss(zeros(0, 2, 3), [[1], [1]], [0, 0], [1, 1])),
    (r"ctc_loss input.*length for each of 2.*\[1\]", lambda: F.ctc_loss(X, [[1], [1]], [5], [1, 1])),
    (r"ctc_loss target.*length for each of 2.*\[3\]", lambda: F.ctc_loss(X, [[1], [1]], [5, 5], [1, 1, 1])),
    (r"ctc_loss.*\[2, S\], or \[3\].*\[4\]", lambda: F.ctc_loss(X, [1, 2, 1, 2], [5, 5], [2, 1])),
    (r"ctc_loss.*\[2, S\], or \[2\].*\[3, 1\]", lambda: F.ctc_loss(X, [[1], [1], [1]], [5, 5], [1, 1])),
]

DTYPES: list[tuple[str, Callable[[], Any]]] = [
    ("GRU.*float64.*float32", lambda: gru(X64)),
    ("GRU.*int64.*float32", lambda: gru(tensor(INTEGERS))),
    ("tensor or numbers", lambda: gru([["a"]])),
    ("GRU.*state of float32.*float64", lambda: gru(X, zeros(1, 2, 4, dtype="float64"))),
    ("weights.*float32.*int64", lambda: nn.GRU(3, 4, dtype="int64")),
    ("float17", lambda: nn.GRU(3, 4, dtype="float17")),
    ("GRU lengths.*integers.*float64", lambda: gru(X, lengths=[1.0, 2.0])),
    ("GRU lengths.*integers.*bool", lambda: gru(X, lengths=[True, False])),
    ("Recurrent lengths.*integers.*float64", lambda: unrolled([3.0, 2.0])),
    ("GRU tokens.*integers.*float64", lambda: gru([[1.0, 2.0]], embedding=TABLE)),
    ("float64.*float32", lambda: gru([[1]], embedding=zeros(7, 3, dtype="float64"))),
    ("float64.*float32", lambda: nn.GRUCell(3, 4)(zeros(2, 3, dtype="float64"))),
    ("linear.*float64.*float32", lambda: nn.Linear(3, 4)(zeros(2, 3, dtype="float64"))),
    ("embedding.*integers.*float", lambda: nn.Embedding(4, 2)([1.0])),
    ("dropout.*floating.*int64", lambda: nn.Dropout()(np.ones(3, int))),
    ("one_hot.*integers", lambda: F.one_hot([0.5])),
    (r"attention.*one floating-point type.*float32.*float64.*\.to\(", lambda: DOT(QUERY, MEMORY.to("float64"))),
    ("attention.*floating-point.*float32.*int64", lambda: DOT(QUERY, MEMORY.to("int64"))),
    ("Attention lengths.*integers.*float64", lambda: nn.Attention(3, 4).keys(MEMORY, [1.5, 2.0])),
    ("cross_entropy target.*integers.*float64", lambda: F.cross_entropy(LOGITS, [0.0, 1.0, 2.0])),
    ("cross_entropy.*floating.*int64", lambda: F.cross_entropy(INTEGERS[0], [0, 1])),
    ("ctc_loss.*floating.*int64", lambda: F.ctc_loss(INTEGERS, [[1]], [1], [1])),
    ("ctc_loss targets.*integers.*float64", lambda: F.ctc_loss(X, [[1.0], [1.0]], [5, 5], [1, 1])),
    ("ctc_loss input_lengths.*integers.*float64", lambda: F.ctc_loss(X, [[1], [1]], [5.0, 5.0], [1, 1])),
]

INDICES: list[tuple[str, Callable[[], Any]]] = [
    ("GRU.*7.*7 rows", lambda: gru([[1, 7]], embedding=TABLE)),
    ("GRU.*-1.*7 rows", lambda: gru([[-1, 2]], embedding=TABLE)),
    ("embedding.*4.*4 rows", lambda: nn.Embedding(4, 2)([0, 4])),
    ("embedding.*-1.*4 rows", lambda: nn.Embedding(4, 2)([0, -1])),
    ("one_hot.*-1", lambda: F.one_hot([-1, 2])),
    ("one_hot.*3.*3 rows", lambda: F.one_hot([3], 3)),
    ("cross_entropy.*4.*4 classes", lambda: F.cross_entropy(LOGITS, [0, 4, 1])),
    ("cross_entropy.*-1.*4 classes", lambda: F.cross_entropy(LOGITS, [0, -1, 1])),
    ("nll_loss.*9.*4 classes", lambda: F.nll_loss(LOGITS, [0, 1, 9])),
    ("ctc_loss.*0 to 2.*blank 0, got 3", lambda: F.ctc_loss(X, [[1, 9], [3, 9]], [5, 5], [1, 1])),
    ("ctc_loss.*0 to 2.*blank 1, got -1", lambda: F.ctc_loss(X, [2, -1], [5, 5], [1, 1], blank=1)),
    ("ctc_loss.*0 to 2.*blank 0, got 0", lambda: F.ctc_loss(X, [[1, 0], [1, 0]], [5, 5], [1, 2])),
]

LOSSES = [
    *((loss, [0, 1]) for loss in (F.cross_entropy, F.nll_loss)),
    *((loss, zeros(2, 3)) for loss in (F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss)),
    *((loss, zeros(2, 3)) for loss in (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)),
]
OPTIONS: list[tuple[str, Callable[[], Any]]] = [
    ("GRU: expected lengths from 0 to 5.*-1", lambda: gru(X, lengths=[-1, 2])),
    ("GRU: expected lengths from 0 to 5.*6", lambda: gru(X, lengths=[6, 2])),
    ("Recurrent: expected lengths from 0 to 5.*-2", lambda: unrolled([3, -2])),
    ("Recurrent: expected lengths from 0 to 5.*6", lambda: unrolled([3, 6])),
    ("Recurrent.*a list of at least one", lambda: nn.Recurrent([])),
    ("RNN: input_size.*got 0", lambda: nn.RNN(0, 4)),
    (r"LSTM: hidden_size.*got 4\.5", lambda: nn.LSTM(3, 4.5)),
    ("GRU: num_layers.*got 0", lambda: nn.GRU(3, 4, num_layers=0)),
    ("GRU: num_layers.*got True", lambda: nn.GRU(3, 4, num_layers=True)),
    (r"GRU: dropout.*at most 1, got 1\.5", lambda: nn.GRU(3, 4, dropout=1.5)),
    ("RNN: nonlinearity.*tanh, relu, got 'gelu'", lambda: nn.RNN(3, 4, nonlinearity="gelu")),
    ("RNNCell: nonlinearity.*tanh, relu, got 'x'", lambda: nn.RNNCell(3, 4, nonlinearity="x")),
    ("LSTM: proj_size.*3.*got 4", lambda: nn.LSTM(3, 4, proj_size=4)),
    ("LSTM: proj_size.*got -1", lambda: nn.LSTM(3, 4, proj_size=-1)),
    (r"LSTM: proj_size.*got 1\.5", lambda: nn.LSTM(3, 4, proj_size=1.5)),
    ("Bidirectional.*concat, sum, mul, ave.*'max'", lambda: nn.Bidirectional(nn.Cell(), nn.Cell(), "max")),
    ("Bidirectional.*reverse=True", lambda: nn.Bidirectional(nn.GRUCell(3, 4), nn.Recurrent(nn.GRUCell(3, 4)))),
    (r"Cell.*initial_state\(batch_size\)", lambda: nn.Cell().initial_state(2)),
    ("Linear: in_features.*got -3", lambda: nn.Linear(-3, 4)),
    ("Embedding.*padding_idx 4.*4 rows", lambda: nn.Embedding(4, 2, padding_idx=4)),
    ("embedding.*padding_idx 9.*7 rows", lambda: F.embedding([1], TABLE, padding_idx=9)),
    ("LayerNorm.*got 0", lambda: nn.LayerNorm(0)),
    (r"Dropout: p.*at least 0 and at most 1, got -0\.1", lambda: nn.Dropout(-0.1)),
    (r"dropout.*2\.0", lambda: F.dropout(zeros(3), 2.0)),
    ("Attention: kind.*additive, dot, got 'cosine'", lambda: nn.Attention(3, 4, "cosine")),
    ("Attention: attention_size.*got 0", lambda: nn.Attention(3, 4, attention_size=0)),
    ("Attention: expected lengths from 0 to 5.*-1", lambda: attention(QUERY, MEMORY, [-1, 5])),
    ("Attention: expected lengths from 0 to 5.*6", lambda: attention(QUERY, MEMORY, [1, 6])),
    ("cross_entropy: label_smoothing.*got 2", lambda: F.cross_entropy(LOGITS, [0, 1, 2], label_smoothing=2)),
    ("binary_cross_entropy.*0 to 1", lambda: F.binary_cross_entropy(tensor([1.5]), [1.0])),
    ("binary_cross_entropy.*0 to 1", lambda: F.binary_cross_entropy(tensor([np.nan]), [1.0])),
    ("ctc_loss: blank.*from 0 to 2, got 3", lambda: F.ctc_loss(X, [[1], [1]], [5, 5], [1, 1], blank=3)),
    ("ctc_loss: reduction.*got 'max'", lambda: F.ctc_loss(X, [[1], [1]], [5, 5], [1, 1], reduction="max")),
    ("ctc_loss input: expected lengths from 0 to 5.*6", lambda: F.ctc_loss(X, [[1], [1]], [6, 5], [1, 1])),
    ("ctc_loss target: expected lengths from 0 to 1.*2", lambda: F.ctc_loss(X, [[1], [1]], [5, 5], [2, 1])),
    ("ctc_loss target: expected lengths from 0 to 1.*-1", lambda: F.ctc_loss(X, [[1], [1]], [5, 5], [-1, 1])),
    ("huber_loss: delta.*above 0, got 0", lambda: F.huber_loss(zeros(3), zeros(3), delta=0)),
    *(
        (
            rf"{'huber' if f is F.smooth_l1_loss else f.__name__}.*reduction.*mean, sum, none, got 'average'",
            lambda f=f, y=y: f(zeros(2, 3), y, reduction="average"),
        )
        for f, y in LOSSES
    ),
]


def check(call: Callable[[], Any], error: type[MinirnnError], builtin: type[Exception], message: str) -> None:
    with pytest.raises(MinirnnError, match=message) as caught:
        call()
    assert type(caught.value) is error
    assert isinstance(caught.value, builtin)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("message", "call"), SHAPES)
def test_wrong_shape_raises_shape_error(message: str, call: Callable[[], Any]) -> None:
    check(call, ShapeError, ValueError, message)


@pytest.mark.parametrize(("message", "call"), DTYPES)
def test_wrong_dtype_raises_dtype_error(message: str, call: Callable[[], Any]) -> None:
    check(call, DTypeError, TypeError, message)


@pytest.mark.parametrize(("message", "call"), INDICES)
def test_index_out_of_range_raises_index_range_error(message: str, call: Callable[[], Any]) -> None:
    check(call, IndexRangeError, IndexError, message)


@pytest.mark.parametrize(("message", "call"), OPTIONS)
def test_wrong_option_raises_option_error(message: str, call: Callable[[], Any]) -> None:
    check(call, OptionError, ValueError, message)


def test_calling_a_module_without_forward_raises_type_error() -> None:
    with pytest.raises(TypeError, match=r"Module has no forward\(\)"):
        nn.Module()()


def test_layer_is_unchanged_after_a_refused_call() -> None:
    rnn, x = nn.GRU(3, 4), np.ones((5, 2, 3), np.float32)
    before = rnn(x)[0].numpy().copy()
    for bad in ([9, 9], [-1, 0]):
        with pytest.raises(OptionError):
            rnn(x, lengths=bad)
    np.testing.assert_array_equal(rnn(x)[0].numpy(), before)
