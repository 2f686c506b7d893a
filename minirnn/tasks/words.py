"""Language models of words: as those of characters, but for how text is read, and what they are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from minirnn.config import option
from minirnn.data.corpus import read_words, split_evenly
from minirnn.data.text import Symbols, Words
from minirnn.tasks.char import Corpus, TextConfig, TextGenerator, store_once
from minirnn.training import TrainingConfig

VAL_WORDS, MAX_VAL_WORDS = 500, 1 << 14  # in a piece of the validation set, and in all of it


@dataclass(frozen=True, kw_only=True)
class WordsConfig(TextConfig):
    """Options of :class:`WordGenerator`."""

    lower: bool = option(False, "Lower-case the text.", flags=("--lower/--keep-case",), group="Data")
    min_count: int = option(2, "Words that occur less often are unknown.", 1, group="Data")
    max_words: int | None = option(10_000, "Size of the vocabulary: the most frequent words.", 1, group="Data")
    tie_weights: bool = option(
        True, "One matrix for input and output embeddings, or two.", flags=("--tie-weights/--two-embeddings",)
    )
    num_layers: int = 1
    dropout: float = 0.5
    val_fraction: float = 0.05

    def recurrent(self) -> dict[str, Any]:
        return super().recurrent() | {"tie_weights": self.tie_weights}


class WordGenerator(TextGenerator):
    """A language model of words: learns to predict the next word of a text, and writes text of its own.

    Words that are not in its vocabulary are read as ``<unk>``, which it never writes.

    Args:
        model: predicts the next token.
        symbols: what the tokens stand for.

    >>> generator = WordGenerator.load("checkpoints/corpus/best.safetensors")  # doctest: +SKIP
    >>> generator.sample("To be", 50, seed=1)  # doctest: +SKIP
    """

    name = "words"
    description = "a word model"
    help = "Train a language model of words on text. Pieces all over the text are the validation set."
    Config = WordsConfig
    metric = "perplexity"
    training = TrainingConfig(minutes=5, lr=3e-3)

    @classmethod
    def read(cls, sources: Sequence[str], config: Any) -> Corpus:
        return Corpus(*read_words(sources, None, config.lower, store_once))

    @classmethod
    def _build(cls, data: Corpus, config: Any, init_from: Self | None) -> Self:
        task = super()._build(data, config, init_from)
        task._data |= config.subset("lower", "min_count", "max_words")
        return task

    @classmethod
    def _vocabulary(cls, data: Corpus, config: Any) -> Symbols:
        assert isinstance(data.symbols, Words)
        return data.symbols.most_frequent(data.tokens, config.min_count, config.max_words)

    @classmethod
    def _split(cls, tokens: np.ndarray, cut: int) -> tuple[np.ndarray, np.ndarray]:
        """Take pieces of :data:`VAL_WORDS` words, evenly spaced, to validate with, :data:`MAX_VAL_WORDS` at most.

        The end of a text has words of its own, which a model that goes on from there should know.
        """
        size = min(tokens.size - cut, MAX_VAL_WORDS)
        count = max(1, round(size / VAL_WORDS))
        return split_evenly(tokens, count, size // count, store_once)

    def _reading(self) -> dict[str, Any]:
        assert isinstance(self.symbols, Words)
        return {"lower": self.symbols.tokenizer.lower}

    def sample_output(self) -> str:
        return self.sample(length=100, seed=0)
