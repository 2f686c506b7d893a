"""NumPy arrays and lists given to modules, models and losses are cast to the type of the parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import Tensor
from minirnn.errors import DTypeError, ShapeError
from minirnn.nn import functional as F
from minirnn.nn.pooling import Pooling

RNG = np.random.default_rng(0)
X = RNG.integers(-3, 4, (5, 2, 3)) / 4.0  # [T, N, I], exact in any floating-point type
H = RNG.integers(-3, 4, (5, 2, 4)) / 4.0
H_0 = H[:1]

nn, models = mr.nn, mr.models


class OwnCell(nn.Cell):
    """h' = tanh(W [x; h])."""

    def __init__(self, dtype: str) -> None:
        self.layer = nn.Linear(7, 4, dtype=dtype)

    def initial_state(self, batch_size: int) -> Tensor:
        return mr.zeros(batch_size, 4, dtype=self.layer.weight.dtype)

    def forward(self, x: Any, state: Any) -> Tensor:
        return self.layer(mr.cat([x, state], 1)).tanh()


class TokenCell(OwnCell):
    """Reads tokens [N, 1]."""

    def forward(self, x: Any, state: Any) -> Tensor:
        return super().forward(F.one_hot(x.squeeze(1), 3), state)


CASES: dict[str, tuple[Callable[[str], Any], tuple[Any, ...]]] = {
    "LSTM": (lambda d: nn.LSTM(3, 4, dtype=d), (X, (H_0, H_0))),
    "GRU": (lambda d: nn.GRU(3, 4, num_layers=2, dtype=d), (X, H[:2])),
    "RNN": (lambda d: nn.RNN(3, 4, bidirectional=True, dtype=d), (X,)),
    "Recurrent": (lambda d: nn.Recurrent("peephole_lstm", 3, 4, dtype=d), (X, (H_0, H_0), [5, 3])),
    "Recurrent of two sizes": (lambda d: nn.Recurrent("gru", 3, [4, 3], 2, dtype=d), (X, [H_0[0], X[0]])),
    "Recurrent of a cell": (lambda d: nn.Recurrent(nn.LSTMCell(3, 4, dtype=d)), (X, (H_0[0], H_0[0]), [5, 3])),
    "Recurrent of cells": (lambda d: nn.Recurrent([nn.GRUCell(3, 4, dtype=d)] * 1), (X, [H_0[0]])),
    "Recurrent of an own cell": (lambda d: nn.Recurrent(OwnCell(d)), (X, H_0[0], [2, 5])),
    "Bidirectional": (lambda d: nn.Bidirectional(nn.GRUCell(3, 4, dtype=d), nn.RNNCell(3, 4, dtype=d)), (X,)),
    "RecurrentCell": (lambda d: nn.RecurrentCell("mgu", 3, 4, dtype=d), (X[0], H_0[0])),
    "RNNCell": (lambda d: nn.RNNCell(3, 4, dtype=d), (X[0], H_0[0])),
    "LSTMCell": (lambda d: nn.LSTMCell(3, 4, dtype=d), (X[0], (H_0[0], H_0[0]))),
    "GRUCell": (lambda d: nn.GRUCell(3, 4, dtype=d), (X[0], H_0[0])),
    "Linear": (lambda d: nn.Linear(3, 2, dtype=d), (X,)),
    "LayerNorm": (lambda d: nn.LayerNorm(3, dtype=d), (X,)),
    "Attention": (lambda d: nn.Attention(4, 3, dtype=d), (H, X, [5, 2])),
    "Attention to keys": (lambda d: nn.Attention(4, 3, "dot", dtype=d), (H, X, None, X)),
    "Pooling": (lambda d: Pooling("attention", 4, d), (H, [5, 2])),
    "Sequential": (lambda d: nn.Sequential(nn.Linear(3, 2, dtype=d), nn.Tanh()), (X,)),
    "OneToOne": (lambda d: models.OneToOne(3, 4, 2, dtype=d), (X,)),
    "OneToMany": (lambda d: models.OneToMany(3, 4, 4, dtype=d), (X[0], H)),
    "ManyToOne": (lambda d: models.ManyToOne(3, 4, 2, pooling="mean", dtype=d), (X, [5, 3])),
    "ManyToMany": (lambda d: models.ManyToMany(3, 4, 2, dtype=d), (X, [5, 3], (H_0, H_0))),
    "ManyToMany of a module": (lambda d: models.ManyToMany(3, 4, 2, cell=nn.GRUCell(3, 4, dtype=d), dtype=d), (X,)),
}  # fmt: skip
"""How to make a module of a type, and its arguments: arrays of floats, [N] lengths, states."""

