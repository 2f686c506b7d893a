"""Tagging: a tag for every word of a sentence, from the word, its characters and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, Unpack

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.data.lines import Where, read_columns
from minirnn.data.sequences import Buckets, pad, valid_rows
from minirnn.data.vocabulary import UNK, Labels, Vocabulary
from minirnn.errors import DataError
from minirnn.metrics import accuracy, macro_f1
from minirnn.models.body import Body, CellLike, Model, Rates
from minirnn.models import ManyToMany
from minirnn.nn import functional as F
from minirnn.nn.layers import Dropout, Embedding
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

NAME = "tagger"

_AT_ONCE = 64  # sentences of a batch that nothing is learnt from
_MOST_EVALUATED = 1 << 15  # words; of a larger validation set, evenly spread sentences are evaluated in training
_LONGEST_SENTENCE = 5000  # words
_LONGEST_WORD = 40  # characters; of a longer word both ends are read
_WORD_DROPOUT = 0.25
_SPREAD = 0.3  # standard deviation of the first vectors of words

# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Sentences:
    """Tagged sentences as they were read.

    Attributes:
        words, tags: of every sentence.
        where: where the sentences of the files stand, see :func:`~minirnn.data.lines.read_columns`.
        numbers: which of the files' sentences these are.
    """

    words: list[list[str]]
    tags: list[list[str]]
    where: Where
    numbers: Sequence[int]

    @classmethod
    def read(cls, sources: Sequence[str], column: int = 2) -> Self:
        """Files with a word a line and a blank line after each sentence.

        Args:
            column: which column holds the tags; the words stand in column 1.

        Raises:
            DataError: a line does not fit, as :func:`~minirnn.data.lines.read_columns` says; a sentence is too long.
        """
        words, tags, where = read_columns(sources, column)
        for number, sentence in enumerate(words):
            _check_length(sentence, where[number], "is a blank line missing between two sentences?")
        return cls(words, tags, where, range(len(words)))

    def pick(self, numbers: np.ndarray) -> Self:
        """Some of the sentences."""
        words, tags = [self.words[i] for i in numbers], [self.tags[i] for i in numbers]
        return type(self)(words, tags, self.where, [self.numbers[i] for i in numbers])

    def classes(self, labels: Labels) -> list[np.ndarray]:
        """The number of every tag, [t] for each sentence.

        Raises:
            DataError: a tag is none of the labels; says where.
        """
        try:
            return [labels.encode(tags) for tags in self.tags]
        except DataError as error:
            places = ((i, k, tag) for i, tags in enumerate(self.tags) for k, tag in enumerate(tags))
            sentence, word = next((i, k) for i, k, tag in places if tag not in labels.names)
            raise DataError(f"{self.where.at(self.numbers[sentence], word)}: {error}") from None

    def fingerprint(self) -> str:
        """By which a resumed run knows them again."""
        lengths = np.array([len(sentence) for sentence in self.words])
        return fingerprint((w for words in self.words for w in words), (t for tags in self.tags for t in tags), lengths)


def _check_length(sentence: Sequence[str], where: str, hint: str) -> None:
    if len(sentence) > _LONGEST_SENTENCE:
        raise DataError(f"{where}: a sentence of {len(sentence)} words, expected at most {_LONGEST_SENTENCE}; {hint}")


def _split(data: Sentences, fraction: float, seed: int) -> tuple[Sentences, Sentences]:
    """What to train on and what to validate with; a tag that only the latter would have goes with its sentence."""
    train, held = random_split(len(data.words), fraction, seed)
    known = {tag for i in train for tag in data.tags[i]}
    strange = np.array([not known.issuperset(data.tags[i]) for i in held])
    if strange.all():
        raise DataError(
            f"{data.where[0]}: no sentence is left to validate with, for their tags occur nowhere else; expected more "
            f"sentences than {len(data.words)}"
        )
    return data.pick(np.union1d(train, held[strange])), data.pick(held[~strange])


@dataclass(frozen=True)
class Batch:
    """N sentences side by side, and the K different words in them.

    Attributes:
        words: [T, N] numbers of the words, lower-cased; UNK for those that are not in the vocabulary.
        spelled: [T, N] which of the K different words it is.
        characters: [C, K] theirs. sizes: [K] how many.
        lengths: [N] words of each sentence.
    """

    words: np.ndarray
    spelled: np.ndarray
    characters: np.ndarray
    sizes: np.ndarray
    lengths: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """[S] the places, counted row by row, that hold a word."""
        return valid_rows(len(self.words), self.lengths)


class Text:
    """Sentences as numbers; every different word is looked up and spelled once.

    Attributes:
        forms: for each sentence, [t] which of the different words stand there. lengths: [S] words of each.
        words: [F] the number of each different word, lower-cased.
        spellings: for each different word, [c] numbers of its characters.
    """

    def __init__(self, sentences: Sequence[Sequence[str]], words: Vocabulary, characters: Vocabulary) -> None:
        known: dict[str, int] = {}
        self.forms = [np.array([known.setdefault(w, len(known)) for w in s], np.int64) for s in sentences]
        self.lengths = np.array([len(sentence) for sentence in sentences], np.int64)
        self.words = words.encode([word.lower() for word in known])
        self.spellings = [characters.encode(_ends(word)) for word in known]

    def batch(self, sentences: np.ndarray) -> Batch:
        """Some sentences by their numbers [N]; none of them is empty."""
        forms = [self.forms[n] for n in sentences]
        padded, lengths = pad(forms, forms[0][0])  # padding repeats a word that is there, and adds none to spell
        distinct, spelled = np.unique(padded, return_inverse=True)
        characters, sizes = pad([self.spellings[form] for form in distinct])
        return Batch(self.words[padded], spelled.reshape(padded.shape), characters, sizes, lengths)

    def batches(self) -> Iterator[tuple[np.ndarray, Batch]]:
        """All sentences that are not empty, from the shortest to the longest: their numbers [N], and the batch."""
        there = np.flatnonzero(self.lengths)
        for picked in Buckets(self.lengths[there], _AT_ONCE).in_order():
            yield there[picked], self.batch(there[picked])


def _ends(word: str) -> str:
    half = _LONGEST_WORD // 2
    return word if len(word) <= _LONGEST_WORD else word[:half] + word[-half:]


# ------------------------------------------------------------------------------------------------------ model


class TaggerModel(Model):
    """Recurrent layers over a sentence, whose words are embedded and spelled.

    x_t = [E w_t; the last state of a layer that reads the word's characters forwards; of one that reads them
    backwards], and :class:`~minirnn.models.ManyToMany` gives the logits (Lample et al. 2016, section 4.1; Plank,
    Søgaard & Goldberg 2016, section 2).

    Args:
        words, characters, tags: how many there are of each.
        hidden_size, num_layers, cell, bidirectional, rates: of the layers over words; those over characters have the
            same cell.
        dropout: in training, on x and on the outputs of every layer over words.
        embedding_size: of words.
        character_embedding_size, character_hidden_size: of characters, and of each of the two layers over them.
    """

    def __init__(
        self, words: int, characters: int, tags: int, hidden_size: int, num_layers: int = 1, cell: CellLike = "lstm",
        bidirectional: bool = True, dropout: float = 0.0, embedding_size: int = 100,
        character_embedding_size: int = 32, character_hidden_size: int = 64, dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        cell = cells.get(cell)
        self.embedding = Embedding(words, embedding_size, dtype=dtype)
        self.spelling = Body(
            characters, character_hidden_size, 1, cell, bidirectional=True, embedding_size=character_embedding_size,
            dtype=dtype,
        )  # fmt: skip
        self.dropout = Dropout(dropout)
        self.tagging = ManyToMany(
            embedding_size + self.spelling.output_size, hidden_size, tags, num_layers, cell, bidirectional,
            dropout=dropout, dtype=dtype, **rates,
        )  # fmt: skip
        self.tags = tags

    def forward(self, batch: Batch) -> Tensor:
        """Logits [S, tags] of the words that are there, in the order of ``batch.valid``."""
        _, state = self.spelling(batch.characters, batch.sizes)
        spelled = ops.embedding(self.spelling.last(state), batch.spelled)
        x = self.dropout(ops.concatenate([self.embedding(batch.words), spelled], 2))
        y, _ = self.tagging.body(x, batch.lengths)
        return self.tagging.head(ops.take_rows(y.reshape(batch.words.size, y.shape[2]), batch.valid))


def _wanted(classes: Sequence[np.ndarray], sentences: np.ndarray, batch: Batch) -> np.ndarray:
    """The classes [S] of a batch's words, in the order of ``batch.valid``."""
    return pad([classes[n] for n in sentences])[0].reshape(-1)[batch.valid]


