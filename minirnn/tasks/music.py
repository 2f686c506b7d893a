"""Polyphonic music: which of 88 keys sound at the next step, given all steps so far; nats per step.

Learning and measuring are many-to-many, composing is one-to-many. Every key is a choice of its own, given the past:
-log p(x_{t+1} | x_1 ... x_t) is a binary cross-entropy summed over the keys, and the figure its mean over steps 2 to T
of all pieces (Boulanger-Lewandowski, Bengio & Vincent 2012; as in Bai, Kolter & Koltun 2018 the first step of a piece
is not predicted).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.checkpoint import write_atomically
from minirnn.data.music import Step, midi_bytes, piano_roll, read_pieces, steps_of, wav_bytes
from minirnn.data.sequences import Buckets, pad, valid_rows
from minirnn.errors import DataError, OptionError
from minirnn.models.body import CellLike, Rates
from minirnn.models import ManyToMany
from minirnn.nn import functional as F
from minirnn.nn.state import State
from minirnn.tasks.common import (
    ExampleTask,
    Line,
    Prediction,
    Predictor,
    fingerprint,
    random_split,
    rebuild,
)

NAME = "music"

KEYS = 88
_LOWEST = 21  # MIDI pitch of a piano's first key
_EVALUATION_BATCH = 32
_EVALUATION_STEPS = 256  # a piece goes through the model in stretches of so many, the state carried
_MOST_EVALUATED = 1 << 14  # steps; while training only so much of a larger validation set is evaluated
_MOST_SHAPES = 2048  # of chords, for composing
_TEMPO = 96.0  # steps a minute in MIDI and WAV files

Rolls = list[np.ndarray]
"""Pieces, each bool [T, 88]."""


def read_rolls(source: str) -> dict[str, Rolls]:
    """The parts of a file of pieces as piano rolls, see :func:`minirnn.data.music.read_pieces`.

    Raises:
        DataError: as there; or a pitch is not one of a piano's, or a piece has only one step; says where.
    """
    parts: dict[str, Rolls] = {}
    name = "standard input" if source == "-" else source
    for part, pieces in read_pieces(source).items():
        parts[part] = []
        for number, piece in enumerate(pieces):
            where = f"{name}: {part}[{number}]"
            if len(piece) < 2:
                raise DataError(f"{where} has one step; expected at least 2, one to follow the other")
            parts[part].append(_roll(piece, where))
    return parts


def _roll(piece: Sequence[Step], where: str) -> np.ndarray:
    try:
        return piano_roll(piece, _LOWEST, KEYS).astype(bool)
    except DataError as error:
        raise DataError(f"{where}: {error}, the keys of a piano") from None


def _nll(
    model: ManyToMany, inputs: np.ndarray, targets: np.ndarray, lengths: np.ndarray, state: State = None
) -> tuple[Tensor, State]:
    """Summed over keys and steps, in nats; and the state after.

    Args:
        inputs, targets: [T, N, 88]. lengths: [N] valid steps of each.
    """
    logits, state = model(inputs, lengths, state)
    rows = valid_rows(len(inputs), lengths)
    logits = ops.take_rows(logits.reshape(-1, KEYS), rows)
    return F.binary_cross_entropy_with_logits(logits, targets.reshape(-1, KEYS)[rows], reduction="sum"), state


def _batch(model: ManyToMany, rolls: Rolls) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [T-1, N, 88], targets [T-1, N, 88] and lengths [N] of pieces side by side."""
    padded, lengths = pad(rolls)
    padded = padded.astype(model.head.weight.dtype, copy=False)
    return padded[:-1], padded[1:], lengths - 1


