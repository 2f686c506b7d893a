"""The character model of any cell: against its steps in primitive operations, state carried, sampling."""

import json
import os

import numpy as np
import pytest

import minirnn as mr
from minirnn.autograd import ops
from minirnn.cells import Cell, dropout, layer_norm, product, sigmoid, tanh
from minirnn.errors import IndexRangeError, OptionError, ShapeError
from minirnn.nn.state import unpack_state


@mr.cell
def deep(a, g_x, g_h, /, h, s, *, p=0.5):  # type: ignore[no-untyped-def]
    """All that a cell can have: parts of a gate, a vector, a product inside the step, a normalisation, two states."""
    s = s + sigmoid(layer_norm(g_x * g_h)) * (dropout(tanh(product(tanh(a + p * h)))) - s)
    return tanh(s) + 0.1 * h, s


CELLS = [*mr.cells.names(), deep]
LENGTH = 8 if os.environ.get("NUMBA_DISABLE_JIT") else 60
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: getattr(cell, "name", cell))


def _model(cell: str | Cell, dtype: str = "float32", layers: int = 2) -> mr.models.CharLM:
    mr.manual_seed(3)
    return mr.models.CharLM(11, 13, num_layers=layers, cell=cell, embedding_size=7, dtype=dtype)


def _step_by_step(model: mr.models.CharLM, tokens: np.ndarray) -> mr.Tensor:
    """The same logits, one step of one layer after the other, by the readable path."""
    steps = [step.squeeze(0) for step in model.embedding(tokens).split(1)]
    for layer in range(model.num_layers):
        cell = mr.nn.RecurrentCell(model.rnn.cell, steps[0].shape[-1], model.hidden_size)
        for name in dict(cell.named_parameters()):
            setattr(cell, name, getattr(model.rnn, f"{name}_l{layer}"))
        state, outputs = None, []
        for step in steps:
            state = cell(step, state)
            outputs.append(unpack_state(state)[0])
        steps = outputs
    return model.head(ops.stack(steps))


@every_cell
@pytest.mark.parametrize("shape", [(4, 1), (9, 5)], ids=["few tokens", "more tokens than symbols"])
def test_forward_and_gradients_are_those_of_single_steps(cell: str | Cell, shape: tuple[int, int]) -> None:
    """Whether the first layer works on a table of tokens or on rows."""
    model = _model(cell, "float64")
    tokens = np.random.default_rng(0).integers(11, size=shape)
    weight = np.random.default_rng(1).standard_normal((*shape, 11))
    gradients = []
    for logits in (model(tokens)[0], _step_by_step(model, tokens)):
        model.zero_grad()
        (logits * weight).sum().backward()
        gradients.append([logits.numpy(), *(p.grad.numpy().copy() for p in model.parameters())])
    for fused, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=1e-9, atol=1e-12)


@every_cell
def test_the_state_carries_on(cell: str | Cell) -> None:
    model = _model(cell, "float64")
    tokens = np.random.default_rng(0).integers(11, size=(9, 3))
    whole, final = model(tokens)
    first, state = model(tokens[:4])
    second, state = model(tokens[4:], state)
    np.testing.assert_allclose(np.concatenate([first, second]), whole.numpy(), rtol=1e-12)
    for one, other in zip(unpack_state(state), unpack_state(final), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-12)


@pytest.mark.parametrize(("cell", "row"), [("lstm", 1), ("coupled_lstm", 0), ("slstm", 1), ("mgu", None)])
def test_forget_gates_of_lstms_start_open(cell: str, row: int | None) -> None:
    model = _model(cell)
    for layer in range(2):
        biases = model.state_dict()[f"rnn.bias_ih_l{layer}"], model.state_dict()[f"rnn.bias_hh_l{layer}"]
        ones = (biases[0] + biases[1]).reshape(-1, 13) == 1
        assert np.flatnonzero(ones.all(1)).tolist() == ([] if row is None else [row])


@every_cell
@pytest.mark.parametrize("layers", [1, 3])
def test_greedy_sampling_is_repeated_argmax(cell: str | Cell, layers: int) -> None:
    model, sequence = _model(cell, layers=layers), [1, 5, 2]
    with mr.no_grad():
        for _ in range(8):
            sequence.append(int(_step_by_step(model, np.array(sequence)).numpy()[-1].argmax()))
    sampled = model.generate([1, 5, 2], LENGTH, temperature=0)
    assert sampled[:8].tolist() == sequence[3:]
    forward = model(np.concatenate([[1, 5, 2], sampled]))[0].numpy().argmax(1)
    assert (forward[2:-1] == sampled).all()
    assert (model.generate([1, 5, 2], LENGTH, top_k=1, seed=0) == sampled).all()


def test_sampling_takes_the_expected_value_of_what_training_draws() -> None:
    mr.manual_seed(3)
    rates = {"zoneout": 0.3, "recurrent_dropout": 0.5, "weight_drop": 0.5}
    model = mr.models.CharLM(11, 13, cell="peephole_lstm", dropout=0.5, **rates)
    text = model.generate([1], 20, temperature=0)
    assert model.training
    with model.evaluating():
        forward = model(np.concatenate([[1], text]))[0].numpy().argmax(1)
    assert (forward[:-1] == text).all()
    assert model.config.items() >= rates.items()
    drawn = [model([1, 2, 3])[0].numpy() for _ in range(2)]
    assert (drawn[0] != drawn[1]).any()


@pytest.mark.parametrize("cell", ["rnn", "gru", "slstm"])
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


@pytest.mark.parametrize("cell", ["gru", deep], ids=["built-in", "own"])
def test_the_config_makes_the_same_model_again(cell: str | Cell, dtype: np.dtype) -> None:
    model = _model(cell, str(dtype))
    config = json.loads(json.dumps(model.config))
    assert config["dtype"] == str(dtype)
    again = mr.models.CharLM(**config)
    assert again.config == config
    again.load_state_dict(model.state_dict())
    for name, array in again.state_dict().items():
        assert array.dtype == dtype
        np.testing.assert_array_equal(array, model.state_dict()[name])
    assert (again.generate([1], 9, seed=1) == model.generate([1], 9, seed=1)).all()
    assert config["cell"] == cell or config["cell"]["name"] == "deep"
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
        (lambda m: m.generate([1], 3.5), OptionError, "length must be an int, got 3.5"),
        (lambda m: m.generate([1], 3, seed=-1), OptionError, "seed must be at least 0, got -1"),
        (lambda m: m.generate([1], 3, seed=0.5), OptionError, "seed must be an int, got 0.5"),
        (lambda m: m.generate([1], 3, top_k=1.5), OptionError, "top_k must be an int, got 1.5"),
        (lambda m: m.stream([1], 3, chunk=0), OptionError, "chunk must be at least 1, got 0"),
        (lambda m: m.generate([1], 3, temperature=-1), OptionError, "temperature must be at least 0, got -1"),
        (lambda m: m.generate([1], 3, top_k=0), OptionError, "top_k must be at least 1, got 0"),
        (lambda m: m.generate([1], 3, top_p=0), OptionError, "top_p must be above 0 and at most 1, got 0"),
        (lambda m: m([[-1]]), IndexRangeError, "index -1 is out of range"),
        (lambda m: mr.models.CharLM(3, 4, cell="qrnn"), OptionError, "cell must be one of coupled_lstm, .* got 'qrnn'"),
    ],
)
def test_mistakes_are_named(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(_model("lstm"))  # type: ignore[operator]
