"""Tagging: a tag for every word of a sentence, from the word, its characters and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, Unpack

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.config import option
from minirnn.data.lines import Locations, read_columns
from minirnn.data.sequences import Buckets, pad, valid_rows
from minirnn.data.vocabulary import UNK, Labels, Vocabulary
from minirnn.errors import DataError
from minirnn.metrics import accuracy, confusion_matrix, has_spans, macro_f1, span_f1
from minirnn.models import ManyToMany
from minirnn.models.body import Body, CellLike, Model, Rates
from minirnn.nn import functional as F
from minirnn.nn.layers import Dropout, Embedding
from minirnn.tasks import base, fine_tuning
from minirnn.tasks.base import ExampleTask, Line, Prediction
from minirnn.tasks.fine_tuning import Indexed
from minirnn.training import TrainingConfig

EVAL_BATCH_SIZE = 64
MAX_EVAL_WORDS = 1 << 15  # of a larger validation set, evenly spaced sentences are evaluated while training
MAX_SENTENCE_LENGTH = 5000
MAX_WORD_LENGTH = 40  # characters; of a longer word both ends are read
WORD_DROPOUT = 0.25
EMBEDDING_STD = 0.3
_SAMPLE_WORDS = 12


@dataclass(frozen=True, kw_only=True)
class TaggerConfig(base.EmbeddingsConfig, base.BidirectionalConfig):
    """Options of :class:`Tagger`."""

    column: int = option(2, "Column of the tags; words are in column 1, -1 is the last column.", group="Data")
    val: str | None = option(None, "Validation set; by default a part of the data.", group="Data", is_data=True)
    min_count: int = option(2, "Words that occur less often are unknown; their characters are still read.", 1)
    embedding_size: int = option(100, "Size of the embedding of a word.", 1, base.MAX_UNITS)
    dropout: float = 0.5


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Sentences:
    """Tagged sentences.

    Attributes:
        words, tags: of every sentence.
        where: where the sentences of the files were read, see :func:`~minirnn.data.lines.read_columns`.
        numbers: which of the files' sentences these are.
    """

    words: list[list[str]]
    tags: list[list[str]]
    where: Locations
    numbers: Sequence[int]

    @classmethod
    def read(cls, sources: Sequence[str], column: int = 2) -> Self:
        """Read files with a word per line and a blank line after each sentence.

        Args:
            column: the column of the tags; words are in column 1.

        Raises:
            DataError: a line does not fit, as :func:`~minirnn.data.lines.read_columns` says; a sentence is too long.
        """
        words, tags, where = read_columns(sources, column)
        for number, sentence in enumerate(words):
            _check_length(sentence, where[number], "is a blank line missing between two sentences?")
        return cls(words, tags, where, range(len(words)))

    def pick(self, numbers: np.ndarray) -> Self:
        """Return some of the sentences."""
        words, tags = [self.words[i] for i in numbers], [self.tags[i] for i in numbers]
        return type(self)(words, tags, self.where, [self.numbers[i] for i in numbers])

    def classes(self, labels: Labels) -> tuple[list[np.ndarray], list[str]]:
        """Return the numbers [T] of the tags of each sentence, and what each number means.

        Tags that are none of ``labels`` are numbered, and reported, by :func:`~minirnn.tasks.base.encode_labels`.
        """
        starts = np.cumsum([0, *map(len, self.tags)])

        def where(word: int) -> str:
            sentence = int(np.searchsorted(starts, word, "right")) - 1
            return self.where.at(self.numbers[sentence], word - int(starts[sentence]))

        numbers, names = base.encode_labels(labels, [tag for tags in self.tags for tag in tags], where)
        return np.split(numbers, starts[1:-1]), names

    def fingerprint(self) -> str | None:
        """Return a hash, by which a resumed run recognises them."""
        lengths = np.array([len(sentence) for sentence in self.words])
        return base.fingerprint(
            (w for words in self.words for w in words), (t for tags in self.tags for t in tags), lengths
        )


class TaggedData(NamedTuple):
    """Sentences to train on, and those of a validation set of its own, if there is one."""

    sentences: Sentences
    validation: Sentences | None = None


def _check_length(sentence: Sequence[str], where: str, hint: str) -> None:
    if len(sentence) > MAX_SENTENCE_LENGTH:
        raise DataError(f"{where}: a sentence of {len(sentence)} words, expected at most {MAX_SENTENCE_LENGTH}; {hint}")


@dataclass(frozen=True)
class Batch:
    """N sentences, and the K different words in them.

    Attributes:
        words: [T, N] numbers of the words, lower-cased; UNK for those that are not in the vocabulary.
        forms: [T, N] which of the K different words it is.
        characters: [C, K] of these words. sizes: [K] how many. lengths: [N] words of each sentence.
    """

    words: np.ndarray
    forms: np.ndarray
    characters: np.ndarray
    sizes: np.ndarray
    lengths: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """The positions [S], counted row by row, that hold a word."""
        return valid_rows(len(self.words), self.lengths)


class EncodedSentences:
    """Sentences as numbers; every different word is looked up and spelled once.

    Attributes:
        forms: for each sentence, which of the F different words [T] it has. lengths: [S] words of each sentence.
        words: [F] the number of each different word, lower-cased. spellings: numbers of its characters [C], for each.
    """

    def __init__(self, sentences: Sequence[Sequence[str]], words: Vocabulary, characters: Vocabulary) -> None:
        known: dict[str, int] = {}
        self.forms = [np.array([known.setdefault(w, len(known)) for w in s], np.int64) for s in sentences]
        self.lengths = np.array([len(sentence) for sentence in sentences], np.int64)
        self.words = words.encode([word.lower() for word in known])
        half = MAX_WORD_LENGTH // 2
        ends = (word if len(word) <= MAX_WORD_LENGTH else word[:half] + word[-half:] for word in known)
        self.spellings = [characters.encode(word) for word in ends]

    def batch(self, sentences: np.ndarray) -> Batch:
        """Return sentences by their numbers [N]; none of them is empty."""
        forms = [self.forms[n] for n in sentences]
        padded, lengths = pad(forms, forms[0][0])  # pads with a word that is there, so that no other must be spelled
        distinct, index = np.unique(padded, return_inverse=True)
        characters, sizes = pad([self.spellings[form] for form in distinct])
        return Batch(self.words[padded], index.reshape(padded.shape), characters, sizes, lengths)

    def batches(self) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield all sentences that are not empty, from the shortest to the longest: their numbers [N], and a batch."""
        filled = np.flatnonzero(self.lengths)
        for picked in Buckets(self.lengths[filled], EVAL_BATCH_SIZE).in_order():
            yield filled[picked], self.batch(filled[picked])


