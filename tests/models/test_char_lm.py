"""The character model: forward against its parts, state carried, sampling against the plain forward pass."""

import json
import os

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import IndexRangeError, OptionError, ShapeError

CELLS = ("rnn", "lstm", "gru")
LENGTH = 8 if os.environ.get("NUMBA_DISABLE_JIT") else 60


def _model(cell: str, dtype: str = "float32", layers: int = 2) -> mr.models.CharLM:
    mr.manual_seed(3)
    return mr.models.CharLM(11, 13, num_layers=layers, cell=cell, embedding_size=7, dtype=dtype)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("shape", [(4, 1), (9, 5)], ids=["few tokens", "more tokens than symbols"])
def test_forward_is_embedding_then_layers_then_head(cell: str, shape: tuple[int, int]) -> None:
    """Whether the first layer works on a table of tokens or on rows, values and gradients are those of its parts."""
    model = _model(cell, "float64")
    tokens = np.random.default_rng(0).integers(11, size=shape)
    weight = np.random.default_rng(1).standard_normal((*shape, 11))
    gradients = []
    for parts in (False, True):
        model.zero_grad()
        logits = model.head(model.rnn(model.embedding(tokens))[0]) if parts else model(tokens)[0]
        (logits * weight).sum().backward()
        gradients.append([logits.numpy(), *(p.grad.numpy().copy() for p in model.parameters())])
    for fused, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_carries_on(cell: str) -> None:
    model = _model(cell, "float64")
    tokens = np.random.default_rng(0).integers(11, size=(9, 3))
    whole, final = model(tokens)
    first, state = model(tokens[:4])
    second, state = model(tokens[4:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), whole.numpy(), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(state[0]), np.asarray(final[0]), rtol=1e-12)


def test_forget_gate_starts_open() -> None:
    model = _model("lstm")
    for layer in range(2):
        bias = model.state_dict()[f"rnn.bias_ih_l{layer}"] + model.state_dict()[f"rnn.bias_hh_l{layer}"]
        np.testing.assert_array_equal(bias[13:26], 1)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 3])
def test_greedy_sampling_is_repeated_argmax(cell: str, layers: int) -> None:
    model = _model(cell, layers=layers)
    sequence = [1, 5, 2]
    for _ in range(LENGTH):
        logits, _ = model(np.array(sequence))
        sequence.append(int(logits.numpy()[-1].argmax()))
    assert model.generate([1, 5, 2], LENGTH, temperature=0).tolist() == sequence[3:]
    assert model.generate([1, 5, 2], LENGTH, top_k=1, seed=0).tolist() == sequence[3:]


@pytest.mark.parametrize("cell", CELLS)
def test_sampling_depends_on_the_seed_alone(cell: str) -> None:
    """Not on the chunks it comes in, on the other streams, or on the threads."""
    model = _model(cell)
    text = model.generate([3], LENGTH, seed=7)
    assert (np.concatenate(list(model.stream([3], LENGTH, seed=7, chunk=7))) == text).all()
    assert (model.generate([3], LENGTH, seed=8) != text).any()
    together = model.generate(np.full((1, 5), 3), LENGTH, seed=7)
    assert (together[:, 0] == text).all()
    assert (together[:, 1] != text).any()
    before = mr.get_num_threads()
    mr.set_num_threads(3)
    assert (model.generate(np.full((1, 5), 3), LENGTH, seed=7) == together).all()
    mr.set_num_threads(before)
    mr.manual_seed(5)
    drawn = model.generate([3], LENGTH)
    mr.manual_seed(5)
    assert (model.generate([3], LENGTH) == drawn).all()


def test_samples_follow_the_distribution() -> None:
    """First symbols over many streams: frequencies of softmax(logits / temperature), also cut by k and by p."""
    model = _model("gru")
    streams = 300 if os.environ.get("NUMBA_DISABLE_JIT") else 20_000
    logits = model([4])[0].numpy()[-1].astype(np.float64)
    for temperature, top_k, top_p in [
        (1.0, None, None),
        (0.5, None, None),
        (1.0, 3, None),
        (1.0, None, 0.6),
        (2.0, 8, 0.5),
    ]:
        p = np.exp((logits - logits.max()) / temperature)
        p /= p.sum()
        order = np.argsort(-p, kind="stable")[:top_k]
        kept = order[: int(np.searchsorted(np.cumsum(p[order]) / p[order].sum(), top_p or 1.0 - 1e-12)) + 1]
        expected = np.zeros(11)
        expected[kept] = p[kept] / p[kept].sum()
        drawn = model.generate(np.full((1, streams), 4), 1, temperature, top_k, top_p, seed=1)[0]
        frequency = np.bincount(drawn, minlength=11) / streams
        assert (frequency[expected == 0] == 0).all()
        np.testing.assert_allclose(frequency, expected, atol=4 * np.sqrt(0.25 / streams))


def test_the_config_makes_the_same_model_again(dtype: np.dtype) -> None:
    model = _model("gru", str(dtype))
    config = json.loads(json.dumps(model.config))
    assert config["dtype"] == str(dtype)
    again = mr.models.CharLM(**config)
    assert again.config == config
    again.load_state_dict(model.state_dict())
    for name, array in again.state_dict().items():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, model.state_dict()[name])
    assert mr.models.CharLM(3, 4).to("float64").config["dtype"] == "float64"


def test_nothing_asked_for() -> None:
    model = _model("lstm")
    assert model.generate([1], 0).shape == (0,)
    assert model.generate([[1, 2]], 0).shape == (0, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.generate([], 3), ShapeError, "P at least 1, got"),
        (lambda m: m.generate([11], 3), IndexRangeError, "index 11 is out of range; the table has 11 rows"),
        (lambda m: m.generate([1], -1), OptionError, "length must be at least 0, got -1"),
        (lambda m: m.generate([1], 3.5), OptionError, "length must be a whole number, got 3.5"),
        (lambda m: m.generate([1], 3, seed=-1), OptionError, "seed must be at least 0, got -1"),
        (lambda m: m.generate([1], 3, seed=0.5), OptionError, "seed must be a whole number, got 0.5"),
        (lambda m: m.generate([1], 3, top_k=1.5), OptionError, "top_k must be a whole number, got 1.5"),
        (lambda m: m.stream([1], 3, chunk=0), OptionError, "chunk must be at least 1, got 0"),
        (lambda m: m.generate([1], 3, temperature=-1), OptionError, "temperature must be at least 0, got -1"),
        (lambda m: m.generate([1], 3, top_k=0), OptionError, "top_k must be at least 1, got 0"),
        (lambda m: m.generate([1], 3, top_p=0), OptionError, "top_p must be above 0 and at most 1, got 0"),
        (lambda m: m([[-1]]), IndexRangeError, "index -1 is out of range"),
        (lambda m: mr.models.CharLM(3, 4, cell="qrnn"), OptionError, "cell must be one of rnn, lstm, gru, got 'qrnn'"),
    ],
)
def test_mistakes_are_named(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(_model("lstm"))  # type: ignore[operator]