def evaluate(model: ManyToMany, rolls: Rolls) -> float:
    """Mean nats per step over steps 2 to T of all pieces."""
    total = 0.0
    with model.evaluating():
        for examples in Buckets([len(roll) for roll in rolls], _EVALUATION_BATCH).in_order():
            inputs, targets, lengths = _batch(model, [rolls[e] for e in examples])
            state: State = None
            for start in range(0, len(inputs), _EVALUATION_STEPS):
                part = slice(start, start + _EVALUATION_STEPS)
                left = np.clip(lengths - start, 0, len(inputs[part]))
                losses, state = _nll(model, inputs[part], targets[part], left, state)
                total += losses.item()
    return total / _predicted(rolls)


def _intervals(roll: np.ndarray, most: int) -> tuple[int, int]:
    """By how many semitones a piece can be transposed: down (negative) and up, at most ``most``."""
    keys = np.flatnonzero(roll.any(0))
    return (-min(most, keys[0]), min(most, KEYS - 1 - keys[-1])) if keys.size else (0, 0)


def _predicted(rolls: Rolls) -> int:
    return sum(len(roll) - 1 for roll in rolls)


class MusicTask(ExampleTask):
    """A model of the next step of music and the pieces it is trained on.

    It is trained on the part "train" and validated on "valid", or where there is none on pieces split off; "test" is
    left alone. A piece is transposed again in every epoch, all its notes by the same interval, which is drawn among
    those that keep it on the piano.

    Args:
        parts: of :func:`read_rolls`.
        hidden_size, num_layers, cell, dropout, rates: the model's, see :class:`minirnn.models.ManyToMany`.
        batch_size: N pieces side by side.
        seq_length: predicted steps through which gradients flow; longer pieces are cut for training.
        transpose: semitones up or down at most; 0 leaves the pieces in their keys.
        val_fraction: share of the pieces kept for validation where there is no part "valid".
        seed: of the weights, the dropout masks, the transpositions and the split; :func:`minirnn.manual_seed` is
            called with it.

    Raises:
        DataError: there are no pieces to train on, or too few to split.
        OptionError: an option is out of range.
    """

    model: ManyToMany

    def __init__(
        self, parts: Mapping[str, Rolls], hidden_size: int, num_layers: int, cell: CellLike, dropout: float,
        batch_size: int, seq_length: int = 256, transpose: int = 0, val_fraction: float = 0.1, seed: int = 0,
        **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        if seq_length < 1:
            raise OptionError(f"seq_length must be at least 1, got {seq_length}")
        if not 0 <= transpose < KEYS:
            raise OptionError(f"transpose must be from 0 to {KEYS - 1} semitones, got {transpose}")
        if "train" not in parts:
            raise DataError(f"expected a part 'train', or pieces alone; got {', '.join(map(repr, parts))}")
        train = parts["train"]
        if "valid" in parts:
            self.validation = parts["valid"]
        else:
            kept, split = random_split(len(train), val_fraction, seed)
            train, self.validation = [train[n] for n in kept], [train[n] for n in split]
        self.train = [
            roll[start : start + seq_length + 1] for roll in train for start in range(0, len(roll) - 1, seq_length)
        ]
        super().__init__([len(roll) for roll in self.train], batch_size, seed)
        self._intervals = np.array([_intervals(roll, transpose) for roll in self.train])
        self._shifts = np.zeros(len(self.train), np.int64)
        random.manual_seed(seed)
        self.model = ManyToMany(KEYS, hidden_size, KEYS, num_layers, cell, dropout=dropout, **rates)
        self._begin_at_frequencies(train)
        self._starts = sorted({steps_of(roll[roll.any(1)][:1], _LOWEST)[0] for roll in train if roll.any()})
        self._chords = Chords.of(train)
        self._data = {
            "sha256": fingerprint(*train, np.zeros(0), *self.validation), "batch_size": batch_size,
            "seq_length": seq_length, "transpose": transpose, "val_fraction": val_fraction, "seed": seed,
        }  # fmt: skip

    def _begin_at_frequencies(self, rolls: Rolls) -> None:
        """Let the untrained model say how often each key sounds, with one step of it and one without added."""
        steps = np.concatenate(rolls)
        frequency = (steps.sum(0) + 1) / (len(steps) + 2)
        bias = self.model.head.bias
        assert bias is not None
        bias.data[:] = np.log(frequency / (1 - frequency))

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        low, high = self._intervals.T
        self._shifts = np.random.default_rng([self._seed, epoch, 1]).integers(low, high, endpoint=True)

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        rolls = [np.roll(self.train[e], self._shifts[e], axis=1) for e in examples]
        losses, _ = _nll(self.model, *_batch(self.model, rolls))
        steps = _predicted(rolls)
        return losses / steps, steps

    def evaluate(self) -> dict[str, float]:
        steps = np.cumsum([len(roll) for roll in self.validation])
        return {"val_loss": evaluate(self.model, self.validation[: max(1, int((steps <= _MOST_EVALUATED).sum()))])}

    def composer(self) -> Composer:
        """The model as it stands."""
        return Composer(self.model, self._starts, self._chords)

    def config(self) -> dict[str, Any]:
        return {
            "task": NAME, "data": self._data, "model": self.model.config, "starts": self._starts,
            "chords": {"shapes": self._chords.shapes, "frequency": self._chords.frequency},
        }  # fmt: skip


class Chords:
    """The chords of some pieces, as they are and moved to every other place of the keyboard.

    Args:
        shapes: the semitones of a chord above its lowest key, and how many steps of the pieces sound so; ``[[], 3]``
            is three steps of silence.
        frequency: the share of the steps in which a key sounds, on average over all keys that ever do.

    Raises:
        DataError: there are no shapes or too many, or they are no chords of a piano.
    """

    def __init__(self, shapes: Sequence[tuple[Sequence[int], int]], frequency: float) -> None:
        chords = all(
            count > 0
            and all(low < high for low, high in itertools.pairwise(shape))
            and (not shape or (shape[0] == 0 and shape[-1] < KEYS))
            for shape, count in shapes
        )
        if not (0 < len(shapes) <= _MOST_SHAPES and chords and 0 <= frequency <= 1):
            raise DataError("expected chords as semitones above their lowest key, and how often each occurs")
        self.shapes, self.frequency = shapes, frequency
        width = max(len(shape) for shape, _ in shapes)
        keys, counts = [], []
        for shape, count in shapes:
            at = np.arange(KEYS - shape[-1])[:, None] + np.array(shape) if len(shape) else np.empty((1, 0), np.int64)
            keys.append(np.pad(at, ((0, 0), (0, width - len(shape))), constant_values=KEYS))
            counts.append(np.full(len(at), count))
        self._keys = np.concatenate(keys)  # [C, width]; KEYS stands for no key
        usual = math.log(frequency / (1 - frequency)) if 0 < frequency < 1 else 0.0  # a key's log-odds
        self._log_prior = np.log(np.concatenate(counts)) - usual * (self._keys < KEYS).sum(1)

    @classmethod
    def of(cls, rolls: Rolls) -> Chords:
        """The most frequent shapes of the steps of ``rolls``."""
        found: Counter[tuple[int, ...]] = Counter()
        steps = np.concatenate(rolls)
        for keys in map(np.flatnonzero, steps):
            found[tuple((keys - keys[0]).tolist()) if keys.size else ()] += 1
        return cls(found.most_common(_MOST_SHAPES), float(steps.mean() * KEYS / max(1, steps.any(0).sum())))

    def draw(self, logits: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
        """The keys of one chord, bool [88], as :class:`Composer` says.

        Args:
            logits: [88] log(p_k / (1 - p_k)).
            temperature: 0 takes the most likely chord.
        """
        odds = np.append(logits.astype(np.float64), 0)
        scores = self._log_prior + odds[self._keys].sum(1)
        scores -= scores.max()
        if temperature < 1e-6:  # dividing by less could overflow
            chosen = scores.argmax()
        else:
            reached = np.exp(scores / temperature).cumsum()
            chosen = np.searchsorted(reached, rng.random() * reached[-1], side="right")
        keys = np.zeros(KEYS + 1, bool)
        keys[self._keys[chosen]] = True
        return keys[:KEYS]


class Composer(Predictor):
    """A trained model of music: the beginning of a piece in, a piece out.

    Were each key drawn for itself, too many or too few would sound, and neighbours that exclude each other. So a step
    is one of the chords S of the training pieces, in any transposition, drawn with

        p(S)  proportional to  (n(S) prod_{k in S} (p_k / (1 - p_k)) / (q / (1 - q)))^(1 / temperature)

    where p_k is the model's probability of key k, q that of a key at any time, and n(S) how many steps of the training
    pieces are S, transposed or not: had the model nothing to say, all p_k = q, the chords would come as often as there.
    Temperature 0 takes the most likely.

    Args:
        model: of 88 keys.
        starts: steps to begin with where none are given: those with which the training pieces begin.
        chords: to compose with.

    >>> composer = Composer.load("checkpoints/jsb_chorales/best.safetensors")  # doctest: +SKIP
    >>> piece = composer.compose([(60, 64, 67)], length=32, seed=1)  # doctest: +SKIP
    """

    task: ClassVar[str] = NAME
    kind: ClassVar[str] = "a model of music"
    options: ClassVar[frozenset[str]] = frozenset({"length", "temperature", "seed", "midi", "wav"})
    whole: ClassVar[bool] = True  # so that no line at all is a wish too

    def __init__(self, model: ManyToMany, starts: Sequence[Step], chords: Chords) -> None:
        self.model, self.starts, self.chords = model, list(starts) or [()], chords

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        model = rebuild(ManyToMany, config["model"], arrays)
        return cls(model, [tuple(step) for step in config["starts"]], Chords(**config["chords"]))

    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """``loss`` and ``nll``, both the mean nats per step; and how many ``pieces`` with how many predicted ``steps``.

        Of a file the part "test" alone counts; where there is none, "valid"; where there is neither, all there is.

        Raises:
            DataError: see :func:`read_rolls`.
        """
        rolls: Rolls = []
        for source in sources:
            parts = read_rolls(source)
            part = next((name for name in ("test", "valid") if name in parts), None)
            rolls += parts[part] if part else itertools.chain(*parts.values())
        loss = evaluate(self.model, rolls)
        return {"loss": loss, "nll": loss, "pieces": len(rolls), "steps": _predicted(rolls)}

    def predict(
        self, lines: Sequence[Line], length: int = 64, temperature: float = 1.0, seed: int | None = None,
        midi: str | Path | None = None, wav: str | Path | None = None,
    ) -> list[Prediction]:  # fmt: skip
        """A piece for every beginning, see :func:`read_starts` and :meth:`compose`; one too where there is no line.

        Args:
            midi, wav: files to write the piece to, at 96 steps a minute.

        Raises:
            DataError: the lines are no beginnings of pieces, or a piece is too long for a file.
            OptionError: an option is out of range, there is more than one piece for a file, or no such file can be.
        """
        starts = read_starts(lines) or [[]]
        if len(starts) > 1 and (midi or wav):
            raise OptionError(f"{'a MIDI' if midi else 'a WAV'} file holds one piece, but {len(lines)} lines are given")
        seed = random.draw_seed() if seed is None else seed
        pieces = [self.compose(start, length, temperature, seed + number) for number, start in enumerate(starts)]
        files = [(midi, midi_bytes(pieces[0], tempo=_TEMPO))] if midi else []
        files += [(wav, wav_bytes(pieces[0], seconds_per_step=60 / _TEMPO))] if wav else []
        for path, data in files:
            try:
                write_atomically(Path(path), data)
            except (OSError, ValueError) as error:  # ValueError: a path without a file's name
                raise OptionError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
        found = [[list(step) for step in piece] for piece in pieces]
        return [Prediction(json.dumps(piece), {"piece": piece}) for piece in found]

    def compose(
        self, start: Sequence[Step] = (), length: int = 64, temperature: float = 1.0, seed: int | None = None
    ) -> list[Step]:
        """``start`` and ``length`` steps after it; without a start, ``length`` steps, the first one drawn.

        Args:
            temperature: below 1 safer, above 1 wilder, 0 always the most likely.
            seed: the same seed gives the same piece; drawn from :mod:`minirnn.random` where None.

        Raises:
            DataError: a pitch is not one of a piano's.
            OptionError: an option is out of range.
        """
        if length < 1:
            raise OptionError(f"length must be at least 1, got {length}")
        if not 0 <= temperature < float("inf"):
            raise OptionError(f"temperature must be at least 0, got {temperature}")
        rng = random.generator_of(seed)
        if not start:
            start, length = [self.starts[rng.integers(len(self.starts))]], length - 1
        piece = list(steps_of(_roll(start, "the start"), _LOWEST))
        fed = _roll(piece, "the start")
        state: State = None
        with self.model.evaluating():
            for _ in range(length):
                logits, state = self.model(fed[:, None].astype(self.model.head.weight.dtype), None, state)
                fed = self.chords.draw(logits.numpy()[-1, 0], temperature, rng)[None]
                piece += steps_of(fed, _LOWEST)
        return piece


def read_starts(lines: Sequence[Line]) -> list[list[Step]]:
    """The beginning on every line, see :func:`read_start`.

    Where the first line that is not blank opens a list in JSON and does not close it, all lines are one beginning.

    Raises:
        DataError: as there.
    """
    first = next((number for number, line in enumerate(lines) if line.text.strip()), 0)
    if lines and _goes_on(lines[first].text.strip()):
        return [read_start(*lines[first:])]
    return [read_start(line) for line in lines]


def _goes_on(text: str) -> bool:
    if not text.startswith("["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def read_start(line: Line, *more: Line) -> list[Step]:
    """The beginning of a piece: ``[[60, 64], [62]]``, steps in JSON; or ``60,64`` or ``C4 E4``, the notes of one step.

    A blank line is the empty beginning. C4 is middle C, 60; a sharp is #, a flat b.

    Args:
        line: not blank where there are more.
        more: lines on which the JSON goes on.

    Raises:
        DataError: it is neither, or a pitch is not one of a piano's.
    """
    text = "\n".join(one.text for one in (line, *more)).strip()
    if text.startswith("["):
        try:
            piece = json.loads(text)
        except (ValueError, RecursionError) as error:
            at = (line, *more)[error.lineno - 1].where if isinstance(error, json.JSONDecodeError) else line.where
            it = "it" if at == line.where else line.where
            raise DataError(
                f"{at}: not JSON, though {it} begins with [; expected steps as in [[60, 64], [62]]"
            ) from None
    elif text.startswith("{"):
        raise DataError(
            f"{line.where}: got a JSON object, as files to train on are; expected the beginning of one piece: steps as "
            "in [[60, 64], [62]], or the notes of one step such as 60,64 or C4 E4"
        )
    else:
        piece = [[_pitch(note, line.where) for note in re.findall(r"[^,\s]+", text)]] if text else []
    return list(steps_of(_roll(piece, line.where), _LOWEST))


_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SIGNS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}


def _pitch(note: str, where: str) -> int:
    if re.fullmatch(r"[0-9]{1,3}", note):
        return int(note)
    if named := re.fullmatch(r"([A-Ga-g])([#♯b♭]?)(-?[0-9])", note):
        return 12 * (int(named[3]) + 1) + _SEMITONES[named[1].upper()] + _SIGNS[named[2]]
    raise DataError(f"{where}: expected notes such as 60 or C4, or steps as in [[60, 64], [62]]; got {note[:40]!r}")
