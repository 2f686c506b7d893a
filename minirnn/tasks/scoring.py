"""Scoring: how likely a language model finds a given text, symbol by symbol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minirnn.data.text import Symbols
from minirnn.models import CharLM
from minirnn.nn.functional import log_softmax
from minirnn.nn.state import State
from minirnn.validation import check_int

_STEPS = 512  # computed at once, so that memory does not grow with the text


@dataclass(frozen=True)
class Score:
    """How likely a model finds a text.

    Attributes:
        text: as it was given.
        unknown: those of its symbols that the model does not know, each once, as a string of characters or a list of
            words. Characters are left out of all that follows, words are read as ``<unk>``.
        symbols: [S] strings; a byte that is no ASCII character is written as ``\\xe4``.
        nats: [S] float64, ``-ln p`` of each symbol given all before it.
        alternatives: [S][k], for each place the symbols that the model found most likely there, with their
            probabilities, the most likely first.
    """

    text: str
    unknown: Sequence[str]
    symbols: list[str]
    nats: np.ndarray
    alternatives: list[list[tuple[str, float]]]

    @property
    def nats_per_symbol(self) -> float:
        """The mean of ``nats``, as the ``loss`` of ``measure``; NaN where there is no symbol."""
        return float(self.nats.mean()) if self.nats.size else math.nan

    @property
    def bits_per_symbol(self) -> float:
        """``nats_per_symbol / ln 2``."""
        return self.nats_per_symbol / math.log(2)

    @property
    def perplexity(self) -> float:
        """``exp(nats_per_symbol)``, the number of equally likely symbols that would be as hard to guess."""
        return perplexity(self.nats_per_symbol)


def perplexity(nats: float) -> float:
    """``exp(nats)``, infinite where a float is too small for it."""
    return math.inf if nats > 700 else math.exp(nats)


class Scorer:
    """Reads a text piece by piece and scores it; the state is carried from piece to piece.

    ``-ln p(x_1 ... x_S) = sum_t -ln p(x_t | x_1 ... x_(t-1))``, computed by the sequence kernels, some hundred steps at
    once: memory grows with the piece, not with the text.

    Args:
        model, symbols: predicts the next token; what the tokens stand for.
        prime: [P] tokens that come before the text, at least one; they are not scored.
        alternatives: the number k of most likely symbols to report for each place; V where there are fewer.

    Attributes:
        log_probs: [V] log-probabilities of the next symbol.
        state: of the model after all that was read.

    Raises:
        OptionError: ``alternatives`` is not an int of at least 0.

    >>> scorer = generator.scorer()  # doctest: +SKIP
    >>> [score.bits_per_symbol for score in scorer(["first line\\n", "second line\\n"])]  # doctest: +SKIP
    """

    def __init__(self, model: CharLM, symbols: Symbols, prime: np.ndarray, alternatives: int = 0) -> None:
        self.model, self.symbols = model, symbols
        self._alternatives = min(check_int("score: alternatives", alternatives, 0), len(symbols))
        self.state: State = None
        self.log_probs = np.full(len(symbols), -math.log(len(symbols)), np.float32)
        self.read(prime)

    def read(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read tokens [S] as the next part of the text.

        Returns:
            ``-ln p`` of each [S], float64; the most likely tokens in its place [S, k] and their probabilities [S, k].
        """
        count = self._alternatives
        nats, best = np.empty(tokens.size), np.empty((tokens.size, count), np.int64)
        probabilities = np.empty((tokens.size, count))
        for start in range(0, tokens.size, _STEPS):
            part = slice(start, start + _STEPS)
            with self.model.evaluating():
                logits, self.state = self.model(tokens[part, None], self.state)
                after = log_softmax(logits[:, 0]).numpy()
            before = np.concatenate([self.log_probs[None], after[:-1]])
            self.log_probs = after[-1].copy()
            nats[part] = -before[np.arange(len(before)), tokens[part]]
            best[part] = largest(before, count)
            probabilities[part] = np.exp(np.take_along_axis(before, best[part], axis=1))
        return nats, best, probabilities

    def __call__(self, pieces: Sequence[str]) -> list[Score]:
        """Return a score for each of some consecutive pieces of the text, such as lines with their line ends."""
        tokens = [self.symbols.encode(piece) for piece in pieces]
        nats, best, probabilities = self.read(np.concatenate([np.empty(0, np.uint8), *tokens]))
        symbol, scores, end = self.symbols.symbol, [], 0
        for piece, own in zip(pieces, tokens, strict=True):
            part = slice(end, end := end + own.size)
            alternatives = [
                list(zip(map(symbol, row), chances, strict=True))
                for row, chances in zip(best[part].tolist(), probabilities[part].tolist(), strict=True)
            ]
            symbols = list(map(symbol, own.tolist()))
            scores.append(Score(piece, self.symbols.missing(piece), symbols, nats[part], alternatives))
        return scores


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places [S, count] of the largest of ``values`` [S, V] in each row, the largest first."""
    if count < values.shape[1]:
        found = np.argpartition(-values, count, axis=1)[:, :count]
    else:
        found = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)
