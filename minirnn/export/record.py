"""Inputs and outputs of a model, which an exported program computes again to test itself."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import numpy as np

from minirnn.data.vocabulary import END, SPECIALS, START
from minirnn.models import CharLM, EncoderDecoder, ManyToMany, ManyToOne, OneToMany, OneToOne
from minirnn.models.body import Body
from minirnn.tasks.tagger import Batch, TaggerModel

STEPS = 12
"""Steps of a recorded sequence."""

Record = dict[str, np.ndarray]


@singledispatch
def record(model: Any, seed: int = 0) -> Record:
    """Return random inputs of one sequence, and what the model makes of them in evaluation.

    Args:
        seed: the same seed gives the same inputs.

    Returns:
        ``input``: tokens [T], vectors [T, I], or the first input [I]; for words of a tagger also ``characters`` [C, T]
        and ``sizes`` [T]. ``output``: [T, O], or [O]. Of an encoder-decoder ``target`` [U], the tokens of a greedy
        search without <end>, and ``output`` [U + 1, V], the log-probabilities of each and of what comes after them.
    """
    raise TypeError(f"expected a model of minirnn.models, got {type(model).__name__}")


def _input(body: Body, seed: int) -> np.ndarray:
    """Tokens [T, 1] or vectors [T, 1, I]."""
    rng, size = np.random.default_rng(seed), body.input_size
    if body.takes_tokens:
        return rng.integers(0, size, (STEPS, 1))
    return rng.standard_normal((STEPS, 1, size)).astype(next(body.parameters()).dtype)


@record.register
def _(model: CharLM, seed: int = 0) -> Record:
    tokens = _input(model, seed)
    with model.evaluating():
        return {"input": tokens[:, 0], "output": model(tokens)[0].numpy()[:, 0]}


@record.register
def _(model: ManyToMany, seed: int = 0) -> Record:
    x = _input(model.body, seed)
    with model.evaluating():
        return {"input": x[:, 0], "output": model(x)[0].numpy()[:, 0]}


@record.register
def _(model: ManyToOne, seed: int = 0) -> Record:
    x = _input(model.body, seed)
    with model.evaluating():
        return {"input": x[:, 0], "output": model(x).numpy()[0]}


@record.register
def _(model: OneToMany, seed: int = 0) -> Record:
    weight = model.start.weight
    first = np.random.default_rng(seed).standard_normal((1, weight.shape[1])).astype(weight.dtype)
    with model.evaluating():
        return {"input": first[0], "output": model(first, length=STEPS).numpy()[:, 0]}


@record.register
def _(model: OneToOne, seed: int = 0) -> Record:
    parameter = next(model.parameters())
    x = np.random.default_rng(seed).standard_normal((1, parameter.shape[1])).astype(parameter.dtype)
    with model.evaluating():
        return {"input": x[0], "output": model(x).numpy()[0]}


@record.register
def _(model: EncoderDecoder, seed: int = 0) -> Record:
    rng = np.random.default_rng(seed)
    source = rng.integers(min(len(SPECIALS), model.source_size - 1), model.source_size, (STEPS, 1))
    target = model.generate(source)[0].tokens
    target = target[target != END]
    with model.evaluating():
        memory, state = model.encode(source)
        h, _, _ = model.decode(np.array([START, *target])[:, None], memory, state)
        return {"input": source[:, 0], "target": target, "output": model.head(h).log_softmax(-1).numpy()[:, 0]}


@record.register
def _(model: TaggerModel, seed: int = 0) -> Record:
    rng, words, letters = np.random.default_rng(seed), model.embedding.num_embeddings, model.spelling.input_size
    sizes = rng.integers(1, STEPS, STEPS)
    characters = np.where(np.arange(STEPS)[:, None] < sizes, rng.integers(0, letters, (STEPS, STEPS)), 0)
    tokens, forms = rng.integers(0, words, (STEPS, 1)), np.arange(STEPS)[:, None]
    with model.evaluating():
        output = model(Batch(tokens, forms, characters, sizes, np.array([STEPS]))).numpy()
    return {"input": tokens[:, 0], "characters": characters, "sizes": sizes, "output": output}
