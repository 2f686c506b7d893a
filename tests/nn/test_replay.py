"""Repeated calls of small models: the numbers of an ordinary call, whatever changes between the steps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from threading import Thread
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import IndexRangeError
from minirnn.kernels import recording
from minirnn.models.body import Model
from minirnn.nn import functional as F
from minirnn.nn import replay
from minirnn.nn.state import pack_state, unpack_state
from minirnn.tasks.char import CharConfig, Corpus, TextGenerator
from minirnn.training import Trainer, TrainingConfig

Step = Callable[[Any, np.random.Generator, int], mr.Tensor]
V, H = 11, 8


@pytest.fixture
def repeated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that were repeated, in order; and "again" where gradients were computed by an ordinary call."""
    passes: list[str] = []

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            passes.append(name)
            return method(*args)

        return call

    for name, method in (("forward", "repeat"), ("backward", "_repeat_backward"), ("again", "_again")):
        monkeypatch.setattr(replay._Plan, method, counted(name, getattr(replay._Plan, method)))
    return passes


def language_model(**options: Any) -> mr.models.CharLM:
    return mr.models.CharLM(V, H, **{"num_layers": 1, **options})


def tokens(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(V, size=shape)


def train(make: Callable[[], Any], step: Step, steps: int = 8, make_optimizer: Any = mr.optim.Adam) -> list[Any]:
    """Losses and norms of some steps, then the weights, and what the generator draws next."""
    mr.manual_seed(0)
    model, rng, found = make(), np.random.default_rng(1), list[Any]()
    optimizer = make_optimizer(list(model.parameters()), lr=0.05)
    for number in range(steps):
        optimizer.zero_grad()
        loss = step(model, rng, number)
        loss.backward()
        found += [loss.item(), mr.optim.clip_grad_norm_(model.parameters(), 0.5)]
        optimizer.step()
    return [*found, *(p.numpy().tobytes() for p in model.parameters()), mr.random.draw_seed()]


def check_equal(monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> None:
    found = train(*args, **options)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "MAX_PLANS", 0)
        assert train(*args, **options) == found


def lm_step(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    loss: mr.Tensor = model.loss(tokens(rng, 6, 2), tokens(rng, 6, 2))[0]
    return loss


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cell": "gru", "num_layers": 2, "dropout": 0.3},
        {"cell": "rnn", "dtype": "float64", "weight_drop": 0.2, "zoneout": 0.2, "recurrent_dropout": 0.2},
        {"cell": "gru_reset_before", "embedding_size": 5},
    ],
    ids=lambda options: " ".join(map(str, options.values())) or "lstm",
)
def test_twenty_steps_have_the_same_losses_norms_and_weights(
    options: dict[str, Any], repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_equal(monkeypatch, lambda: language_model(**options), lm_step, steps=20)
    assert repeated == ["forward", "backward"] * 18


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop", "adagrad"])
def test_optimizers(name: str, repeated: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check_equal(monkeypatch, language_model, lm_step, make_optimizer=mr.optim.OPTIMIZERS[name])
    assert repeated == ["forward", "backward"] * 6


def vectors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "step"),
    [
        (
            lambda: mr.models.ManyToOne(V, H, 3, embedding_size=5, bidirectional=True, dropout=0.2),
            lambda model, rng, _: F.cross_entropy(model(tokens(rng, 5, 4)), rng.integers(3, size=4)),
        ),
        (
            lambda: mr.models.ManyToMany(4, H, 3, 2, "gru", bidirectional=True, merge="mul"),
            lambda model, rng, _: F.mse_loss(model(vectors(rng, 5, 4, 4))[0], vectors(rng, 5, 4, 3)),
        ),
        (
            lambda: mr.models.OneToOne(4, H, 3, num_layers=2, activation="sigmoid", dropout=0.3),
            lambda model, rng, _: F.mse_loss(model(vectors(rng, 5, 4)), vectors(rng, 5, 3)),
        ),
    ],
    ids=["ManyToOne", "ManyToMany", "OneToOne"],
)
def test_other_models(make: Any, step: Step, repeated: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    check_equal(monkeypatch, make, step)
    assert repeated == ["forward", "backward"] * 6


def tied_weights() -> mr.models.CharLM:
    model = language_model()
    assert model.embedding is not None
    model.head.weight = model.embedding.weight
    return model


def accumulate(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    lm_step(model, rng, number).backward()
    return lm_step(model, rng, number)


def penalty(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    weight = model.rnn.weight_hh_l0
    before = (weight * weight).sum()
    return lm_step(model, rng, number) + before + (weight * weight * weight).sum()


def two_calls_one_backward(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    first, state = model.loss(tokens(rng, 6, 2), tokens(rng, 6, 2))
    return first + model.loss(tokens(rng, 6, 2), tokens(rng, 6, 2), state)[0]


def carried_state(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    state = getattr(carried_state, "state", None) if number else None
    loss, state = model.loss(tokens(rng, 6, 2), tokens(rng, 6, 2), state)
    carried_state.state = pack_state([member.detach() for member in unpack_state(state)])  # type: ignore[attr-defined]
    return loss


def gradient_of_inputs(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    state = tuple(mr.tensor(vectors(rng, 1, 2, H), requires_grad=True) for _ in range(2))
    loss, final = model.loss(tokens(rng, 6, 2), tokens(rng, 6, 2), state)
    total = loss if number % 3 else loss + final[1].sum()  # not always a gradient of the same outputs
    total.backward()
    return (state[0].grad * state[1].grad).sum() + lm_step(model, rng, number)


def other_shapes(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    loss: mr.Tensor = model.loss(tokens(rng, 6 + number // 4, 2), tokens(rng, 6 + number // 4, 2))[0]
    return loss


def modes(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    if number % 4 == 3:
        with model.evaluating():
            known = lm_step(model, rng, number).item()
        return lm_step(model, rng, number) + known
    return lm_step(model, rng, number)


def other_dropout(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    if number == 5:
        model.dropout.p = 0.6
    return lm_step(model, rng, number)


def new_weights(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    if number in (4, 6):
        state = {name: array + np.float32(0.1) for name, array in model.state_dict().items()}
        model.load_state_dict(state, assign=number == 6)
    return lm_step(model, rng, number)


def frozen(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    model.head.weight.requires_grad = number < 4
    return lm_step(model, rng, number)


def ignored_targets(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    targets = tokens(rng, 6, 2)
    targets[rng.random((6, 2)) < (number % 3) / 4] = -100
    loss: mr.Tensor = model.loss(tokens(rng, 6, 2), targets)[0]
    return loss


def recomputed(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    loss: mr.Tensor = model.loss(tokens(rng, 6, 2), tokens(rng, 6, 2), None, 3)[0]
    return loss


def part_of_the_loss(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    logits, _ = model(tokens(rng, 6, 2))
    return F.cross_entropy(logits.reshape(-1, V), tokens(rng, 12)) * (1 + number % 2)


@pytest.mark.parametrize(
    ("make", "step", "some_repeated"),
    [
        (tied_weights, lm_step, True),
        (language_model, accumulate, True),
        (language_model, penalty, True),
        (language_model, two_calls_one_backward, True),
        (language_model, carried_state, True),
        (language_model, gradient_of_inputs, True),
        (language_model, other_shapes, True),
        (lambda: language_model(dropout=0.4), modes, True),
        (lambda: language_model(dropout=0.4), other_dropout, True),
        (language_model, new_weights, True),
        (language_model, frozen, True),
        (language_model, ignored_targets, False),
        (lambda: language_model(dropout=0.4), recomputed, True),
        (language_model, part_of_the_loss, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_may_change_between_steps(
    make: Any, step: Step, some_repeated: bool, repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_equal(monkeypatch, make, step, steps=12)
    assert ("forward" in repeated) == some_repeated
    assert ("again" in repeated) == (step is gradient_of_inputs)


def lengths(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    return F.cross_entropy(model(tokens(rng, 5, 3), rng.integers(1, 6, size=3)), rng.integers(3, size=3))


class Custom(Model):
    """A model whose code looks at something that no recording sees."""

    def __init__(self) -> None:
        self.layer, self.scales = mr.nn.Linear(4, 4), [1.0]

    def forward(self, x: Any) -> mr.Tensor:
        return self.layer(x) * self.scales[0]


def custom(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    model.scales[0] = 1.0 + number
    return (model(vectors(rng, 3, 4)) * vectors(rng, 3, 4)).sum()


def tied_embeddings() -> mr.models.EncoderDecoder:
    """The decoder's gradient of the weight comes first, and the encoder's is computed where the optimizer reads it."""
    model = mr.models.EncoderDecoder(V, V, H, bidirectional=False, attention=None)
    assert model.encoder.embedding is not None
    assert model.decoder.embedding is not None
    model.decoder.embedding.weight = model.encoder.embedding.weight
    return model


def few_and_many_tokens(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    logits = model(tokens(rng, 2, 2), tokens(rng, 8, 2))
    return F.cross_entropy(logits.reshape(-1, V), tokens(rng, 14))


def wide(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
    loss: mr.Tensor = model.loss(tokens(rng, 300, 4), tokens(rng, 300, 4))[0]
    return loss


@pytest.mark.parametrize(
    ("make", "step"),
    [
        (lambda: mr.models.ManyToOne(V, H, 3, embedding_size=5), lengths),
        (Custom, custom),
        (tied_embeddings, few_and_many_tokens),
        (lambda: mr.models.CharLM(V, 64, 1), wide),
        (lambda: mr.models.ManyToOne(V, H, 3, embedding_size=0), lambda model, rng, _: model(tokens(rng, 5, 3)).sum()),
    ],
    ids=["lengths", "foreign code", "tied embeddings", "work for several threads", "one-hot"],
)
def test_what_cannot_be_repeated_is_computed_as_ever(
    make: Any, step: Step, repeated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check_equal(monkeypatch, make, step, steps=5)
    assert repeated == []


def test_a_wrong_token_is_the_same_error_and_later_steps_repeat(repeated: list[str]) -> None:
    model = language_model(dropout=0.5)
    good = np.zeros((6, 2), np.int64)
    for _ in range(4):
        model.loss(good, good)[0].backward()
    before = mr.random.generator().bit_generator.state
    with pytest.raises(IndexRangeError, match="index 11 is out of range; the table has 11 rows"):
        model.loss(good + V, good)
    assert mr.random.generator().bit_generator.state == before
    for _ in range(2):  # it is recorded again
        model.loss(good, good)[0].backward()
    assert repeated == ["forward", "backward", "forward", "forward", "backward"]


def test_outputs_and_gradients_are_not_overwritten_by_the_next_step() -> None:
    model, rng = language_model(), np.random.default_rng(0)
    kept = []
    for _ in range(5):
        model.head.weight.grad = None
        logits, state = model(tokens(rng, 6, 2))
        (logits * logits).sum().backward()
        kept.append((logits, *state, model.head.weight.grad))
    copies = [[member.numpy().copy() for member in one] for one in kept]
    model.head.weight.grad = None
    model(tokens(rng, 6, 2))[0].sum().backward()
    for one, other in zip(kept, copies, strict=True):
        for member, array in zip(one, other, strict=True):
            np.testing.assert_array_equal(member.numpy(), array)


def test_gradients_of_matrices_are_computed_where_the_optimizer_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[bool] = []
    add_grad = mr.Tensor.add_grad

    def counted(self: mr.Tensor, gradient: Any) -> None:
        if self.ndim == 2:
            added.append(gradient is self.grad_slot)
        add_grad(self, gradient)

    def few_tokens(model: Any, rng: np.random.Generator, number: int) -> mr.Tensor:
        loss: mr.Tensor = model.loss(tokens(rng, 3, 2), tokens(rng, 3, 2))[0]
        return loss

    monkeypatch.setattr(mr.Tensor, "add_grad", counted)
    train(language_model, few_tokens, steps=3)
    assert added == [True] * 4 + [False] * 4 + [True] * 4  # as ever; recorded, with copies; repeated
    added.clear()
    train(tied_weights, few_tokens, steps=3)
    assert added[-4:].count(False) == 1  # the second gradient of the weight is added to the first


def test_a_model_whose_calls_cannot_be_recorded_is_not_recorded_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    recordings: list[int] = []
    record = replay._Plan.record
    monkeypatch.setattr(replay._Plan, "record", lambda plan, *args: recordings.append(1) or record(plan, *args))
    model, rng = mr.models.ManyToOne(V, H, 3, embedding_size=5), np.random.default_rng(0)
    for size in range(2, 2 + replay.MAX_FAILURES):
        for _ in range(4):
            model(tokens(rng, 5, size), np.full(size, 3))
    assert len(recordings) == replay.MAX_FAILURES


@pytest.mark.parametrize(("limit", "expected"), [(0, 2), (-1, 0)])
def test_a_large_model_is_not_recorded(limit: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients would be held twice meanwhile; the limit is the size of its parameters."""
    begun = list[int]()
    record = replay._Plan.record
    monkeypatch.setattr(replay._Plan, "record", lambda *args: begun.append(1) or record(*args))
    model = language_model()
    parameters = sum(p.data.nbytes for p in model.parameters())
    monkeypatch.setattr(recording, "MAX_BYTES", parameters + limit)
    inputs = np.zeros((4, 2), int)
    for _ in range(6):
        model.loss(inputs, inputs)[0].backward()
        model.zero_grad()
    assert len(begun) == expected


def test_evaluation_without_a_tape_is_repeated(repeated: list[str]) -> None:
    model, x = language_model(dropout=0.5), np.zeros((6, 2), np.int64)
    with model.evaluating():
        found = [model(x)[0].numpy().tobytes() for _ in range(4)]
    assert len(set(found)) == 1
    assert repeated == ["forward"] * 2


def test_copies_and_threads_do_not_share_recordings(repeated: list[str]) -> None:
    model, x = language_model(), np.zeros((6, 2), np.int64)
    for _ in range(3):
        model.zero_grad()
        model.loss(x, x)[0].backward()
    other = copy.deepcopy(model)
    assert other._replay is not model._replay
    assert isinstance(pickle.loads(pickle.dumps(model._replay)), replay.Replay)
    expected = [p.grad.numpy().copy() for p in model.parameters()]
    for _ in range(3):
        model.zero_grad()
        pending = model.loss(x, x)[0]  # holds the memory
        thread = Thread(target=lambda: model.loss(x + 1, x)[0].item())
        thread.start()
        thread.join()
        pending.backward()
    assert [p.grad.numpy().tolist() for p in model.parameters()] == [g.tolist() for g in expected]


def test_a_trainer_repeats_steps_and_falls_back_at_the_last_chunk(repeated: list[str]) -> None:
    symbols = mr.data.text.Characters.of("abcdefgh ")
    text = "abc fed gha bee cafe " * 20
    found = []
    for plans in (replay.MAX_PLANS, 0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replay, "MAX_PLANS", plans)
            config = CharConfig(hidden_size=8, num_layers=2, batch_size=3, seq_length=10, dropout=0.2, seed=0)
            task = TextGenerator.build(Corpus(symbols.encode(text), symbols), config)
            steps = list(Trainer(task, TrainingConfig(steps=40, evaluations=3)).fit())
            found.append([(step.train_loss, step.grad_norm, step.metrics) for step in steps])
    assert found[0] == found[1]
    assert repeated.count("backward") > 20


# ------------------------------------------------------------------------------------------------- recordings


def record(function: Callable[..., Any], *arrays: np.ndarray) -> tuple[recording.Recording, Any]:
    now = recording.Recording()
    traced = [now.own(array) for array in arrays]
    with now.on():
        result = function(*traced)
    return now, recording.plain(result)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.exp(x) * 2 - x.sum(axis=0),
        lambda x: np.concatenate([x, np.where(x > 0, x, 0)], axis=1).T.copy(),
        lambda x: np.stack([x, x])[0, ::2].reshape(-1).mean(keepdims=True),
        lambda x: np.take(x, [1, 0], axis=0) @ x.T.astype(np.float64),
        lambda x: np.sort(np.split(x, 2, axis=1)[1] + np.zeros_like(x[:, :2])),
    ],
)
def test_numpy_is_repeated_with_other_values(function: Callable[..., Any]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4))
    now, result = record(function, x)
    assert not now.refused
    x[...] = np.random.default_rng(1).standard_normal((2, 4))
    recording.repeat_calls(now.calls)
    np.testing.assert_array_equal(result, function(x))


def test_changes_in_place_are_repeated() -> None:
    def change(x: np.ndarray) -> np.ndarray:
        y = x.copy()
        y += 1
        y[1:] *= x[:1]
        np.add.at(y, np.zeros(0, np.int64), 1.0)
        y[0] = 5
        return y

    x = np.arange(6.0).reshape(3, 2)
    now, result = record(change, x)
    x[...] = 7
    recording.repeat_calls(now.calls)
    np.testing.assert_array_equal(result, change(x))
    assert not now.refused


UNKNOWN = np.ones(3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * 2 if x[0] > 0 else x,
        lambda x: x * float(x[0]),
        lambda x: x * x.tolist()[0],
        lambda x: x + np.asarray(x) * 2.0,
        lambda x: x + UNKNOWN,
        lambda x: x * int(x.argmax()),
        lambda x: x + np.divmod(x, 2)[0],
        lambda x: x + np.median(np.asarray(x) + 1),
        lambda x: x * (1.0 if np.array_equal(x, x) else 2.0),
        lambda x: [x, np.array(x)][1] + x,
    ],
)
def test_values_read_by_python_and_unknown_arrays_refuse_a_recording(function: Callable[..., Any]) -> None:
    now, result = record(function, np.arange(1.0, 4.0))
    assert now.refused
    assert not now.calls
    assert not now._kept  # its memory is free again
    np.testing.assert_array_equal(result, function(np.arange(1.0, 4.0)))


def test_a_result_of_another_size_and_another_outcome_end_a_repetition() -> None:
    x = np.array([1.0, -1.0, 2.0])
    now, _ = record(lambda x: x[x > 0], x)
    assert not now.refused
    x[:] = 1
    with pytest.raises(recording.OutcomeChangedError):
        recording.repeat_calls(now.calls)
    now, _ = record(lambda x: recording.holds(lambda x: bool(x[0] > 0), x), x)
    x[0] = -1
    with pytest.raises(recording.OutcomeChangedError):
        recording.repeat_calls(now.calls)
