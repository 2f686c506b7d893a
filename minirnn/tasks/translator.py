"""Translation: a sentence into a sentence of another length, word by word or character by character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.data.lines import Locations, read_pairs
from minirnn.data.sequences import Buckets, pad
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import END, PAD, START, UNK, Vocabulary
from minirnn.decode import Hypothesis
from minirnn.errors import DataError, OptionError
from minirnn.metrics import bleu, exact_match, words_13a
from minirnn.models.body import CellLike, Rates
from minirnn.models.encoder_decoder import EncoderDecoder, teacher_forcing_ratio
from minirnn.tasks.common import (
    ExampleTask,
    Line,
    Prediction,
    Predictor,
    fingerprint,
    random_split,
    rebuild,
)

NAME = "translator"
LEVELS = ("word", "char")

_BEAM, _LENGTH_PENALTY = 4, 1.0
_SMOOTHING = {"word": 0.1, "char": 0.0}  # of words several are right; of letters one
_AT_ONCE = 64  # sentences that go through the model together, except in training
_MOST_EVALUATED = 500  # pairs; of a larger validation set, evenly spread ones are evaluated while training
_BLEU_WORDS = 4  # its longest n-grams: shorter translations have none
_SHOWN = 4  # translations in a sample


class Translator(Predictor):
    """A trained translator: sentences in, sentences out.

    Where the model has attention, an unknown token that it writes is replaced by the token of the source with the
    largest weight (Luong et al. 2015, "Addressing the Rare Word Problem"; by attention: Jean et al. 2015): names and
    numbers pass through. Without attention it reads ``<unk>``.

    Args:
        tokenizer: of both languages. source, target: their vocabularies.
    """

    task: ClassVar[str] = NAME
    kind: ClassVar[str] = "a translator"
    options: ClassVar[frozenset[str]] = frozenset({"beam", "length_penalty", "max_length"})

    def __init__(self, model: EncoderDecoder, tokenizer: Tokenizer, source: Vocabulary, target: Vocabulary) -> None:
        self.model, self.tokenizer, self.source, self.target = model, tokenizer, source, target

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        tokenizer = Tokenizer.from_config(config["tokenizer"])
        source, target = (Vocabulary.from_config(config[side]) for side in ("source", "target"))
        sizes = {"source_size": len(source), "target_size": len(target)}
        model = rebuild(EncoderDecoder, config["model"] | sizes, arrays)
        return cls(model, tokenizer, source, target)

    def predict(
        self, lines: Sequence[Line], beam: int = _BEAM, length_penalty: float = _LENGTH_PENALTY,
        max_length: int | None = None,
    ) -> list[Prediction]:  # fmt: skip
        """The translation of every line; nothing of a line without a token.

        Args:
            beam: hypotheses kept; 1 is greedy.
            length_penalty: favours longer sentences the larger it is, see :func:`minirnn.decode.length_penalty`.
            max_length: tokens at most; where None, 10 more than twice the source has.
        """
        sources = [self.tokenizer.split(line.text) for line in lines]
        found = self._search(sources, beam, length_penalty, max_length)
        return [self._prediction(*one) for one in zip(lines, sources, found, strict=True)]

    def _prediction(self, line: Line, source: list[str], found: Hypothesis) -> Prediction:
        tokens = self._written(source, found)
        text = self.tokenizer.join(tokens)
        attention = None if found.attention is None else found.attention.astype(np.float64).round(4).tolist()
        return Prediction(text, {
            "source": line.text, "target": text, "score": found.score, "tokens": tokens, "source_tokens": source,
            "attention": attention,
        })  # fmt: skip

    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`measure`, on files of pairs.

        Raises:
            DataError: a file cannot be read, or a line is no pair.
        """
        texts, translations, where = read_pairs(sources)
        return self.measure(texts, translations, where)

    def measure(
        self, texts: Sequence[str], translations: Sequence[str], where: Sequence[str] | Locations, beam: int = _BEAM
    ) -> dict[str, float]:
        """How well ``texts`` are translated.

        Returns:
            ``loss``: nats a expected token, <end> counted, with teacher forcing and without label smoothing;
            ``exact_match``: the share of translations that are the expected ones, as the tokenizer normalises them;
            ``bleu``: from 0 to 100, against the expected translations as they are; left out where none of them has
            four words (of :func:`~minirnn.metrics.words_13a`), for then even perfect ones would have 0.
        """
        sources = _split(self.tokenizer, texts, where)
        targets = _split(self.tokenizer, translations, where)
        pairs = _Pairs(self.source, self.target, sources, targets)
        total = 0.0
        with self.model.evaluating():
            for batch in Buckets(pairs.lengths, _AT_ONCE).in_order():
                total += self.model.loss(*pairs.batch(batch), reduction="sum").item()
        found = self._search(sources, beam, _LENGTH_PENALTY, None)
        written = [self.tokenizer.join(self._written(*pair)) for pair in zip(sources, found, strict=True)]
        metrics = {
            "loss": total / pairs.expected,
            "exact_match": exact_match(written, [self.tokenizer.normalize(text) for text in translations]),
        }
        if any(len(words_13a(text)) >= _BLEU_WORDS for text in translations):
            metrics["bleu"] = bleu(written, translations)
        return metrics

    def _search(
        self, sources: Sequence[list[str]], beam: int, length_penalty: float, max_length: int | None
    ) -> list[Hypothesis]:
        """The best hypothesis for each source; sources of like length go through the model together."""
        nothing = None if self.model.attention is None else np.zeros((0, 0))
        found = [Hypothesis(np.zeros(0, np.int64), 0.0, 0.0, nothing)] * len(sources)
        filled = [n for n, tokens in enumerate(sources) if tokens]
        for places in Buckets([len(sources[n]) for n in filled], _AT_ONCE).in_order():
            batch = [filled[place] for place in places]
            tokens, lengths = pad([self.source.encode(sources[n]) for n in batch], PAD)
            best = self.model.generate(tokens, lengths, max_length, beam, length_penalty)
            for n, hypothesis in zip(batch, best, strict=True):
                found[n] = hypothesis
        return found

    def _written(self, source: list[str], found: Hypothesis) -> list[str]:
        """The tokens of a translation, the unknown ones replaced."""
        tokens = self.target.decode(found.tokens)
        if found.attention is not None:
            for n in np.flatnonzero(found.tokens == UNK):
                tokens[n] = source[found.attention[n].argmax()]
        return tokens