TOKENS: dict[str, tuple[Callable[[str], Any], tuple[Any, ...]]] = {
    "Embedding": (lambda d: nn.Embedding(3, 4, dtype=d), ([[0, 2], [1, 1]],)),
    "Sequential of an embedding": (lambda d: nn.Sequential(nn.Embedding(3, 4, dtype=d)), (np.array([0, 2]),)),
    "Recurrent of a cell of tokens": (lambda d: nn.Recurrent(TokenCell(d)), ([[[0], [2]], [[1], [1]]],)),
    "CharLM": (lambda d: models.CharLM(3, 4, 1, dtype=d), ([[0, 2], [1, 1]], (H_0, H_0))),
    "EncoderDecoder": (lambda d: models.EncoderDecoder(5, 5, 4, dtype=d), ([[3, 4]], [[1, 1], [3, 4], [2, 2]])),
    "OneToMany of labels": (lambda d: models.OneToMany(3, 4, 4, dtype=d), ([0, 2], H)),
    "ManyToOne": (lambda d: models.ManyToOne(3, 4, 2, embedding_size=2, dtype=d), ([[0, 2], [1, 1]],)),
}

NO_PARAMETERS = {
    "Dropout": nn.Dropout(0.0), "ReLU": nn.ReLU(), "Sigmoid": nn.Sigmoid(), "Tanh": nn.Tanh(),
    "LayerNorm": nn.LayerNorm(3, elementwise_affine=False), "Pooling": Pooling("max", 3), "mean": Pooling("mean", 3),
}  # fmt: skip

LOSSES: dict[str, tuple[Any, Any]] = {
    "BCELoss": (nn.BCELoss(weight=[0.5, 1, 2]), abs(X[0])),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss(weight=X[0], pos_weight=X[1]), X[0] > 0),
    "CrossEntropyLoss": (nn.CrossEntropyLoss([0.5, 1, 2]), [0, 2]), "HuberLoss": (nn.HuberLoss(), X[1]),
    "CTCLoss": (lambda x, labels: nn.CTCLoss()(x, labels, 2, 1), [1]),
    "L1Loss": (nn.L1Loss(), X[1].tolist()), "MSELoss": (nn.MSELoss(), X[1]), "NLLLoss": (nn.NLLLoss(X[0, 0]), [0, 2]),
}  # fmt: skip


def convert(value: Any, to: Callable[[np.ndarray], Any]) -> Any:
    """``value`` with each array of floats as another kind of value."""
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return to(value)
    return type(value)(convert(item, to) for item in value) if isinstance(value, (tuple, list)) else value


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def outputs(module: Any, arguments: tuple[Any, ...], dtype: Any) -> list[np.ndarray]:
    found = list(tensors(module(*arguments)))
    assert {output.dtype for output in found} == {np.dtype(dtype)}
    return [output.numpy() for output in found]


@pytest.mark.parametrize("name", CASES)
def test_arrays_and_lists_are_cast_to_the_type_of_the_parameters(name: str, dtype: np.dtype) -> None:
    make, arguments = CASES[name]
    module = make(str(dtype))
    expected = outputs(module, convert(arguments, lambda a: mr.tensor(a, dtype=dtype)), dtype)
    kinds: dict[str, Callable[[np.ndarray], Any]] = {
        kind: lambda a, kind=kind: a.astype(kind)
        for kind in ("float64", "float32", "float16")  # type: ignore[misc]
    }
    for kind, to in kinds.items():
        for got, wanted in zip(outputs(module, convert(arguments, to), dtype), expected, strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=kind)
    x, *others = arguments  # lists are members of a state, so only the first argument
    for got, wanted in zip(outputs(module, (x.tolist(), *others), dtype), expected, strict=True):
        np.testing.assert_array_equal(got, wanted, err_msg="lists")
    expected = outputs(module, convert(arguments, lambda a: mr.tensor(a.round(), dtype=dtype)), dtype)
    found = outputs(module, convert(arguments, lambda a: a.round().astype(int)), dtype)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, wanted, err_msg="integers")


