"""Text classification: one label for a whole text, which is read as words or as characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.config import option
from minirnn.data.lines import Locations, read_classes, read_pairs
from minirnn.data.sequences import pad
from minirnn.data.tokenize import GLUE, Tokenizer
from minirnn.data.vocabulary import PAD, SPECIALS, UNK, Labels, Vocabulary
from minirnn.errors import DataError
from minirnn.metrics import confusion_matrix
from minirnn.models import ManyToOne
from minirnn.nn import functional as F
from minirnn.nn.state import State
from minirnn.tasks import base, fine_tuning
from minirnn.tasks.base import ExampleTask, Line, Prediction
from minirnn.tasks.fine_tuning import Indexed
from minirnn.tasks.outputs import class_facts, class_metrics, outputs_of
from minirnn.training import TrainingConfig

EVAL_BATCH_SIZE = 128
MAX_EVAL_TEXTS = 10_000  # of a larger validation set, evenly spaced texts are evaluated while training
MIN_WORDS = 2  # on average in a text, for level "auto" to read words
TOKEN_DROPOUT = 0.1
EMBEDDING_SIZES = {"word": 100, "char": 32}
EMBEDDING_STDS = {"word": 0.1, "char": 1.0}  # most words are too rare to move far from where they start
DROPOUTS = {"word": 0.6, "char": 0.3}


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(base.EmbeddingsConfig, base.BidirectionalConfig):
    """Options of :class:`Classifier`."""

    level: Literal["auto", "word", "char"] = option(
        "auto", f"Read words or characters; auto: characters if texts have less than {MIN_WORDS} words on average."
    )
    lower: bool | None = option(None, "Lower-case the texts; by default only words.", flags=("--lower/--keep-case",))
    min_count: int = option(1, "Words (or characters) that occur less often are unknown.", 1)
    max_words: int | None = option(None, "Size of the vocabulary: the most frequent words; all by default.", 1)
    max_length: int = option(500, "Words (or characters) of a text that are read; the rest is ignored.", 1)
    pooling: Literal["last", "mean", "max", "attention"] = option("max", "How outputs of all steps become one.")
    embedding_size: int | None = option(
        None, "Size of an embedding; 100 for words, 32 for characters.", 1, base.MAX_UNITS
    )
    dropout: float | None = option(None, "Fraction of outputs dropped; 0.6 for words, 0.3 for characters.", 0, 0.95)
    batch_size: int = 64


class LabelledTexts(NamedTuple):
    """Texts, the label of each, and where they were read."""

    texts: Sequence[str]
    labels: Sequence[str]
    where: Sequence[str] | Locations


def read_texts(sources: Sequence[str]) -> LabelledTexts:
    """Read labelled texts.

    Args:
        sources: files with a text, a tab and its label per line (``-`` is standard input), or one folder with a file
            for each label and a text per line.

    Raises:
        DataError: as :func:`~minirnn.data.lines.read_pairs` and :func:`~minirnn.data.lines.read_classes`.
    """
    folders = [source for source in sources if Path(source).is_dir()]
    if folders and len(sources) > 1:
        raise DataError(f"{folders[0]} is a folder; expected one folder alone, or files only")
    return LabelledTexts(*(read_classes(folders[0]) if folders else read_pairs(sources)))


def tokenize(tokenizer: Tokenizer, text: str, max_length: int) -> list[str]:
    """Return the first tokens of a text, without the marks that say what they touch (``don't``: ``don`` ``t``)."""
    tokens = tokenizer.split(text)[:max_length]
    if tokenizer.rule != "word":
        return tokens
    bare = [token.strip(GLUE) for token in tokens]
    return [token.rstrip("'\u2019") or token for token in bare]


class Classifier(ExampleTask[LabelledTexts, ClassifierConfig]):
    """A classifier of texts: sentiment, language, topic.

    In training every token is unknown with probability 0.1, besides those rarer than ``min_count``, which always are.

    Args:
        model: from tokens to logits of the labels.
        tokenizer, vocabulary: turn a text into tokens. labels: the classes.
        max_length: tokens of a text that are read.
    """

    name = "classifier"
    description = "a classifier"
    help = "Train a classifier of texts (sentiment, language, topic)."
    sources_help = (
        "Files with a text, a tab and its label per line (- is standard input), or a folder with a file for each label "
        "and a text per line."
    )
    unit = "texts"
    example = "minirnn predict {} 'a text'"
    Config = ClassifierConfig
    training = TrainingConfig(minutes=3, lr=1e-3)
    model: ManyToOne
    _train: list[np.ndarray]
    _classes: np.ndarray
    _validation: tuple[list[np.ndarray], np.ndarray]

    def __init__(
        self, model: ManyToOne, tokenizer: Tokenizer, vocabulary: Vocabulary, labels: Labels, max_length: int
    ) -> None:
        self.model, self.tokenizer, self.vocabulary, self.labels = model, tokenizer, vocabulary, labels
        self.max_length = max_length

    @classmethod
    def read(cls, sources: Sequence[str], config: ClassifierConfig) -> LabelledTexts:
        return read_texts(sources)

    @classmethod
    def _build(cls, data: LabelledTexts, config: ClassifierConfig, init_from: Self | None) -> Self:
        texts, names, where = data
        if len(set(names)) == 1:
            raise DataError(f"{where[0]}: every text has the label {names[0]!r}; expected two or more")
        train, held = base.split_by_label([{name} for name in names], config.val_fraction, config.seed, "text", where)
        words = sum(len(texts[n].split()) for n in train) / len(train)
        level = config.level
        if level == "auto":
            level = "word" if words >= MIN_WORDS else "char"
        tokenizer = Tokenizer(level, level == "word" if config.lower is None else config.lower)
        tokens = [tokenize(tokenizer, texts[n], config.max_length) for n in train]
        vocabulary = Vocabulary.of(tokens, config.min_count, config.max_words)
        labels = Labels.of(names[n] for n in train)
        if init_from is not None:
            vocabulary = init_from.vocabulary.union(vocabulary)
            labels = fine_tuning.merge_labels(init_from.labels, labels)
        random.manual_seed(config.seed)
        rows, found = base.read_vectors(vocabulary, config)
        size = (config.embedding_size or EMBEDDING_SIZES[level]) if rows is None else rows.shape[1]
        options = config.recurrent() | {"dropout": DROPOUTS[level] if config.dropout is None else config.dropout}
        model = ManyToOne(
            len(vocabulary), output_size=len(labels), pooling=config.pooling, embedding_size=size, **options
        )
        assert model.body.embedding is not None
        base.init_embedding(model.body.embedding.weight, rows, EMBEDDING_STDS[level])
        task = cls(model, tokenizer, vocabulary, labels, config.max_length)
        task.set_examples([len(t) for t in tokens], config)
        task._train, task._classes = [vocabulary.encode(t) for t in tokens], labels.encode([names[n] for n in train])
        held = held[base.evenly_spaced(len(held), MAX_EVAL_TEXTS)]
        task._validation = [task.encode(texts[n]) for n in held], labels.encode([names[n] for n in held])
        facts = config.subset("min_count", "max_words", "batch_size", "val_fraction", "seed")
        hashes = {"sha256": base.fingerprint(texts, names), "embeddings_sha256": base.fingerprint(rows)}
        task._data = {**hashes, "level": level, **facts}
        task.summary = (
            f"{len(texts):,} texts of {len(labels)} classes, {words:.1f} words on average; read as "
            f"{'words' if level == 'word' else 'characters'}, {len(vocabulary) - len(SPECIALS):,} different"
            f"{'' if rows is None else f', vectors for {found:,} of them'}"
        )
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        tokenizer = Tokenizer.from_config(config["tokenizer"])
        vocabulary, labels = Vocabulary.from_config(config["vocabulary"]), Labels.from_config(config["labels"])
        sizes = {"input_size": len(vocabulary), "output_size": len(labels)}
        model = base.rebuild(ManyToOne, config["model"] | sizes, arrays)
        return cls(model, tokenizer, vocabulary, labels, int(config["max_length"]))

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | {"level": self.tokenizer.rule, "lower": self.tokenizer.lower}

    def indexed(self) -> dict[str, Indexed]:
        return {"tokens": Indexed(self.vocabulary, ("body.embedding",)), "labels": Indexed(self.labels, ("head",))}

    def vocabulary_config(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).to_config() for name in ("tokenizer", "labels", "vocabulary")}
        return {"max_length": self.max_length, **parts}

    # ------------------------------------------------------------------------------------------- training

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        tokens, lengths = pad([self._train[n] for n in examples], PAD)
        unknown = random.uniform(*tokens.shape) < TOKEN_DROPOUT
        logits = self.model(np.where(unknown, UNK, tokens), lengths)
        return F.cross_entropy(logits, self._classes[examples]), len(examples)

    def evaluate(self) -> dict[str, float]:
        metrics = self.metrics(*self._validation)
        return {"val_loss": metrics.pop("loss"), **metrics}

    # ------------------------------------------------------------------------------------------------ use

    def encode(self, text: str) -> np.ndarray:
        """Return the numbers [T] of a text's tokens."""
        return self.vocabulary.encode(tokenize(self.tokenizer, text, self.max_length))

    def logits(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Return logits [N, C] of encoded texts; texts of similar length are batched."""
        none = np.zeros((0, len(self.labels)), next(self.model.parameters()).dtype)
        return np.concatenate([none, *outputs_of(self.model, texts, EVAL_BATCH_SIZE)])

    def metrics(self, texts: Sequence[np.ndarray], classes: np.ndarray) -> dict[str, float]:
        """Return ``loss``, ``accuracy`` and ``macro_f1`` of encoded texts, see :func:`.outputs.class_metrics`."""
        return class_metrics(self.logits(texts), classes, len(self.labels))

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, on files or a folder, see :func:`read_texts`."""
        texts, classes, _ = self._encoded(sources)
        return self.metrics(texts, classes)

    def confusion_matrix(self, sources: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Return how often each label was predicted for each, and their names.

        See :func:`minirnn.metrics.confusion_matrix`; labels that training never saw are the last ones.
        """
        texts, classes, names = self._encoded(sources)
        return confusion_matrix(self.logits(texts).argmax(1), classes, len(names)), names

    def _encoded(self, sources: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
        texts, names, where = read_texts(sources)
        classes, names = base.encode_labels(self.labels, names, where.__getitem__)
        return [self.encode(text) for text in texts], classes, names

    def predict_lines(self, lines: Sequence[Line], options: None = None) -> list[Prediction]:
        """Return the most likely label of each line, with the probabilities of all; label None for a blank line."""
        blank: dict[str, Any] = {"label": None, "probability": None, "probabilities": {}}
        found = [Prediction("", {"text": line.text, **blank}) for line in lines]
        filled = [n for n, line in enumerate(lines) if line.text.strip()]
        logits = self.logits([self.encode(lines[n].text) for n in filled])
        for n, row in zip(filled, logits, strict=True):
            facts = class_facts(self.labels.names, row)
            found[n] = Prediction(facts["label"], {"text": lines[n].text, **facts})
        return found

    def initial_state(self) -> State:
        return self.model.initial_state()

    def step(self, input: str, state: State) -> tuple[dict[str, float], State]:
        """Read the next word (or character), or several, and return the probability of each label for the text so far.

        Only of a model of one direction (``--one-way``). Any length is read, also above ``max_length``.

        Raises:
            DataError: there is no word in the input.
        """
        tokens = self.encode(base.check_text("step", input))
        if not tokens.size:
            raise DataError(f"step: expected a word or character, got {input!r}")
        for token in tokens:
            logits, state = self.model.step([token], state)
        return dict(zip(self.labels.names, base.softmax(logits.numpy()[0]), strict=True)), state
