"""Text classification: one label for a whole text, which is read as words or as characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.data.lines import Where, read_classes, read_pairs
from minirnn.data.sequences import Buckets, pad
from minirnn.data.tokenize import GLUE, Tokenizer
from minirnn.data.vocabulary import PAD, SPECIALS, UNK, Labels, Vocabulary
from minirnn.errors import DataError, OptionError
from minirnn.metrics import accuracy, macro_f1
from minirnn.models.body import CellLike, Rates
from minirnn.models import ManyToOne
from minirnn.nn import functional as F
from minirnn.tasks.common import (
    ExampleTask,
    Line,
    Prediction,
    Predictor,
    begin_with,
    fingerprint,
    random_split,
    read_vectors,
    rebuild,
)

NAME = "classifier"
LEVELS = ("auto", "word", "char")

_FEWEST_WORDS = 2  # on average in a text, for reading words where the level is "auto"
_EMBEDDING_SIZES = {"word": 100, "char": 32}
_SPREADS = {"word": 0.1, "char": 1.0}  # standard deviation of the first embeddings: most words are too rare to move far
_DROPOUTS = {"word": 0.6, "char": 0.3}
_TOKEN_DROPOUT = 0.1
_AT_ONCE = 128  # texts of a batch that nothing is learnt from
_MOST_EVALUATED = 10_000  # texts; of a larger validation set, evenly spread ones are evaluated while training

# ------------------------------------------------------------------------------------------------------- data


def read_texts(sources: Sequence[str]) -> tuple[list[str], list[str], Where]:
    """Texts, the label of each, and where they stand.

    Args:
        sources: files with a text, a tab and its label a line (``-`` is standard input), or one folder with a file
            for every label and a text a line.

    Raises:
        DataError: as :func:`~minirnn.data.lines.read_pairs` and :func:`~minirnn.data.lines.read_classes`.
    """
    folders = [source for source in sources if Path(source).is_dir()]
    if folders and len(sources) > 1:
        raise DataError(f"{folders[0]} is a folder; expected one folder alone, or files only")
    return read_classes(folders[0]) if folders else read_pairs(sources)


def tokens_of(tokenizer: Tokenizer, text: str, max_length: int) -> list[str]:
    """The first tokens of a text; words and symbols are the same whatever they touch (``don't``: ``don`` ``t``)."""
    tokens = tokenizer.split(text)[:max_length]
    if tokenizer.rule != "word":
        return tokens
    bare = [token.strip(GLUE) for token in tokens]
    return [token.rstrip("'\u2019") or token for token in bare]


def _numbers(labels: Labels, names: Sequence[str], where: Sequence[str] | Where) -> np.ndarray:
    """The number of every label.

    Raises:
        DataError: one of them is none of ``labels``; says where.
    """
    try:
        return labels.encode(names)
    except DataError as error:
        strange = next(n for n, name in enumerate(names) if name not in labels.names)
        raise DataError(f"{where[strange]}: {error}") from None


def _split(labels: Sequence[str], fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which texts to train on and which to validate with; those whose label nothing else has are trained on."""
    train, held = random_split(len(labels), fraction, seed)
    known = {labels[n] for n in train}
    strange = np.array([labels[n] not in known for n in held])
    return np.union1d(train, held[strange]), held[~strange]


# ------------------------------------------------------------------------------------------------------- model


class Classifier(Predictor):
    """A trained classifier: texts in, labels out.

    Args:
        model: from tokens to logits of the labels.
        tokenizer, vocabulary: how a text becomes tokens.
        max_length: tokens of a text that are read; what comes after them does not count.
    """

    task: ClassVar[str] = NAME
    kind: ClassVar[str] = "a classifier"

    def __init__(
        self, model: ManyToOne, tokenizer: Tokenizer, vocabulary: Vocabulary, labels: Labels, max_length: int
    ) -> None:
        self.model, self.tokenizer, self.vocabulary, self.labels = model, tokenizer, vocabulary, labels
        self.max_length = max_length

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        tokenizer = Tokenizer.from_config(config["tokenizer"])
        vocabulary, labels = Vocabulary.from_config(config["vocabulary"]), Labels.from_config(config["labels"])
        sizes = {"input_size": len(vocabulary), "output_size": len(labels)}
        model = rebuild(ManyToOne, config["model"] | sizes, arrays)
        return cls(model, tokenizer, vocabulary, labels, int(config["max_length"]))

    def to_config(self) -> dict[str, Any]:
        """What :meth:`load` makes it of, beside the weights."""
        return {
            "model": self.model.config, "max_length": self.max_length, "tokenizer": self.tokenizer.to_config(),
            "labels": self.labels.to_config(), "vocabulary": self.vocabulary.to_config(),
        }  # fmt: skip

    def encode(self, text: str) -> np.ndarray:
        """The numbers [t] of a text's tokens."""
        return self.vocabulary.encode(tokens_of(self.tokenizer, text, self.max_length))

    def logits(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Logits [N, C] of texts as numbers; texts of like length go through the model together."""
        found = np.zeros((len(texts), len(self.labels)), next(self.model.parameters()).dtype)
        with self.model.evaluating():
            for batch in Buckets([len(text) for text in texts], _AT_ONCE).in_order():
                found[batch] = self.model(*pad([texts[n] for n in batch], PAD)).numpy()
        return found

    def predict(self, lines: Sequence[Line]) -> list[Prediction]:
        """The most likely label of every line, and the probability of each; of a blank line nothing, as label None."""
        found = [Prediction("", {"text": line.text, "label": None}) for line in lines]
        filled = [n for n, line in enumerate(lines) if line.text.strip()]
        logits = self.logits([self.encode(lines[n].text) for n in filled])
        probabilities = F.softmax(logits.astype(np.float64), 1).numpy()
        for n, each in zip(filled, probabilities, strict=True):
            found[n] = self._prediction(lines[n].text, each)
        return found

    def _prediction(self, text: str, probabilities: np.ndarray) -> Prediction:
        each = dict(zip(self.labels.names, probabilities.tolist(), strict=True))
        label = max(each, key=each.__getitem__)
        return Prediction(label, {"text": text, "label": label, "probability": each[label], "probabilities": each})

    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`measure`, on data like that of the training, see :func:`read_texts`.

        Raises:
            DataError: a source cannot be read, or a label was not in the training data; says where.
        """
        texts, labels, where = read_texts(sources)
        classes = _numbers(self.labels, labels, where)
        return self.measure([self.encode(text) for text in texts], classes)

    def measure(self, texts: Sequence[np.ndarray], classes: np.ndarray) -> dict[str, float]:
        """Mean loss in nats per text, the share of texts with the right label, and the mean F1 of the labels."""
        logits = self.logits(texts)
        predicted = logits.argmax(1)
        return {
            "loss": F.cross_entropy(logits, classes).item(), "accuracy": accuracy(predicted, classes),
            "macro_f1": macro_f1(predicted, classes, len(self.labels)),
        }  # fmt: skip


# ------------------------------------------------------------------------------------------------------- task


class ClassifierTask(ExampleTask):
    """A classifier and the texts it is trained on.

    In training every token is <unk> with probability 0.1, beside those rarer than ``min_count``, which always are.

    Args:
        texts, labels: E of each; a random ``val_fraction`` validates, but for texts whose label nothing else has.
        where: the file and line of each, for errors.
        level: what a token is: a "word", a "char"acter, or "auto": characters where the average text of the training
            part is shorter than two words, else words.
        lower: lower-case the texts; where None, words are and characters are not.
        min_count, max_words: of the vocabulary, see :class:`~minirnn.data.vocabulary.Vocabulary`.
        max_length: tokens of a text that are read.
        embeddings: a file with vectors of words; ``embedding_size`` is then theirs.
        freeze: leave these vectors as they are.
        embedding_size: where None, 100 for words and 32 for characters.
        hidden_size, num_layers, cell, bidirectional, pooling, rates: see :class:`~minirnn.models.ManyToOne`.
        dropout: as there; where None, 0.6 for words and 0.3 for characters.
        batch_size: texts in a batch.
        seed: of the split, the weights, dropout and order; :func:`minirnn.manual_seed` is called with it.

    Attributes:
        classifier: what is trained.
        summary: the data in words.

    Raises:
        DataError: there are too few texts, or all have one label.
    """

    def __init__(
        self, texts: Sequence[str], labels: Sequence[str], where: Sequence[str] | Where, *, level: str = "auto",
        lower: bool | None = None, min_count: int = 1, max_words: int | None = None, max_length: int = 500,
        embeddings: str | Path | None = None, freeze: bool = False, embedding_size: int | None = None,
        hidden_size: int = 128, num_layers: int = 1, cell: CellLike = "lstm", bidirectional: bool = True,
        pooling: str = "max", dropout: float | None = None, batch_size: int = 64, val_fraction: float = 0.1,
        seed: int = 0, **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        if level not in LEVELS:
            raise OptionError(f"level must be one of {', '.join(LEVELS)}, got {level!r}")
        if max_length < 1:
            raise OptionError(f"max_length must be at least 1, got {max_length}")
        if len(set(labels)) == 1:
            raise DataError(f"{where[0]}: every text has the label {labels[0]!r}; expected two or more")
        train, held = _split(labels, val_fraction, seed)
        if not held.size:
            raise DataError(
                f"{where[0]}: no text is left to validate with, for their labels occur nowhere else; expected more texts "
                f"than {len(texts)}"
            )
        words = sum(len(texts[n].split()) for n in train) / len(train)
        if level == "auto":
            level = "word" if words >= _FEWEST_WORDS else "char"
        tokenizer = Tokenizer(level, level == "word" if lower is None else lower)
        tokens = [tokens_of(tokenizer, texts[n], max_length) for n in train]
        vocabulary = Vocabulary.of(tokens, min_count, max_words)
        names = Labels.of(labels[n] for n in train)
        self._train, self._classes = [vocabulary.encode(t) for t in tokens], names.encode([labels[n] for n in train])
        super().__init__([len(t) for t in tokens], batch_size, seed)
        random.manual_seed(seed)
        read = {"word": "words", "char": "characters"}[level]
        self.summary = (
            f"{len(texts):,} texts of {len(names)} classes, {words:.1f} words on average; read as {read}, "
            f"{len(vocabulary) - len(SPECIALS):,} different"
        )
        rows, found = read_vectors(vocabulary, embeddings, freeze)
        if rows is not None:
            self.summary += f", vectors for {found:,} of them"
            embedding_size = rows.shape[1]
        model = self.model = ManyToOne(
            len(vocabulary), hidden_size, len(names), num_layers, cell, bidirectional, pooling=pooling,
            dropout=_DROPOUTS[level] if dropout is None else dropout,
            embedding_size=embedding_size or _EMBEDDING_SIZES[level], **rates,
        )  # fmt: skip
        assert model.body.embedding is not None
        begin_with(model.body.embedding.weight, rows, freeze, _SPREADS[level])
        self.classifier = Classifier(model, tokenizer, vocabulary, names, max_length)
        spread = held[:: -(-len(held) // _MOST_EVALUATED)]
        self._validation = [self.classifier.encode(texts[n]) for n in spread], names.encode([labels[n] for n in spread])
        self._data = {
            "sha256": fingerprint(texts, labels), "embeddings_sha256": None if rows is None else fingerprint(rows),
            "freeze": freeze, "level": level, "min_count": min_count, "max_words": max_words, "batch_size": batch_size,
            "val_fraction": val_fraction, "seed": seed,
        }  # fmt: skip

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        tokens, lengths = pad([self._train[n] for n in examples], PAD)
        unknown = random.generator().random(tokens.shape) < _TOKEN_DROPOUT
        logits = self.model(np.where(unknown, UNK, tokens), lengths)
        return F.cross_entropy(logits, self._classes[examples]), len(examples)

    def evaluate(self) -> dict[str, float]:
        metrics = self.classifier.measure(*self._validation)
        return {"val_loss": metrics.pop("loss")} | metrics

    def config(self) -> dict[str, Any]:
        return {"task": NAME, "data": self._data} | self.classifier.to_config()