class TranslatorTask(ExampleTask):
    """A translator and the pairs it is trained on.

    Args:
        texts, translations: E of each.
        where: the file and line of each, for errors.
        level: "word" or "char": what a token is, see :class:`~minirnn.data.tokenize.Tokenizer`.
        lower: lower-case both sides.
        min_count, max_words: of both vocabularies, see :class:`~minirnn.data.vocabulary.Vocabulary`.
        hidden_size, num_layers, cell, bidirectional, embedding_size, dropout, attention, rates: of the model, see
            :class:`~minirnn.models.EncoderDecoder`; attention "none" for none.
        teacher_forcing, teacher_forcing_end, schedule: see
            :func:`~minirnn.models.encoder_decoder.teacher_forcing_ratio`; the end is 0 where None.
        draw: teacher forcing is drawn again at every "step", or once a "sequence".
        label_smoothing: of the training's loss, not of the validation's; where None, 0.1 for words, 0 for characters.
        batch_size: pairs in a batch.
        val_fraction: share of the pairs kept for validation, chosen by the seed.
        seed: also of the weights, the dropout masks and the order.

    Raises:
        DataError: there are too few pairs, or one of them has no token.
    """

    def __init__(
        self, texts: Sequence[str], translations: Sequence[str], where: Sequence[str] | Locations, level: str = "word",
        lower: bool = False, min_count: int = 2, max_words: int | None = None, hidden_size: int = 256,
        num_layers: int = 1, cell: CellLike = "lstm", bidirectional: bool = True, embedding_size: int = 256,
        dropout: float = 0.2, attention: str = "additive", teacher_forcing: float = 1.0,
        teacher_forcing_end: float | None = None, schedule: str = "constant", draw: str = "step",
        label_smoothing: float | None = None, batch_size: int = 64, val_fraction: float = 0.1, seed: int = 0,
        **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        if level not in LEVELS:
            raise OptionError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if schedule == "constant" and teacher_forcing_end is not None:
            raise OptionError("teacher forcing with a constant schedule has no end; choose another schedule")
        if label_smoothing is None:
            label_smoothing = _SMOOTHING[level]
        if not 0 <= label_smoothing <= 1:
            raise OptionError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
        tokenizer = Tokenizer(level, lower)
        sources, targets = (_split(tokenizer, side, where) for side in (texts, translations))
        train, validation = random_split(len(texts), val_fraction, seed)
        source, target = (
            Vocabulary.of((side[n] for n in train), min_count, max_words) for side in (sources, targets)
        )  # fmt: skip
        self.train = _Pairs(source, target, [sources[n] for n in train], [targets[n] for n in train])
        spread = validation[:: -(-len(validation) // _MOST_EVALUATED)]
        self._validation = tuple([side[n] for n in spread] for side in (texts, translations, where))
        super().__init__(self.train.lengths, batch_size, seed)
        random.manual_seed(seed)
        self.model = EncoderDecoder(
            len(source), len(target), hidden_size, num_layers, cell, embedding_size, bidirectional, dropout=dropout,
            attention=None if attention == "none" else attention, **rates,
        )  # fmt: skip
        self.translator = Translator(self.model, tokenizer, source, target)
        self._forcing = (schedule, teacher_forcing, teacher_forcing_end or 0.0)
        teacher_forcing_ratio(*self._forcing, 0.0)  # speaks up now where they are out of range
        self._draw, self._label_smoothing = draw, label_smoothing
        self._data = {
            "level": level, "lower": lower, "min_count": min_count, "max_words": max_words, "schedule": schedule,
            "teacher_forcing": teacher_forcing, "teacher_forcing_end": teacher_forcing_end, "draw": draw,
            "label_smoothing": label_smoothing, "batch_size": batch_size, "val_fraction": val_fraction, "seed": seed,
            "sha256": fingerprint(texts, translations),
        }  # fmt: skip

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        source, target, source_lengths, target_lengths = self.train.batch(examples)
        loss = self.model.loss(
            source, target, source_lengths, target_lengths, teacher_forcing_ratio(*self._forcing, progress),
            self._draw, self._label_smoothing,
        )  # fmt: skip
        return loss, int(target_lengths.sum()) - len(examples)

    def evaluate(self) -> dict[str, float]:
        texts, translations, where = self._validation
        metrics = self.translator.measure(texts, translations, where, beam=1)
        return {"val_loss": metrics.pop("loss"), **metrics}

    def sample(self) -> str:
        """Some translations of the validation set."""
        texts, _, where = self._validation
        lines = [Line(text, at) for text, at in zip(texts[:_SHOWN], where, strict=False)]
        return "\n".join(f"{p.facts['source']} -> {p.text}" for p in self.translator.predict(lines))

    def config(self) -> dict[str, Any]:
        translator = self.translator
        return {
            "task": NAME, "data": self._data, "model": self.model.config,
            "tokenizer": translator.tokenizer.to_config(), "source": translator.source.to_config(),
            "target": translator.target.to_config(),
        }  # fmt: skip


class _Pairs:
    """Sentences as numbers, targets with <start> and <end>.

    Attributes:
        lengths: of the sources and of the targets, [E] each. expected: tokens to be predicted.
    """

    def __init__(
        self, source: Vocabulary, target: Vocabulary, sources: Sequence[list[str]], targets: Sequence[list[str]]
    ) -> None:
        self._sources = [source.encode(tokens) for tokens in sources]
        self._targets = [np.array([START, *target.encode(tokens), END]) for tokens in targets]
        self.lengths = tuple(np.array([len(one) for one in side]) for side in (self._sources, self._targets))
        self.expected = int(self.lengths[1].sum()) - len(targets)

    def __len__(self) -> int:
        return len(self._sources)

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sources [S, N], targets [T, N], and the lengths [N] of each."""
        source, source_lengths = pad([self._sources[n] for n in rows], PAD)
        target, target_lengths = pad([self._targets[n] for n in rows], PAD)
        return source, target, source_lengths, target_lengths


def _split(tokenizer: Tokenizer, texts: Sequence[str], where: Sequence[str] | Locations) -> list[list[str]]:
    """The tokens of every text.

    Raises:
        DataError: there are none in one.
    """
    tokens = [tokenizer.split(text) for text in texts]
    for n, one in enumerate(tokens):
        if not one:
            raise DataError(f"{where[n]}: there is no token in {texts[n]!r}")
    return tokens
