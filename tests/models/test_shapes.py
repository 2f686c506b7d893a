"""The shapes of networks: each against its parts written out, padding without effect, feeding back its own outputs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import OptionError, ShapeError
from minirnn.models.body import Body
from minirnn.nn.pooling import Pooling

CELLS = ("rnn", "lstm", "slstm")
POOLINGS = ("last", "mean", "max", "attention")
LENGTHS = np.array([5, 2, 0, 7, 1])
RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5, 3))
TOKENS = RNG.integers(0, 6, (7, 5))


def _gradients(model: mr.nn.Module) -> dict[str, np.ndarray]:
    return {name: np.zeros(p.shape) if p.grad is None else np.array(p.grad) for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------------------------ one to one


def test_one_to_one_is_its_layers_written_out() -> None:
    model = mr.models.OneToOne(3, 4, 2, num_layers=2, activation="tanh", dtype="float64")
    state = list(model.state_dict().values())
    x = X[0]
    hidden = np.tanh(np.tanh(x @ state[0].T + state[1]) @ state[2].T + state[3])
    np.testing.assert_allclose(model(x), hidden @ state[4].T + state[5], rtol=1e-12)


def test_one_to_one_without_hidden_layers_is_linear() -> None:
    model = mr.models.OneToOne(3, 4, 2, num_layers=0, dtype="float64")
    np.testing.assert_allclose(model(2 * X[0]), 2 * np.asarray(model(X[0])) - np.asarray(model(0 * X[0])), rtol=1e-12)


def test_one_to_one_drops_in_training_only() -> None:
    model = mr.models.OneToOne(3, 64, 1, dropout=0.5, dtype="float64")
    once, again = np.asarray(model(X[0])), np.asarray(model(X[0]))
    assert (once != again).any()
    model.eval()
    np.testing.assert_array_equal(model(X[0]), model(X[0]))


# ----------------------------------------------------------------------------------------------- many to one


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("merge", ["concat", "ave"])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_changes_nothing(cell: str, merge: str, pooling: str) -> None:
    """A ragged batch gives each sequence the output, and together the gradients, that they have alone."""
    model = mr.models.ManyToOne(3, 4, 2, 2, cell, True, merge, pooling=pooling, dtype="float64")
    weight = RNG.standard_normal((5, 2))
    spoiled = X.copy()
    spoiled[np.arange(7)[:, None] >= LENGTHS] = 1e6  # what lies past the end is never read
    batch = model(spoiled, LENGTHS)
    (batch * weight).sum().backward()
    together = _gradients(model)
    model.zero_grad()
    for n, length in enumerate(LENGTHS):
        alone = model(X[: max(1, length), n : n + 1], None if length else [0])
        np.testing.assert_allclose(alone.numpy()[0], batch.numpy()[n], rtol=1e-9, atol=1e-12)
        (alone * weight[n : n + 1]).sum().backward()
    for name, gradient in _gradients(model).items():
        np.testing.assert_allclose(together[name], gradient, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("kind", ["mean", "max"])
def test_pooling_by_hand(kind: str) -> None:
    y = mr.tensor([[[1.0, -5.0], [7.0, -1.0]], [[3.0, -9.0], [0.0, 0.0]]], dtype="float64", requires_grad=True)
    pooled = Pooling(kind, 2, "float64")(y, [2, 1])
    expected = {"mean": [[2, -7], [7, -1]], "max": [[3, -5], [7, -1]]}[kind]
    np.testing.assert_array_equal(pooled, expected)
    pooled.sum().backward()
    gradient = {  # of the mean the padded step, zero in y, has a share, which ends in the layer below
        "mean": [[[0.5, 0.5], [1, 1]], [[0.5, 0.5], [1, 1]]],
        "max": [[[0, 1], [1, 1]], [[1, 0], [0, 0]]],
    }
    np.testing.assert_array_equal(y.grad, gradient[kind])


def test_attention_pooling_written_out() -> None:
    pooling = Pooling("attention", 4, "float64")
    pooling.bias.data[:] = RNG.standard_normal(4)
    y = RNG.standard_normal((7, 5, 4))
    scores = np.tanh(y @ pooling.memory.weight.numpy().T + pooling.bias.numpy()) @ pooling.score.numpy()
    for n, length in enumerate(LENGTHS):
        e = np.exp(scores[:length, n])
        expected = (e / e.sum() if length else e) @ y[:length, n]
        np.testing.assert_allclose(pooling(mr.tensor(y, dtype="float64"), LENGTHS).numpy()[n], expected, rtol=1e-10)


def test_last_is_each_sequence_s_own_last_step_in_both_directions() -> None:
    body = Body(3, 4, 1, "gru", bidirectional=True, dtype="float64")
    y, state = body(X, LENGTHS)
    last = body.last(state).numpy()
    for n, length in enumerate(LENGTHS):
        ahead, back = (y.numpy()[length - 1, n, :4], y.numpy()[0, n, 4:]) if length else (np.zeros(4), np.zeros(4))
        np.testing.assert_allclose(last[n], np.concatenate([ahead, back]), rtol=1e-12)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_many_to_one_gradients(pooling: str) -> None:
    model = mr.models.ManyToOne(3, 2, 2, cell="lstm", pooling=pooling, dtype="float64")
    x = mr.tensor(X[:4, :2], dtype="float64", requires_grad=True)

    def loss(x: mr.Tensor, *_: mr.Tensor) -> mr.Tensor:
        return (model(x, [4, 2]) ** 2).sum()

    assert mr.gradcheck(loss, [x, *model.parameters()])


# ---------------------------------------------------------------------------------------------- many to many


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
def test_merged_directions_written_out(merge: str) -> None:
    model = mr.models.ManyToMany(3, 4, 2, bidirectional=True, merge=merge, dtype="float64")
    both = model.body.rnn(X, None, LENGTHS)[0].numpy()
    ahead, back = both[..., :4], both[..., 4:]
    joined = {"concat": both, "sum": ahead + back, "mul": ahead * back, "ave": (ahead + back) / 2}[merge]
    expected = joined @ model.head.weight.numpy().T + model.head.bias.numpy()
    np.testing.assert_allclose(model(X, LENGTHS)[0], expected, rtol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
def test_the_state_carries_on(cell: str) -> None:
    model = mr.models.ManyToMany(3, 4, 2, 2, cell, dtype="float64")
    whole, _ = model(X)
    first, state = model(X[:3])
    rest, _ = model(X[3:], state=state)
    np.testing.assert_allclose(np.concatenate([first, rest]), whole.numpy(), rtol=1e-11)


@pytest.mark.parametrize("batch", [1, 5], ids=["fewer rows than tokens", "more"])
def test_one_hot_tokens_are_one_hot_vectors(batch: int) -> None:
    tokens = mr.models.ManyToMany(6, 4, 2, embedding_size=0, dtype="float64")
    vectors = mr.models.ManyToMany(6, 4, 2, dtype="float64")
    vectors.load_state_dict(tokens.state_dict())
    picked = TOKENS[:3, :batch]
    np.testing.assert_allclose(tokens(picked)[0], vectors(np.eye(6)[picked])[0].numpy(), rtol=1e-11)
    assert "body.embedding.weight" not in tokens.state_dict()
    assert tokens.to("float32")(picked)[0].dtype == np.float32


def test_dropout_falls_on_embeddings_too() -> None:
    model = mr.models.ManyToMany(6, 4, 2, embedding_size=8, dropout=0.9, dtype="float64")
    model.body.rnn.dropout, seen = 0.0, []
    rnn = model.body.rnn

    class Watch(mr.nn.Module):
        bidirectional = False

        def forward(self, x: Any, *rest: Any) -> Any:
            seen.append(x.numpy())
            return rnn(x, *rest)

    model.body.rnn = Watch()
    model(TOKENS)
    assert 0.8 < (seen[0] == 0).mean() < 0.97


# ----------------------------------------------------------------------------------------------- one to many


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_free_running_is_teacher_forcing_on_one_s_own_outputs(cell: str, activation: str) -> None:
    model = mr.models.OneToMany(10, 5, 3, 2, cell, activation=activation, dtype="float64")
    labels = [1, 7, 7, 0]
    free = model(labels, length=6)
    own = free.sigmoid() if activation == "sigmoid" else free
    np.testing.assert_allclose(model(labels, targets=own.detach()), free.numpy(), rtol=1e-11)
    np.testing.assert_allclose(model.generate(labels, 6), own.numpy(), rtol=1e-11)


@pytest.mark.parametrize("embedding_size", [0, 4])
def test_tokens_are_fed_back(embedding_size: int) -> None:
    model = mr.models.OneToMany(10, 5, 3, cell="gru", embedding_size=embedding_size, dtype="float64")
    for parameter in model.parameters():
        parameter.data *= 4  # so that choices differ
    likeliest = model.generate([1, 2, 3, 4], 6, temperature=0)
    logits = model([1, 2, 3, 4], targets=likeliest)
    np.testing.assert_array_equal(logits.numpy().argmax(2), likeliest)
    np.testing.assert_allclose(model([1, 2, 3, 4], length=6), logits.numpy(), rtol=1e-11)


def test_tokens_are_drawn_from_their_probabilities() -> None:
    model = mr.models.OneToMany(2, 4, 3, embedding_size=2, dtype="float64")
    first = np.zeros(20_000, np.int64)
    probabilities = model([0], targets=[[0]]).softmax(2).numpy()[0, 0]
    drawn = model.generate(first, 1, seed=5)[0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 20_000, probabilities, atol=0.015)
    np.testing.assert_array_equal(drawn, model.generate(first, 1, seed=5)[0])
    assert (drawn != model.generate(first, 1, seed=6)[0]).any()


def test_a_label_is_a_one_hot_vector() -> None:
    model = mr.models.OneToMany(4, 5, 3, 2, dtype="float64")
    labels = np.array([3, 0, 3])
    np.testing.assert_allclose(model(labels, length=2), model(np.eye(4)[labels], length=2).numpy(), rtol=1e-12)


def test_gradients_flow_back_through_what_was_fed_back() -> None:
    model = mr.models.OneToMany(3, 2, 2, 1, "lstm", activation="sigmoid", dtype="float64")

    def loss(*_: mr.Tensor) -> mr.Tensor:
        return (model([0, 2], length=4) ** 2).sum()

    assert mr.gradcheck(loss, list(model.parameters()))


# ---------------------------------------------------------------------------------------------------- config


MODELS = [
    mr.models.OneToOne(3, 4, 2, activation="sigmoid"),
    mr.models.OneToMany(3, 4, 2, cell="gru", embedding_size=3),
    mr.models.ManyToOne(3, 4, 2, pooling="attention", bidirectional=True, merge="mul"),
    mr.models.ManyToMany(6, 4, 2, embedding_size=0, dtype="float64"),
    mr.models.EncoderDecoder(7, 8, 4, cell="gru", attention="dot"),
    mr.models.CharLM(5, 4, zoneout=0.1, weight_drop=0.2),
]
RATES = {"zoneout": 0.1, "recurrent_dropout": 0.2, "weight_drop": 0.3}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_config_makes_the_model_anew(model: Any) -> None:
    config = json.loads(json.dumps(model.config))
    again = type(model)(**config)
    assert again.config == config
    again.load_state_dict(model.state_dict())
    assert config["dtype"] == str(next(model.parameters()).dtype)


@pytest.mark.parametrize("model", MODELS[1:], ids=lambda model: type(model).__name__)
def test_rates_reach_all_layers(model: Any) -> None:
    """And a configuration from before there were rates makes a model without them."""
    config = {name: value for name, value in model.config.items() if name not in RATES}
    for rates in (RATES, dict.fromkeys(RATES, 0.0)):
        again = type(model)(**config | {name: rate for name, rate in rates.items() if rate})
        layers = [module for module in again.modules() if isinstance(module, mr.nn.Recurrent)]
        assert len(layers) == (2 if isinstance(model, mr.models.EncoderDecoder) else 1)
        for layer in layers:
            assert {name: getattr(layer, name) for name in RATES} == rates
        assert again.config == config | rates


def test_recurrent_dropout_of_a_cell_without_recurrent_weights_is_on_the_update() -> None:
    model = mr.models.ManyToOne(3, 4, 2, cell="min_gru", recurrent_dropout=0.5, dtype="float64")
    assert model.body.rnn.recurrent_dropout_on == "update"
    assert (model(X).numpy() != model(X).numpy()).any()
    with pytest.raises(OptionError, match="has no recurrent weights that weight_drop could drop"):
        mr.models.ManyToOne(3, 4, 2, cell="min_gru", weight_drop=0.5)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(OptionError, match=r"cell must be one of .* got 'mlp'"):
        mr.models.ManyToOne(3, 4, 2, cell="mlp")
    with pytest.raises(OptionError, match="merge must be one of"):
        mr.models.ManyToMany(3, 4, 2, merge="max")
    with pytest.raises(OptionError, match="kind: expected one of mean, max, attention, got 'first'"):
        mr.models.ManyToOne(3, 4, 2, pooling="first")
    with pytest.raises(OptionError, match="activation must be"):
        mr.models.OneToOne(3, 4, 2, activation="step")
    with pytest.raises(OptionError, match="either targets, to learn from, or a length"):
        mr.models.OneToMany(3, 4, 2)([1])
    with pytest.raises(ShapeError, match=r"expected a first input \[N, I\], or labels \[N\], got \[1, 2, 3\]"):
        mr.models.OneToMany(3, 4, 2)(np.zeros((1, 2, 3), np.float32), length=2)
    with pytest.raises(ShapeError, match=r"expected targets \[.T., 2, 2\], got \[4, 3, 2\]"):
        mr.models.OneToMany(3, 4, 2)([1, 0], targets=np.zeros((4, 3, 2), np.float32))
