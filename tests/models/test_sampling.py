"""Sampling by several threads together, and with weights in fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn as mr
from minirnn.cells import Cell, layer_norm, product, sigmoid, tanh
from minirnn.errors import OptionError
from minirnn.kernels import threads
from minirnn.kernels.contract import Weights
from minirnn.kernels.cpu import generate, int8, shared
from minirnn.nn.state import unpack_state

LAYERS, HIDDEN, CLASSES = 2, 45, 70


@mr.cell
def deep(a, g_x, g_h, /, h, s):  # type: ignore[no-untyped-def]
    """Parts of a gate, a product inside the step, sums over the units, two states."""
    s = s + sigmoid(layer_norm(g_x * g_h)) * (tanh(product(tanh(a + h))) - s)
    return tanh(s) + 0.1 * h, s


every_kind = pytest.mark.parametrize(
    ("cell", "weights"),
    [
        ("gru", "float32"),
        (deep, "bfloat16"),
        pytest.param("lstm", "int8", marks=pytest.mark.skipif(not int8.has_int8(), reason="has no VNNI")),
    ],
    ids=["gru-float32", "deep-bfloat16", "lstm-int8"],
)


def make_model(cell: str | Cell) -> mr.models.CharLM:
    mr.manual_seed(3)
    return mr.models.CharLM(CLASSES, HIDDEN, LAYERS, cell, embedding_size=7)


@pytest.fixture
def share(monkeypatch: pytest.MonkeyPatch, set_threads: Any) -> Callable[[int, int], None]:
    """Let so many threads divide even small products; one waits for another up to ``spins`` times."""
    monkeypatch.setattr(threads, "MIN_WORK", 1)
    monkeypatch.setattr(generate, "_MIN_BYTES", 1)

    def choose(count: int, spins: int = shared.SPINS) -> None:
        set_threads(count)
        monkeypatch.setattr(shared, "SPINS", spins)

    return choose


@pytest.mark.needs_jit
@every_kind
def test_a_text_does_not_depend_on_how_many_threads_write_it(
    cell: str | Cell, weights: Weights, share: Callable[..., None]
) -> None:
    model, primes = make_model(cell), ([1, 2], [[1, 2], [3, 4]])

    def texts() -> list[np.ndarray]:
        return [model.generate(prime, 40, seed=3, weights=weights) for prime in primes]

    share(1)
    expected = texts()
    whole = model.stream([1, 2], 40, seed=3, weights=weights, chunk=40)
    next(whole)
    for count, spins in ((2, shared.SPINS), (3, shared.SPINS), (4, 0)):  # with 0 no thread waits for another
        share(count, spins)
        for text, one in zip(texts(), expected, strict=True):
            np.testing.assert_array_equal(text, one)
        stream = model.stream([1, 2], 40, seed=3, weights=weights, chunk=7)
        np.testing.assert_array_equal(np.concatenate(list(stream)), expected[0])
        for member, other in zip(unpack_state(stream.state), unpack_state(whole.state), strict=True):
            np.testing.assert_array_equal(member.numpy(), other.numpy())


@pytest.mark.needs_jit
def test_each_thread_computes_its_part_of_every_product(share: Callable[..., None]) -> None:
    share(2, 1 << 40)  # they wait for each other as long as it takes
    model = make_model("gru")
    stream = model.stream([1, 2, 3], 10, seed=1, chunk=10)
    next(stream)
    sampler: Any = stream._sampler
    steps = 3 + 10 - 1
    per_step = 2 * LAYERS + LAYERS - 1  # a GRU has two products with weight_hh; weight_ih, but for the first layer
    assert sampler._team[0][:: shared.LINE].tolist() == [steps * per_step + 10] * 2, "10 of the head"
    share(1)
    np.testing.assert_array_equal(model.generate([1, 2, 3], 10, seed=1), model.generate([1, 2, 3], 10, seed=1))


@pytest.mark.needs_jit
def test_threads_that_are_late_are_asked_less_and_less(share: Callable[..., None]) -> None:
    share(2, 0)
    stream = make_model("gru").stream([1], 10_000, seed=1, chunk=10)
    sampler: Any = stream._sampler
    runs = []
    for _ in range(60):
        next(stream)
        runs.append(sampler._pause)
    assert max(runs) > 200, runs
    assert len({run for run in runs if run > 0}) > 20, "a pause is counted in steps, over several calls"


@every_kind
def test_sampling_with_rounded_weights_is_sampling_from_the_rounded_model(cell: str | Cell, weights: Weights) -> None:
    model, prime = make_model(cell), [1, 5, 2]
    stream = model.stream(prime, 8, temperature=0, weights=weights)
    text = np.concatenate(list(stream))
    rounded = model.rounded(weights)
    logits, state = rounded(np.concatenate([prime, text[:-1]]))
    assert logits.numpy()[2:].argmax(1).tolist() == text.tolist()
    for member, other in zip(unpack_state(stream.state), unpack_state(state), strict=True):
        np.testing.assert_allclose(member.numpy()[:, 0], other.numpy(), atol=2e-4 if weights == "int8" else 1e-5)
    assert rounded.training == model.training
    for (name, array), old in zip(rounded.state_dict().items(), model.state_dict().values(), strict=True):
        kept = weights == "float32" or array.ndim < 2 or name in ("embedding.weight", "rnn.weight_ih_l0")
        assert kept == (array == old).all(), name
        np.testing.assert_allclose(array, old, atol=np.abs(old).max() / 127)


def test_int8_needs_the_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "has_int8", lambda: False)
    with pytest.raises(OptionError, match=r"weights: int8 needs a processor with VNNI .* use bfloat16"):
        make_model("lstm").generate([1], 2, weights="int8")