def evaluate(model: TaggerModel, text: Text, classes: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean loss in nats per word, the share of words with the right tag, and the mean F1 of the tags."""
    total = 0.0
    predicted, expected = [], []
    with model.evaluating():
        for sentences, batch in text.batches():
            logits, targets = model(batch), _wanted(classes, sentences, batch)
            total += F.cross_entropy(logits, targets, reduction="sum").item()
            predicted.append(logits.numpy().argmax(1))
            expected.append(targets)
    p, w = np.concatenate(predicted), np.concatenate(expected)
    return {"loss": total / w.size, "accuracy": accuracy(p, w), "macro_f1": macro_f1(p, w, model.tags)}


# ------------------------------------------------------------------------------------------------------- task


class TaggerTask(ExampleTask):
    """A tagger and the sentences it is trained on.

    Words are lower-cased, but spelled as they are. In training a word that occurs c times is <unk> with probability
    a / (a + c), a = 0.25 (Kiperwasser & Goldberg 2016), beside those rarer than ``min_count``, which always are.

    Args:
        data: what to train on; a random ``val_fraction`` of it validates where ``validation`` is None, but for
            sentences with a tag that occurs nowhere else.
        validation: sentences to validate with.
        hidden_size, num_layers, cell, bidirectional, dropout, embedding_size, rates: see :class:`TaggerModel`.
        batch_size: sentences.
        min_count: how often a word occurs at least, and in how many different words a character does, to be known.
        embeddings: a file with vectors of words; ``embedding_size`` is then theirs.
        freeze: leave the vectors of words as they are.
        column: where the tags stood, for those who evaluate.
        seed: of the split, the weights, dropout and order; :func:`minirnn.manual_seed` is called with it.

    Attributes:
        found: how many words have a vector in the file.

    Raises:
        DataError: there are too few sentences, only one tag, or one to validate with that is not trained on.
    """

    def __init__(
        self, data: Sentences, validation: Sentences | None = None, *, hidden_size: int = 128, num_layers: int = 1,
        cell: CellLike = "lstm", bidirectional: bool = True, dropout: float = 0.5, embedding_size: int = 100,
        batch_size: int = 32, min_count: int = 2, embeddings: str | None = None, freeze: bool = False, column: int = 2,
        val_fraction: float = 0.1, seed: int = 0, **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        train, held = _split(data, val_fraction, seed) if validation is None else (data, validation)
        self.labels = Labels.of(tag for tags in train.tags for tag in tags)
        if len(self.labels) < 2:
            raise DataError(f"{data.where[0]}: every word has the tag {self.labels.names[0]!r}; expected two or more")
        self._classes, held_classes = train.classes(self.labels), held.classes(self.labels)
        self.words = Vocabulary.of(([word.lower() for word in words] for words in train.words), min_count)
        self.characters = Vocabulary.of(dict.fromkeys(word for words in train.words for word in words), min_count)
        self._text = Text(train.words, self.words, self.characters)
        super().__init__(self._text.lengths, batch_size, seed)
        every = slice(None, None, -(-sum(map(len, held.words)) // _MOST_EVALUATED))
        self.validation = held.words[every]
        self._validation = Text(self.validation, self.words, self.characters), held_classes[every]
        counts = np.bincount(self._text.words[np.concatenate(self._text.forms)], minlength=len(self.words))
        self._unknown = _WORD_DROPOUT / (_WORD_DROPOUT + counts)
        random.manual_seed(seed)
        rows, self.found = read_vectors(self.words, embeddings, freeze)
        if rows is not None:
            embedding_size = rows.shape[1]
        self.model = TaggerModel(
            len(self.words), len(self.characters), len(self.labels), hidden_size, num_layers, cell, bidirectional,
            dropout, embedding_size, **rates,
        )  # fmt: skip
        begin_with(self.model.embedding.weight, rows, freeze, _SPREAD)
        self._column = column
        self._data = {
            "sha256": data.fingerprint(), "val_sha256": None if validation is None else validation.fingerprint(),
            "embeddings_sha256": None if rows is None else fingerprint(rows), "freeze": freeze, "min_count": min_count,
            "batch_size": batch_size, "val_fraction": val_fraction if validation is None else None, "seed": seed,
        }  # fmt: skip

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        batch = self._text.batch(examples)
        replaced = random.generator().random(batch.words.shape) < self._unknown[batch.words]
        logits = self.model(replace(batch, words=np.where(replaced, UNK, batch.words)))
        targets = _wanted(self._classes, examples, batch)
        return F.cross_entropy(logits, targets), targets.size

    def evaluate(self) -> dict[str, float]:
        metrics = evaluate(self.model, *self._validation)
        return {"val_loss": metrics.pop("loss"), **metrics}

    def config(self) -> dict[str, Any]:
        return {
            "task": NAME, "data": self._data, "model": self.model.config, "words": self.words.to_config(),
            "characters": self.characters.to_config(), "labels": self.labels.to_config(), "column": self._column,
        }  # fmt: skip


class Tagger(Predictor):
    """A trained tagger: sentences in, tags out.

    >>> tagger = Tagger.load("checkpoints/train/best.safetensors")  # doctest: +SKIP
    >>> tagger.tag([["The", "dog", "barks", "."]])  # doctest: +SKIP
    [['DET', 'NOUN', 'VERB', 'PUNCT']]
    """

    task: ClassVar[str] = NAME
    kind: ClassVar[str] = "a tagger"

    def __init__(
        self, model: TaggerModel, words: Vocabulary, characters: Vocabulary, labels: Labels, column: int = 2
    ) -> None:
        self.model, self.words, self.characters, self.labels, self.column = model, words, characters, labels, column

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        words, characters = (Vocabulary.from_config(config[name]) for name in ("words", "characters"))
        labels = Labels.from_config(config["labels"])
        model = rebuild(TaggerModel, config["model"], arrays)
        sizes = {"words": len(words), "characters": len(characters), "tags": len(labels)}
        if not sizes.items() <= model.config.items():
            raise DataError(f"its model is not one of {sizes}")
        return cls(model, words, characters, labels, int(config["column"]))

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """A tag for every word; words are non-empty strings, a sentence may have none."""
        text = Text(sentences, self.words, self.characters)
        tags: list[list[str]] = [[] for _ in sentences]
        with self.model.evaluating():
            for numbers, batch in text.batches():
                best = np.zeros(batch.words.size, np.int64)
                best[batch.valid] = self.model(batch).numpy().argmax(1)
                for number, row, length in zip(numbers, best.reshape(batch.words.shape).T, batch.lengths, strict=True):
                    tags[number] = self.labels.decode(row[:length])
        return tags

    def predict(self, lines: Sequence[Line]) -> list[Prediction]:
        """Every line is a sentence, with white space between its words (and before punctuation, where the training
        data has it as a word); ``word/TAG word/TAG``. An empty line stays empty.

        Raises:
            DataError: a line is too long.
        """
        sentences = [line.text.split() for line in lines]
        for sentence, line in zip(sentences, lines, strict=True):
            _check_length(sentence, line.where, "expected a line for each sentence")
        return [
            Prediction(" ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True)),
                       {"tokens": words, "tags": tags})
            for words, tags in zip(sentences, self.tag(sentences), strict=True)
        ]  # fmt: skip

    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """``loss`` in nats per word, ``accuracy`` and ``macro_f1`` on files like those of the training.

        Raises:
            DataError: as :meth:`Sentences.read`, or a tag was never seen in training.
        """
        data = Sentences.read(sources, self.column)
        classes = data.classes(self.labels)
        return evaluate(self.model, Text(data.words, self.words, self.characters), classes)
