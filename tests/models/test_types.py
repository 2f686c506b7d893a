"""Four of the five types: each against its parts, ragged batches, modules as cells, feeding back, configurations."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import OptionError, ShapeError
from minirnn.models.body import Body
from minirnn.nn.pooling import Pooling

CELLS = ("gru", "lstm")
POOLINGS = ("last", "mean", "max", "attention")
LENGTHS = np.array([5, 2, 0, 7, 1])
RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 5, 3))
TOKENS = RNG.integers(0, 6, (7, 5))


def gradients(model: mr.nn.Module) -> dict[str, np.ndarray]:
    return {name: np.zeros(p.shape) if p.grad is None else np.array(p.grad) for name, p in model.named_parameters()}


# ------------------------------------------------------------------------------------------------ one to one


def test_one_to_one_by_hand() -> None:
    model = mr.models.OneToOne(3, 4, 2, num_layers=2, activation="tanh", dtype="float64")
    state = list(model.state_dict().values())
    hidden = np.tanh(np.tanh(X[0] @ state[0].T + state[1]) @ state[2].T + state[3])
    np.testing.assert_allclose(model(X[0]), hidden @ state[4].T + state[5], rtol=1e-12)
    linear = mr.models.OneToOne(3, 4, 2, num_layers=0, dtype="float64")
    weight, bias = linear.state_dict().values()
    np.testing.assert_allclose(linear(X[0]), X[0] @ weight.T + bias, rtol=1e-12)


def test_one_to_one_drops_in_training_only() -> None:
    model = mr.models.OneToOne(3, 64, 1, dropout=0.5, dtype="float64")
    assert (np.asarray(model(X[0])) != np.asarray(model(X[0]))).any()
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
    padded = X.copy()
    padded[np.arange(7)[:, None] >= LENGTHS] = 1e6  # what lies past the end is never read
    batch = model(padded, LENGTHS)
    (batch * weight).sum().backward()
    together = gradients(model)
    model.zero_grad()
    for n, length in enumerate(LENGTHS):
        alone = model(X[: max(1, length), n : n + 1], None if length else [0])
        np.testing.assert_allclose(alone.numpy()[0], batch.numpy()[n], rtol=1e-9, atol=1e-12)
        (alone * weight[n : n + 1]).sum().backward()
    for name, gradient in gradients(model).items():
        np.testing.assert_allclose(together[name], gradient, rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "expected", "gradient"),
    [
        ("mean", [[2, -7], [7, -1]], [[[0.5, 0.5], [1, 1]], [[0.5, 0.5], [1, 1]]]),  # padding is zero in y, no matter
        ("max", [[3, -5], [7, -1]], [[[0, 1], [1, 1]], [[1, 0], [0, 0]]]),
    ],
)
def test_pooling_by_hand(kind: str, expected: list[Any], gradient: list[Any]) -> None:
    y = mr.tensor([[[1.0, -5.0], [7.0, -1.0]], [[3.0, -9.0], [0.0, 0.0]]], dtype="float64", requires_grad=True)
    pooled = Pooling(kind, 2, "float64")(y, [2, 1])
    np.testing.assert_array_equal(pooled, expected)
    pooled.sum().backward()
    np.testing.assert_array_equal(y.grad, gradient)


def test_attention_pooling_by_its_equations() -> None:
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
def test_many_to_one_gradients_match_finite_differences(pooling: str) -> None:
    model = mr.models.ManyToOne(3, 2, 2, cell="lstm", pooling=pooling, dtype="float64")
    x = mr.tensor(X[:4, :2], dtype="float64", requires_grad=True)
    assert mr.gradcheck(lambda x, *_: (model(x, [4, 2]) ** 2).sum(), [x, *model.parameters()])


# ------------------------------------------------------------------------------------------ modules as cells


def make_module(kind: str) -> mr.nn.Module:
    """A recurrent module from 3 numbers to 4."""
    makers = {
        "layer": lambda: mr.nn.LSTM(3, 4),
        "two layers": lambda: mr.nn.Recurrent("gru", 3, [5, 4], num_layers=2),
        "step": lambda: mr.nn.GRUCell(3, 4),
        "steps": lambda: mr.nn.Recurrent([mr.nn.GRUCell(3, 5), mr.nn.LSTMCell(5, 4)]),
        "bidirectional": lambda: mr.nn.Bidirectional(mr.nn.GRUCell(3, 4), mr.nn.GRUCell(3, 4), merge="sum"),
    }
    return makers[kind]().to("float64")


@pytest.mark.parametrize("kind", ["layer", "two layers", "step", "steps", "bidirectional"])
def test_a_module_as_cell_matches_a_hand_composed_network(kind: str) -> None:
    """Outputs, pooled outputs and gradients: the module, then a linear head."""
    module = make_module(kind)
    network = mr.nn.Recurrent(module) if kind == "step" else module
    weight, lengths = RNG.standard_normal((7, 5, 2)), np.maximum(LENGTHS, 1)
    many = mr.models.ManyToMany(3, 4, 2, cell=module, dtype="float64")
    outputs = [many(X, lengths)[0], many.head(network(X, None, lengths)[0])]
    if kind != "bidirectional":
        last = mr.models.ManyToOne(3, 4, 2, cell=module, dtype="float64")
        y = network(X, None, lengths)[0][lengths - 1, np.arange(5)]
        np.testing.assert_allclose(last(X, lengths), last.head(y).numpy(), rtol=1e-12)
        assert (last(X, LENGTHS).numpy()[2] == last.head.bias.numpy()).all()  # of no step
    found = []
    for output in outputs:
        many.zero_grad()
        (output * weight).sum().backward()
        found.append({"output": output.numpy()} | gradients(many))
        assert all(gradient.any() for gradient in gradients(many).values())
    for name, value in found[1].items():
        np.testing.assert_allclose(found[0][name], value, rtol=1e-12, atol=1e-14, err_msg=name)
    if kind != "bidirectional":  # whose second direction has nothing to continue from
        _, state = many(X[:3])
        np.testing.assert_allclose(many(X[3:], None, state)[0], many(X)[0].numpy()[3:], rtol=1e-9)


@pytest.mark.parametrize("pooling", ["last", "max"])
@pytest.mark.parametrize(("merge", "size"), [("concat", 8), ("sum", 4)])
def test_a_layer_of_two_directions_as_cell_is_merged(pooling: str, merge: str, size: int) -> None:
    layer = mr.nn.LSTM(3, 4, bidirectional=True, dtype="float64")
    given = mr.models.ManyToOne(3, size, 2, cell=layer, merge=merge, pooling=pooling, dtype="float64")
    made = mr.models.ManyToOne(3, 4, 2, bidirectional=True, merge=merge, pooling=pooling, dtype="float64")
    made.load_state_dict(given.state_dict())
    np.testing.assert_array_equal(given(X, LENGTHS), made(X, LENGTHS))


@pytest.mark.parametrize("kind", ["layer", "steps"])
def test_a_char_lm_of_a_module_embeds_its_tokens(kind: str) -> None:
    model = mr.models.CharLM(6, 4, cell=make_module(kind), embedding_size=3, dtype="float64")
    table = model.state_dict()["embedding.weight"]
    expected = model.head(model.rnn(table[TOKENS])[0])
    np.testing.assert_allclose(model(TOKENS)[0], expected.numpy(), rtol=1e-12)
    model.loss(TOKENS, TOKENS)[0].backward()
    assert all(gradient.any() for gradient in gradients(model).values())
    one_hot = mr.models.ManyToMany(3, 4, 2, cell=model.rnn, embedding_size=0, dtype="float64")
    expected = one_hot.head(model.rnn(np.eye(3)[TOKENS % 3])[0])
    np.testing.assert_allclose(one_hot(TOKENS % 3)[0], expected.numpy(), rtol=1e-12)


def test_what_a_module_as_cell_cannot_do_is_named() -> None:
    module = make_module("bidirectional")
    with pytest.raises(OptionError, match=r"config: a model made with a module \(Bidirectional\) as cell has none"):
        _ = mr.models.ManyToMany(3, 4, 2, cell=module).config
    with pytest.raises(OptionError, match="two directions have no one last output; use another pooling"):
        mr.models.ManyToOne(3, 4, 2, cell=module, dtype="float64")(X)
    with pytest.raises(OptionError, match="generate: expected a model of a cell"):
        mr.models.CharLM(3, 4, cell=mr.nn.LSTM(4, 4)).generate([1], 3)
    for options in ({"bidirectional": True}, {"zoneout": 0.1}, {"cell": mr.nn.GRU(3, 4, batch_first=True)}):
        with pytest.raises(OptionError, match="cell: a module must have time first, and directions and regularisation"):
            mr.models.ManyToOne(3, 4, 2, **{"cell": module} | options)  # type: ignore[arg-type]
    for make in (mr.models.OneToMany, mr.models.EncoderDecoder):
        with pytest.raises(OptionError, match=r"cell must be one of .* got GRU"):
            make(5, 5, 5, cell=mr.nn.GRU(5, 5))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- many to many


@pytest.mark.parametrize("merge", ["concat", "sum", "mul", "ave"])
def test_merged_directions_by_hand(merge: str) -> None:
    model = mr.models.ManyToMany(3, 4, 2, bidirectional=True, merge=merge, dtype="float64")
    both = model.body.rnn(X, None, LENGTHS)[0].numpy()
    ahead, back = both[..., :4], both[..., 4:]
    joined = {"concat": both, "sum": ahead + back, "mul": ahead * back, "ave": (ahead + back) / 2}[merge]
    expected = joined @ model.head.weight.numpy().T + model.head.bias.numpy()
    np.testing.assert_allclose(model(X, LENGTHS)[0], expected, rtol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
def test_a_state_continues_a_sequence(cell: str) -> None:
    model = mr.models.ManyToMany(3, 4, 2, 2, cell, dtype="float64")
    first, state = model(X[:3])
    rest, _ = model(X[3:], state=state)
    np.testing.assert_allclose(np.concatenate([first, rest]), model(X)[0].numpy(), rtol=1e-11)


@pytest.mark.parametrize("cell", ["lstm", "min_gru"])
@pytest.mark.parametrize("batch", [1, 5], ids=["fewer rows than tokens", "more"])
def test_one_hot_tokens_are_one_hot_vectors(cell: str, batch: int) -> None:
    tokens = mr.models.ManyToMany(6, 4, 2, cell=cell, embedding_size=0, dtype="float64")
    vectors = mr.models.ManyToMany(6, 4, 2, cell=cell, dtype="float64")
    vectors.load_state_dict(tokens.state_dict())
    picked = TOKENS[:3, :batch]
    np.testing.assert_allclose(tokens(picked)[0], vectors(np.eye(6)[picked])[0].numpy(), rtol=1e-11)
    assert "body.embedding.weight" not in tokens.state_dict()
    assert tokens.to("float32")(picked)[0].dtype == np.float32


def test_dropout_falls_on_embeddings_too() -> None:
    seen = []

    class Spy(mr.nn.Module):
        def forward(self, x: mr.Tensor, *_: Any) -> Any:
            seen.append(x.numpy())
            return x, None

    mr.models.ManyToMany(6, 8, 2, cell=Spy(), embedding_size=8, dropout=0.9)(TOKENS)
    assert 0.8 < (seen[0] == 0).mean() < 0.97


# ----------------------------------------------------------------------------------------------- one to many


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("activation", ["none", "sigmoid"])
def test_free_running_is_teacher_forcing_on_its_own_outputs(cell: str, activation: str) -> None:
    model = mr.models.OneToMany(10, 5, 3, 2, cell, activation=activation, dtype="float64")
    labels = np.array([1, 7, 7, 0])
    free = model(labels, length=6)
    own = free.sigmoid() if activation == "sigmoid" else free
    np.testing.assert_allclose(model(labels, targets=own.detach()), free.numpy(), rtol=1e-11)
    np.testing.assert_allclose(model.generate(labels, 6), own.numpy(), rtol=1e-11)
    np.testing.assert_allclose(model(np.eye(10)[labels], length=6), free.numpy(), rtol=1e-11)  # a label is one-hot


@pytest.mark.parametrize("embedding_size", [0, 4])
def test_tokens_are_fed_back(embedding_size: int) -> None:
    model = mr.models.OneToMany(10, 5, 3, cell="gru", embedding_size=embedding_size, dtype="float64")
    for parameter in model.parameters():
        parameter.data *= 4  # so that choices differ
    greedy = model.generate([1, 2, 3, 4], 6, temperature=0)
    logits = model([1, 2, 3, 4], targets=greedy)
    np.testing.assert_array_equal(logits.numpy().argmax(2), greedy)
    np.testing.assert_allclose(model([1, 2, 3, 4], length=6), logits.numpy(), rtol=1e-11)


def test_tokens_are_drawn_from_their_probabilities() -> None:
    model = mr.models.OneToMany(2, 4, 3, embedding_size=2, dtype="float64")
    first = np.zeros(20_000, np.int64)
    probabilities = model([0], targets=[[0]]).softmax(2).numpy()[0, 0]
    drawn = model.generate(first, 1, seed=5)[0]
    np.testing.assert_allclose(np.bincount(drawn, minlength=3) / 20_000, probabilities, atol=0.015)
    np.testing.assert_array_equal(drawn, model.generate(first, 1, seed=5)[0])
    assert (drawn != model.generate(first, 1, seed=6)[0]).any()


def test_gradients_flow_through_what_was_fed_back() -> None:
    model = mr.models.OneToMany(3, 2, 2, 1, "lstm", activation="sigmoid", dtype="float64")
    assert mr.gradcheck(lambda *_: (model([0, 2], length=4) ** 2).sum(), list(model.parameters()))


# ---------------------------------------------------------------------------------------------------- config


PAIR = [[4], [5]], [[1], [4], [2]]
MODELS: dict[str, tuple[mr.models.body.Model, tuple[Any, ...]]] = {
    "OneToOne": (mr.models.OneToOne(3, 4, 2, activation="sigmoid"), (np.ones((2, 3), np.float32),)),
    "OneToMany": (mr.models.OneToMany(3, 4, 2, cell="gru", embedding_size=3), ([1], None, 5)),
    "conditioned": (mr.models.OneToMany(3, 4, 2, embedding_size=3, condition="every_step", end=1), ([1], None, 5)),
    "ManyToOne": (
        mr.models.ManyToOne(6, 4, 2, pooling="attention", bidirectional=True, merge="mul", embedding_size=3),
        (TOKENS,),
    ),
    "ManyToMany": (mr.models.ManyToMany(6, 4, 2, embedding_size=0, dtype="float64"), (TOKENS,)),
    "EncoderDecoder": (mr.models.EncoderDecoder(7, 8, 4, cell="gru", attention="dot"), PAIR),
    "one direction": (mr.models.EncoderDecoder(7, 8, 4, cell="lstm", attention=None, bidirectional=False), PAIR),
    "CharLM": (mr.models.CharLM(6, 4, zoneout=0.1, weight_drop=0.2), (TOKENS,)),
}
RATES = {"zoneout": 0.1, "recurrent_dropout": 0.2, "weight_drop": 0.3}


@pytest.mark.parametrize("name", MODELS)
def test_config_makes_the_model_again(name: str) -> None:
    model, arguments = MODELS[name]
    config = json.loads(json.dumps(model.config))
    again = type(model)(**config)
    assert again.config == config
    again.load_state_dict(model.state_dict())
    outputs = [one.eval()(*arguments) for one in (again, model)]
    outputs = [one[0] if isinstance(one, tuple) else one for one in outputs]
    np.testing.assert_array_equal(*outputs)
    assert config["dtype"] == outputs[0].dtype
    assert again.to("float64").config["dtype"] == "float64"
    assert set(RATES) <= config.keys() or name == "OneToOne"


@pytest.mark.parametrize("name", [name for name in MODELS if name != "OneToOne"])
def test_rates_reach_all_layers(name: str) -> None:
    """And a configuration from before there were rates makes a model without them."""
    model, _ = MODELS[name]
    config = {name: value for name, value in model.config.items() if name not in RATES}
    for rates in (RATES, dict.fromkeys(RATES, 0.0)):
        again = type(model)(**config | {name: rate for name, rate in rates.items() if rate})
        layers = [module for module in again.modules() if isinstance(module, mr.nn.Recurrent)]
        assert len(layers) == (2 if isinstance(model, mr.models.EncoderDecoder) else 1)
        assert all({name: getattr(layer, name) for name in RATES} == rates for layer in layers)
        assert again.config == config | rates


def test_a_subclass_is_made_again_with_its_own_arguments() -> None:
    class Tagger(mr.models.ManyToMany):
        def __init__(self, tags: int, hidden_size: int = 4) -> None:
            super().__init__(3, hidden_size, tags)

    assert Tagger(5).config == {"tags": 5, "hidden_size": 4, "dtype": "float32"}


def test_recurrent_dropout_of_a_cell_without_recurrent_weights_is_on_the_update() -> None:
    model = mr.models.ManyToOne(3, 4, 2, cell="min_gru", recurrent_dropout=0.5, dtype="float64")
    assert model.body.layers.recurrent_dropout_on == "update"
    assert (model(X).numpy() != model(X).numpy()).any()
    with pytest.raises(OptionError, match="has no recurrent weights that weight_drop could drop"):
        mr.models.ManyToOne(3, 4, 2, cell="min_gru", weight_drop=0.5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mr.models.ManyToOne(3, 4, 2, cell="mlp"), OptionError, "cell must be one of .* got 'mlp'"),
        (
            lambda: mr.models.ManyToMany(3, 4, 2, merge="max"),
            OptionError,
            "merge: expected one of concat, .* got 'max'",
        ),
        (
            lambda: mr.models.ManyToOne(3, 4, 2, pooling="first"),
            OptionError,
            "pooling: expected one of last, mean, max, attenti",
        ),
        (lambda: mr.models.OneToOne(3, 4, 2, activation="step"), OptionError, "activation: expected one of relu, tanh"),
        (
            lambda: mr.models.OneToMany(3, 4, 2, activation="relu"),
            OptionError,
            "activation: expected one of none, sigm",
        ),
        (lambda: mr.models.OneToMany(3, 4, 2)([1]), OptionError, "either targets, to learn from, or a length"),
        (
            lambda: mr.models.OneToMany(3, 4, 2)(np.zeros((1, 2, 3), np.float32), length=2),
            ShapeError,
            r"expected a first input \[N, I\], or labels \[N\], got \[1, 2, 3\]",
        ),
        (
            lambda: mr.models.OneToMany(3, 4, 2)([1, 0], targets=np.zeros((4, 3, 2), np.float32)),
            ShapeError,
            r"expected targets \[.T., 2, 2\], got \[4, 3, 2\]",
        ),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
