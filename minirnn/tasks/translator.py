"""Translation: a sentence into a sentence of another length, word by word or character by character."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.config import Config, option
from minirnn.data.lines import Locations, read_pairs
from minirnn.data.sequences import Buckets, pad
from minirnn.data.tokenize import Tokenizer
from minirnn.data.vocabulary import END, PAD, START, UNK, Vocabulary
from minirnn.decode import Hypothesis
from minirnn.errors import DataError, OptionError
from minirnn.metrics import bleu, exact_match, words_13a
from minirnn.models import EncoderDecoder
from minirnn.models.encoder_decoder import teacher_forcing_ratio
from minirnn.tasks import base
from minirnn.tasks.base import ExampleTask, Line, Prediction
from minirnn.tasks.fine_tuning import Indexed
from minirnn.training import TrainingConfig

EVAL_BATCH_SIZE = 64
MAX_EVAL_PAIRS = 500  # of a larger validation set, evenly spaced pairs are evaluated while training
LABEL_SMOOTHING = {"word": 0.1, "char": 0.0}  # several words may be right, but only one letter
_BLEU_WORDS = 4  # its longest n-grams: shorter translations have none
_SAMPLES = 4


@dataclass(frozen=True, kw_only=True)
class TeacherForcingConfig(base.BidirectionalConfig):
    """How often the decoder reads the target in training, rather than its own output."""

    group = "Teacher forcing"
    teacher_forcing: float = option(1.0, "Probability that a step reads the target.", 0, 1)
    teacher_forcing_end: float | None = option(None, "The same at the end of the schedule; by default 0.", 0, 1)
    schedule: Literal["constant", "linear", "inverse-sigmoid"] = option("constant", "How it changes in training.")
    draw: Literal["step", "sequence"] = option("step", "Draw it for every step, or once per sequence.")


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig(TeacherForcingConfig):
    """Options of :class:`Translator`."""

    group = "Model"
    level: Literal["word", "char"] = option("word", "Whether a token is a word or a character.", group="Data")
    lower: bool = option(False, "Lower-case both sides.", flags=("--lower/--keep-case",), group="Data")
    min_count: int = option(2, "Tokens that occur less often are unknown.", 1, group="Data")
    max_words: int | None = option(None, "Tokens in each vocabulary; all by default.", 1, group="Data")
    attention: Literal["additive", "dot", "none"] = option("additive", "How the decoder attends to the source.")
    embedding_size: int = option(256, "Size of the embedding of a token; 0 for one-hot vectors.", 0, base.MAX_UNITS)
    hidden_size: int = 256
    dropout: float = 0.2
    label_smoothing: float | None = option(
        None, "Probability spread over all tokens; by default 0.1 for words, 0 for characters.", 0, 1, group="Training"
    )
    batch_size: int = 64


@dataclass(frozen=True, kw_only=True)
class TranslateConfig(Config):
    """Options of :meth:`Translator.predict_lines`."""

    group = "Translator"
    beam: int = option(4, "Width of the beam search; 1 is greedy.", 1)
    length_penalty: float = option(1.0, "The larger, the longer the translations.", 0)
    max_length: int | None = option(None, "Maximum number of tokens; by default twice that of the source, plus 10.", 1)


class Pairs(NamedTuple):
    """Texts, the translation of each, and where they were read."""

    texts: Sequence[str]
    translations: Sequence[str]
    where: Sequence[str] | Locations

    def pick(self, numbers: np.ndarray) -> Pairs:
        """Return some of the pairs."""
        return Pairs(*([column[n] for n in numbers] for column in self))


class EncodedPairs:
    """Pairs as numbers, targets with <start> and <end>.

    Attributes:
        lengths: of the sources and of the targets, [E] each. num_targets: tokens to predict.
    """

    def __init__(
        self, source: Vocabulary, target: Vocabulary, sources: Sequence[list[str]], targets: Sequence[list[str]]
    ) -> None:
        self._sources = [source.encode(tokens) for tokens in sources]
        self._targets = [np.array([START, *target.encode(tokens), END]) for tokens in targets]
        self.lengths = tuple(np.array([len(one) for one in side]) for side in (self._sources, self._targets))
        self.num_targets = int(self.lengths[1].sum()) - len(targets)

    def __len__(self) -> int:
        return len(self._sources)

    def batch(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return sources [S, N], targets [T, N], and the lengths [N] of each."""
        source, source_lengths = pad([self._sources[n] for n in rows], PAD)
        target, target_lengths = pad([self._targets[n] for n in rows], PAD)
        return source, target, source_lengths, target_lengths


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str], where: Sequence[str] | Locations) -> list[list[str]]:
    """The tokens of every text.

    Raises:
        DataError: a text has none.
    """
    tokens = [tokenizer.split(text) for text in texts]
    for n, one in enumerate(tokens):
        if not one:
            raise DataError(f"{where[n]}: there is no token in {texts[n]!r}")
    return tokens