@pytest.mark.parametrize("name", CASES)
def test_a_tensor_of_another_type_is_an_error(name: str, dtype: np.dtype) -> None:
    other = "float64" if dtype == np.float32 else "float32"
    make, arguments = CASES[name]
    if name == "LayerNorm":
        pytest.skip("computes with the wider of the two types, as arithmetic does")
    with pytest.raises(DTypeError, match=other):
        make(str(dtype))(*convert(arguments, lambda a: mr.tensor(a, dtype=other)))


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_and_labels_stay_integers(name: str, dtype: np.dtype) -> None:
    make, arguments = TOKENS[name]
    module = make(str(dtype))
    expected = outputs(module, convert(arguments, lambda a: mr.tensor(a, dtype=dtype)), dtype)
    for got, wanted in zip(outputs(module, arguments, dtype), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises((DTypeError, ShapeError)):
        module(convert(np.array(arguments[0], float), lambda a: a), *arguments[1:])


@pytest.mark.parametrize("name", NO_PARAMETERS)
def test_modules_without_parameters_take_arrays_as_tensor_does(name: str) -> None:
    """But first in a Sequential, arrays take the type that the others need."""
    module = NO_PARAMETERS[name]
    np.testing.assert_array_equal(module(X).numpy(), module(mr.tensor(X)).numpy())
    assert module(X).dtype == module(X.tolist()).dtype == np.float32
    assert module(mr.tensor(X, dtype="float64")).dtype == np.float64
    assert nn.Sequential(module, nn.Linear(3, 2, dtype="float64"))(X).dtype == np.float64


@pytest.mark.parametrize("name", LOSSES)
def test_targets_and_weights_take_the_type_of_the_prediction(name: str, dtype: np.dtype) -> None:
    loss, target = LOSSES[name]
    values = (abs(X[2]) + 0.125) / 2
    prediction = mr.tensor(values, True, dtype)
    result = loss(prediction, target)
    result.backward()
    assert prediction.grad is not None
    assert result.dtype == prediction.grad.dtype == dtype
    if name not in ("CrossEntropyLoss", "CTCLoss", "NLLLoss"):
        wanted = mr.tensor(target, dtype=dtype)
        assert result.item() == loss(prediction, wanted).item()
        assert loss(values, wanted).dtype == dtype, "and the prediction that of a target which is a tensor"


@pytest.mark.parametrize("name", ["Linear", "LSTM", "Recurrent of a cell", "Attention to keys"])
def test_arrays_go_to_the_device_of_the_parameters(name: str, gpu: str) -> None:
    make, arguments = CASES[name]
    module = make("float32")
    expected = outputs(module, arguments, "float32")
    assert {output.device for output in tensors(module.to(gpu)(*arguments))} == {gpu}
    for got, wanted in zip(outputs(module, arguments, "float32"), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_every_module_and_model_has_a_case() -> None:
    covered = {name.split()[0] for name in (*CASES, *TOKENS, *NO_PARAMETERS, *LOSSES)}
    classes = {n for n in nn.__all__ if inspect.isclass(getattr(nn, n)) and issubclass(getattr(nn, n), nn.Module)}
    assert classes | set(models.__all__) <= covered | {"Module", "ModuleList", "Cell"}


def test_arithmetic_promotes_instead(torch: Any) -> None:
    """A float64 array beside a float32 tensor, unlike a list or a number, makes the result float64, as in PyTorch."""
    x, array = mr.ones(3), np.array([0.1, 0.2, 0.3])
    assert (x * array).dtype == (array + x).dtype == np.float64
    assert (torch.ones(3) * torch.from_numpy(array)).dtype == torch.float64
    assert (x * array.tolist()).dtype == (x * 0.1).dtype == (x + np.arange(3)).dtype == np.float32