# ------------------------------------------------------------------------------------------------------ model


class TaggerModel(Model):
    """Recurrent layers over a sentence, whose words are embedded and spelled.

    x_t = [E w_t; the final states of two recurrent layers over the word's characters, one forwards and one backwards],
    and :class:`~minirnn.models.ManyToMany` computes logits of x (Lample et al. 2016, section 4.1; Plank, Søgaard &
    Goldberg 2016, section 2).

    Args:
        words, characters, tags: how many there are of each.
        hidden_size, num_layers, cell, bidirectional, rates: of the layers over words; those over characters have the
            same cell.
        dropout: in training, on x and on the outputs of every layer over words.
        embedding_size: of words.
        character_embedding_size, character_hidden_size: of characters, and of each of the two layers over them.
    """

    def __init__(
        self,
        words: int,
        characters: int,
        tags: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: CellLike = "lstm",
        bidirectional: bool = True,
        dropout: float = 0.0,
        embedding_size: int = 100,
        character_embedding_size: int = 32,
        character_hidden_size: int = 64,
        dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:
        cell = cells.get(cell)
        self.embedding = Embedding(words, embedding_size, dtype=dtype)
        self.spelling = Body(
            characters, character_hidden_size, 1, cell, True, embedding_size=character_embedding_size, dtype=dtype
        )
        self.dropout = Dropout(dropout)
        sizes = embedding_size + self.spelling.output_size, hidden_size, tags, num_layers
        self.tagging = ManyToMany(*sizes, cell, bidirectional, dropout=dropout, dtype=dtype, **rates)
        self.tags = tags

    def forward(self, batch: Batch) -> Tensor:
        """Return logits [S, tags] of the words that are there, in the order of ``batch.valid``."""
        _, state = self.spelling(batch.characters, batch.sizes)
        spelled = ops.embedding(self.spelling.last(state), batch.forms)
        x = self.dropout(ops.concatenate([self.embedding(batch.words), spelled], 2))
        y, _ = self.tagging.body(x, batch.lengths)
        return self.tagging.head(ops.take_rows(y.reshape(batch.words.size, y.shape[2]), batch.valid))


def _targets(classes: Sequence[np.ndarray], sentences: np.ndarray, batch: Batch) -> np.ndarray:
    """The classes [S] of a batch's words, in the order of ``batch.valid``."""
    return pad([classes[n] for n in sentences])[0].reshape(-1)[batch.valid]


def evaluate(
    model: TaggerModel, text: EncodedSentences, classes: Sequence[np.ndarray], names: Sequence[str]
) -> dict[str, float]:
    """Return the mean ``loss`` in nats per word, ``accuracy`` and ``macro_f1``.

    Where the tags of the model mark spans, see :func:`~minirnn.metrics.has_spans`, also ``span_precision``,
    ``span_recall`` and ``span_f1`` of :func:`~minirnn.metrics.span_f1`. Tags that training never saw are errors in all
    of these. ``loss`` is the mean over the other words, for that of an impossible tag is infinite.

    Args:
        classes: numbers [T] of the tags of each sentence.
        names: the tag of each number; those above the model's own are the unseen ones.
    """
    total, predicted = _predicted(model, text, classes)
    p, e = np.concatenate(predicted), np.concatenate(classes)
    known = int((e < model.tags).sum())
    metrics = {"loss": total / known, "accuracy": accuracy(p, e), "macro_f1": macro_f1(p, e, len(names))}
    if not has_spans(names[: model.tags]):
        return metrics
    tags = [[[names[number] for number in sentence.tolist()] for sentence in part] for part in (predicted, classes)]
    return metrics | {f"span_{name}": value for name, value in span_f1(*tags)._asdict().items()}


def _predicted(
    model: TaggerModel, text: EncodedSentences, classes: Sequence[np.ndarray]
) -> tuple[float, list[np.ndarray]]:
    """The summed loss of the words whose tags are known, and the most likely tags [T] of each sentence."""
    total = 0.0
    predicted = [np.zeros(0, np.int64) for _ in classes]
    with model.evaluating():
        for sentences, batch in text.batches():
            logits, targets = model(batch), _targets(classes, sentences, batch)
            total += F.cross_entropy(logits, base.mask_unseen(targets, model.tags), reduction="sum").item()
            rows = np.zeros(batch.words.size, np.int64)
            rows[batch.valid] = logits.numpy().argmax(1)
            for number, row, length in zip(sentences, rows.reshape(batch.words.shape).T, batch.lengths, strict=True):
                predicted[number] = row[:length]
    return total, predicted


# ------------------------------------------------------------------------------------------------------- task


class Tagger(ExampleTask[TaggedData, TaggerConfig]):
    """A tagger of words: parts of speech, names.

    Words are lower-cased, but spelled as they are. In training a word that occurs c times is unknown with probability
    a / (a + c), a = 0.25 (Kiperwasser & Goldberg 2016), besides those rarer than ``min_count``, which always are. Where
    the tags mark spans, the best state is the one of the highest span F1, else that of the lowest loss.

    Args:
        words, characters: the vocabularies. labels: the tags.
        column: of the tags, in files to evaluate on.

    >>> tagger = Tagger.load("checkpoints/train/best.safetensors")  # doctest: +SKIP
    >>> tagger.predict("The dog barks .")["tags"]  # doctest: +SKIP
    ['DET', 'NOUN', 'VERB', 'PUNCT']
    >>> tagger.tag([["The", "dog", "barks", "."]])  # doctest: +SKIP
    [['DET', 'NOUN', 'VERB', 'PUNCT']]
    """

    name = "tagger"
    description = "a tagger"
    help = "Train a tagger of words (parts of speech, names) on tagged sentences."
    sources_help = "Files with a word and its tags per line and a blank line between sentences; - is standard input."
    unit = "words"
    example = 'minirnn predict {} "A sentence with spaces between its words ."'
    Config = TaggerConfig
    training = TrainingConfig(minutes=5, lr=4e-3)
    model: TaggerModel
    validation: list[list[str]]
    _train: EncodedSentences
    _classes: list[np.ndarray]
    _validation: tuple[EncodedSentences, list[np.ndarray], list[str]]
    _unknown: np.ndarray

    def __init__(
        self, model: TaggerModel, words: Vocabulary, characters: Vocabulary, labels: Labels, column: int = 2
    ) -> None:
        self.model, self.words, self.characters, self.labels, self.column = model, words, characters, labels, column
        if has_spans(labels.names):
            self.best_metric, self.best_mode = "span_f1", "max"

    @classmethod
    def read(cls, sources: Sequence[str], config: TaggerConfig) -> TaggedData:
        validation = None if config.val is None else Sentences.read([config.val], config.column)
        return TaggedData(Sentences.read(sources, config.column), validation)

    @classmethod
    def _build(cls, data: TaggedData, config: TaggerConfig, init_from: Self | None) -> Self:
        sentences, validation = data
        if validation is None:
            split = base.split_by_label(sentences.tags, config.val_fraction, config.seed, "sentence", sentences.where)
            train, held = map(sentences.pick, split)
        else:
            train, held = sentences, validation
        labels = Labels.of(tag for tags in train.tags for tag in tags)
        if len(labels) < 2:
            raise DataError(f"{sentences.where[0]}: every word has the tag {labels.names[0]!r}; expected two or more")
        if init_from is not None:
            labels = fine_tuning.merge_labels(init_from.labels, labels)
        held = held.pick(np.arange(len(held.words))[base.evenly_spaced(sum(map(len, held.words)), MAX_EVAL_WORDS)])
        (classes, _), held_classes = train.classes(labels), held.classes(labels)
        words = Vocabulary.of(([word.lower() for word in words] for words in train.words), config.min_count)
        distinct = dict.fromkeys(word for words in train.words for word in words)
        characters = Vocabulary.of(distinct, config.min_count)
        if init_from is not None:
            words, characters = init_from.words.union(words), init_from.characters.union(characters)
        text = EncodedSentences(train.words, words, characters)
        random.manual_seed(config.seed)
        rows, found = base.read_vectors(words, config)
        size = config.embedding_size if rows is None else rows.shape[1]
        model = TaggerModel(len(words), len(characters), len(labels), embedding_size=size, **config.recurrent())
        base.init_embedding(model.embedding.weight, rows, EMBEDDING_STD)
        task = cls(model, words, characters, labels, config.column)
        task.set_examples(text.lengths, config)
        task._train, task._classes = text, classes
        counts = np.bincount(text.words[np.concatenate(text.forms)], minlength=len(words))
        task._unknown = WORD_DROPOUT / (WORD_DROPOUT + counts)
        task.validation = held.words
        task._validation = EncodedSentences(held.words, words, characters), *held_classes
        task._data = {
            "sha256": sentences.fingerprint(),
            "val_sha256": validation and validation.fingerprint(),
            "embeddings_sha256": base.fingerprint(rows),
            "val_fraction": config.val_fraction if validation is None else None,
            **config.subset("min_count", "batch_size", "seed"),
        }
        vectors = "" if rows is None else f"; vectors for {found:,} of {len(words):,} words"
        total = sum(map(len, sentences.words))
        task.summary = f"{len(sentences.words):,} sentences, {total:,} words, {len(labels)} tags{vectors}"
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        words, characters = (Vocabulary.from_config(config[name]) for name in ("words", "characters"))
        labels = Labels.from_config(config["labels"])
        model = base.rebuild(TaggerModel, config["model"], arrays)
        sizes = {"words": len(words), "characters": len(characters), "tags": len(labels)}
        if not sizes.items() <= model.config.items():
            raise DataError(f"its model is not one of {sizes}")
        return cls(model, words, characters, labels, int(config["column"]))

    def indexed(self) -> dict[str, Indexed]:
        return {
            "words": Indexed(self.words, ("embedding",)),
            "characters": Indexed(self.characters, ("spelling.embedding",)),
            "tags": Indexed(self.labels, ("tagging.head",)),
        }

    def vocabulary_config(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).to_config() for name in ("words", "characters", "labels")}
        return parts | {"column": self.column}

    # ------------------------------------------------------------------------------------------- training

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        batch = self._train.batch(examples)
        unknown = random.uniform(*batch.words.shape) < self._unknown[batch.words]
        logits = self.model(replace(batch, words=np.where(unknown, UNK, batch.words)))
        targets = _targets(self._classes, examples, batch)
        return F.cross_entropy(logits, targets), targets.size

    def evaluate(self) -> dict[str, float]:
        metrics = evaluate(self.model, *self._validation)
        return {"val_loss": metrics.pop("loss"), **metrics}

    def sample_output(self) -> str:
        return self.predict_lines([Line(" ".join(self.validation[0][:_SAMPLE_WORDS]))])[0].text

    # ------------------------------------------------------------------------------------------------ use

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return a tag for every word; words are non-empty strings, a sentence may be empty."""
        return [tags for tags, _ in self._tagged(sentences)]

    def _tagged(self, sentences: Sequence[Sequence[str]]) -> list[tuple[list[str], list[float]]]:
        """The most likely tag of every word, and its probability."""
        text = EncodedSentences(sentences, self.words, self.characters)
        found: list[tuple[list[str], list[float]]] = [([], []) for _ in sentences]
        with self.model.evaluating():
            for numbers, batch in text.batches():
                probabilities = np.zeros((batch.words.size, len(self.labels)))
                probabilities[batch.valid] = F.softmax(self.model(batch).numpy().astype(np.float64), 1).numpy()
                rows = probabilities.reshape(*batch.words.shape, -1).swapaxes(0, 1)
                for number, row, length in zip(numbers, rows, batch.lengths, strict=True):
                    found[number] = self.labels.decode(row[:length].argmax(1)), row[:length].max(1).tolist()
        return found

    def predict_inputs(self, inputs: Mapping[str, Any], options: Any) -> list[Prediction]:
        """Return the tags of each sentence, a text or a list of words, and their probabilities.

        A list of texts given to :meth:`predict` is a list of sentences, never one of words.
        """
        sentences = []
        for name, one in inputs.items():
            words = one.split() if isinstance(one, str) else one
            if not (isinstance(words, (list, tuple, np.ndarray)) and all(isinstance(w, str) and w for w in words)):
                raise DataError(
                    f"{name}: expected a sentence: a string, or in a list of sentences also a list of words that are "
                    f"not empty, got {one!r:.80}"
                )
            sentences.append([str(word) for word in words])
            _check_length(sentences[-1], name, "expected a list of sentences")
        return self._predictions(sentences)

    def predict_lines(self, lines: Sequence[Line], options: None = None) -> list[Prediction]:
        """Return ``word/TAG word/TAG`` for each line, a sentence with white space between its words.

        The facts have the probability of the tag of every word too.

        Raises:
            DataError: a line is too long.
        """
        sentences = [line.text.split() for line in lines]
        for sentence, line in zip(sentences, lines, strict=True):
            _check_length(sentence, line.where, "expected a line for each sentence")
        return self._predictions(sentences)

    def _predictions(self, sentences: Sequence[list[str]]) -> list[Prediction]:
        found = []
        for words, (tags, probabilities) in zip(sentences, self._tagged(sentences), strict=True):
            text = " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True))
            found.append(Prediction(text, {"tokens": words, "tags": tags, "probabilities": probabilities}))
        return found

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :func:`evaluate`, on files like those of the training."""
        return evaluate(self.model, *self._encoded(sources))

    def confusion_matrix(self, sources: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Return how often each tag was predicted for each, and their names.

        See :func:`minirnn.metrics.confusion_matrix`; tags that training never saw are the last ones.
        """
        text, classes, names = self._encoded(sources)
        predicted = np.concatenate(_predicted(self.model, text, classes)[1])
        return confusion_matrix(predicted, np.concatenate(classes), len(names)), names

    def _encoded(self, sources: Sequence[str]) -> tuple[EncodedSentences, list[np.ndarray], list[str]]:
        data = Sentences.read(sources, self.column)
        text = EncodedSentences(data.words, self.words, self.characters)
        return text, *data.classes(self.labels)