class Translator(ExampleTask[Pairs, TranslatorConfig]):
    """A translator of sentences: an encoder-decoder with attention.

    Where the model has attention, an unknown token in the output is replaced by the token of the source with the
    largest weight (Luong et al. 2015, "Addressing the Rare Word Problem"; by attention: Jean et al. 2015): names and
    numbers pass through. Without attention it reads ``<unk>``.

    Args:
        tokenizer: of both languages. source, target: their vocabularies.
    """

    name = "translator"
    description = "a translator"
    help = "Train an encoder-decoder on pairs of sentences. val_loss has teacher forcing and no label smoothing."
    sources_help = "Files with a sentence, a tab and its translation per line; - is standard input."
    unit = "tokens"
    example = "minirnn predict {} 'a sentence'"
    Config = TranslatorConfig
    PredictConfig = TranslateConfig
    training = TrainingConfig(minutes=10, lr=3e-3)
    model: EncoderDecoder
    _train: EncodedPairs
    _validation: Pairs
    _config: TranslatorConfig

    def __init__(self, model: EncoderDecoder, tokenizer: Tokenizer, source: Vocabulary, target: Vocabulary) -> None:
        self.model, self.tokenizer, self.source, self.target = model, tokenizer, source, target

    @classmethod
    def read(cls, sources: Sequence[str], config: TranslatorConfig) -> Pairs:
        return Pairs(*read_pairs(sources))

    @classmethod
    def _build(cls, data: Pairs, config: TranslatorConfig, init_from: Self | None) -> Self:
        if config.schedule == "constant" and config.teacher_forcing_end is not None:
            raise OptionError("teacher_forcing_end: a constant schedule has no end; choose another schedule")
        smoothing = LABEL_SMOOTHING[config.level] if config.label_smoothing is None else config.label_smoothing
        config = config.replace(label_smoothing=smoothing)
        tokenizer = Tokenizer(config.level, config.lower)
        sources, targets = (_tokenize(tokenizer, side, data.where) for side in (data.texts, data.translations))
        train, held = base.random_split(len(data.texts), config.val_fraction, config.seed)
        sources, targets = ([side[n] for n in train] for side in (sources, targets))
        source, target = (Vocabulary.of(side, config.min_count, config.max_words) for side in (sources, targets))
        if init_from is not None:
            source, target = init_from.source.union(source), init_from.target.union(target)
        random.manual_seed(config.seed)
        attention = None if config.attention == "none" else config.attention
        options = {"embedding_size": config.embedding_size, "attention": attention, **config.recurrent()}
        task = cls(EncoderDecoder(len(source), len(target), **options), tokenizer, source, target)
        task._train, task._config = EncodedPairs(source, target, sources, targets), config
        task.set_examples(task._train.lengths, config)
        task._validation = data.pick(held[base.evenly_spaced(len(held), MAX_EVAL_PAIRS)])
        names = ("level", "lower", "min_count", "max_words", "label_smoothing", "batch_size", "val_fraction", "seed")
        forcing = config.subset("teacher_forcing", "teacher_forcing_end", "schedule", "draw")
        sha256 = base.fingerprint(data.texts, data.translations)
        task._data = {"sha256": sha256, **config.subset(*names), **forcing}
        sizes = f"{len(source):,} and {len(target):,} different tokens"
        task.summary = f"{len(task._train):,} pairs to train on, {sizes}"
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        tokenizer = Tokenizer.from_config(config["tokenizer"])
        source, target = (Vocabulary.from_config(config[side]) for side in ("source", "target"))
        sizes = {"source_size": len(source), "target_size": len(target)}
        return cls(base.rebuild(EncoderDecoder, config["model"] | sizes, arrays), tokenizer, source, target)

    def architecture(self) -> dict[str, Any]:
        read = {"level": self.tokenizer.rule, "lower": self.tokenizer.lower}
        return super().architecture() | read | {"attention": self.model.config["attention"] or "none"}

    def indexed(self) -> dict[str, Indexed]:
        tables = [  # one-hot tokens are read by the first layer itself
            f"{side}.{'rnn.weight_ih_l0' if body.embedding is None else 'embedding'}"
            for side, body in (("encoder", self.model.encoder), ("decoder", self.model.decoder))
        ]
        return {
            "source tokens": Indexed(self.source, tables[:1]),
            "target tokens": Indexed(self.target, [tables[1], "head"]),
        }

    def vocabulary_config(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_config() for name in ("tokenizer", "source", "target")}

    # ------------------------------------------------------------------------------------------- training

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        config, batch = self._config, self._train.batch(examples)
        end = config.teacher_forcing_end or 0.0
        ratio = teacher_forcing_ratio(config.schedule, config.teacher_forcing, end, progress)
        loss = self.model.loss(*batch, ratio, config.draw, config.label_smoothing or 0.0)
        return loss, int(batch[3].sum()) - len(examples)

    def evaluate(self) -> dict[str, float]:
        metrics = self.metrics(self._validation, beam=1)
        return {"val_loss": metrics.pop("loss"), **metrics}

    def sample_output(self) -> str:
        lines = [Line(text) for text in self._validation.texts[:_SAMPLES]]
        return "\n".join(f"{p.facts['source']} -> {p.text}" for p in self.predict_lines(lines))

    # ------------------------------------------------------------------------------------------------ use

    def predict_lines(self, lines: Sequence[Line], options: TranslateConfig | None = None) -> list[Prediction]:
        """Return the translation of each line; empty for a line without a token."""
        sources = [self.tokenizer.split(line.text) for line in lines]
        found = self._search(sources, options or TranslateConfig())
        return [self._prediction(*one) for one in zip(lines, sources, found, strict=True)]

    def _prediction(self, line: Line, source: list[str], found: Hypothesis) -> Prediction:
        tokens = self._decoded(source, found)
        text = self.tokenizer.join(tokens)
        attention = None if found.attention is None else found.attention.astype(np.float64).round(4).tolist()
        facts = {"source": line.text, "target": text, "score": found.score, "tokens": tokens}
        return Prediction(text, {**facts, "source_tokens": source, "attention": attention})

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, on files of pairs."""
        return self.metrics(Pairs(*read_pairs(sources)))

    def metrics(self, data: Pairs, beam: int = 4) -> dict[str, float]:
        """Return how well texts are translated.

        Returns:
            ``loss``: nats per target token, <end> included, with teacher forcing and without label smoothing;
            ``exact_match``: fraction of translations that are the target, as the tokenizer normalises it;
            ``bleu``: from 0 to 100, of the targets as they are; left out where no target has four words (of
            :func:`~minirnn.metrics.words_13a`), since even perfect translations would then have 0.
        """
        sources = _tokenize(self.tokenizer, data.texts, data.where)
        targets = _tokenize(self.tokenizer, data.translations, data.where)
        pairs = EncodedPairs(self.source, self.target, sources, targets)
        total = 0.0
        with self.model.evaluating():
            for batch in Buckets(pairs.lengths, EVAL_BATCH_SIZE).in_order():
                total += self.model.loss(*pairs.batch(batch), reduction="sum").item()
        found = self._search(sources, TranslateConfig(beam=beam))
        output = [self.tokenizer.join(self._decoded(*pair)) for pair in zip(sources, found, strict=True)]
        normalized = [self.tokenizer.normalize(text) for text in data.translations]
        metrics = {"loss": total / pairs.num_targets, "exact_match": exact_match(output, normalized)}
        if any(len(words_13a(text)) >= _BLEU_WORDS for text in data.translations):
            metrics["bleu"] = bleu(output, data.translations)
        return metrics

    def _search(self, sources: Sequence[list[str]], options: TranslateConfig) -> list[Hypothesis]:
        """The best hypothesis for each source; sources of similar length are batched."""
        attention = None if self.model.attention is None else np.zeros((0, 0))
        found = [Hypothesis(np.zeros(0, np.int64), 0.0, 0.0, attention)] * len(sources)
        filled = [n for n, tokens in enumerate(sources) if tokens]
        for indices in Buckets([len(sources[n]) for n in filled], EVAL_BATCH_SIZE).in_order():
            batch = [filled[index] for index in indices]
            tokens, lengths = pad([self.source.encode(sources[n]) for n in batch], PAD)
            best = self.model.generate(tokens, lengths, options.max_length, options.beam, options.length_penalty)
            for n, hypothesis in zip(batch, best, strict=True):
                found[n] = hypothesis
        return found

    def _decoded(self, source: list[str], found: Hypothesis) -> list[str]:
        """The tokens of a translation, unknown ones replaced."""
        tokens = self.target.decode(found.tokens)
        if found.attention is not None:
            for n in np.flatnonzero(found.tokens == UNK):
                tokens[n] = source[found.attention[n].argmax()]
        return tokens
