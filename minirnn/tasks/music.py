"""Polyphonic music: which of 88 keys sound at the next step, given all steps so far; nats per step.

Every key is a choice of its own, given the past: -log p(x_{t+1} | x_1 ... x_t) is a binary cross-entropy summed over
the keys, and the loss is its mean over steps 2 to T of all pieces (Boulanger-Lewandowski, Bengio & Vincent 2012; as in
Bai, Kolter & Koltun 2018 the first step of a piece is not predicted).
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import Tensor
from minirnn.checkpoint import write_atomically
from minirnn.config import Config, option
from minirnn.data.music import Step, midi_bytes, piano_roll, read_pieces, roll_to_steps, wav_bytes
from minirnn.data.sequences import Buckets, pad, valid_rows
from minirnn.errors import DataError, OptionError
from minirnn.models import ManyToMany
from minirnn.nn import functional as F
from minirnn.nn.state import State
from minirnn.tasks.base import ExampleTask, Line, Prediction, WindowConfig, fingerprint, random_split, rebuild
from minirnn.training import TrainingConfig

KEYS = 88
LOWEST_PITCH = 21  # MIDI number of a piano's first key
EVAL_BATCH_SIZE, EVAL_STEPS = 32, 256  # a piece is evaluated in chunks of so many steps, the state carried
MAX_EVAL_STEPS = 1 << 14  # of a larger validation set the first pieces are evaluated while training
WEIGHT_DROP = 0.3  # see benchmarks/learning.md
MAX_CHORDS = 2048
TEMPO = 96.0  # steps per minute in MIDI and WAV files

Rolls = list[np.ndarray]
"""Pieces as piano rolls, each bool [T, 88]."""


@dataclass(frozen=True, kw_only=True)
class MusicConfig(WindowConfig):
    """Options of :class:`Composer`."""

    hidden_size: int = 256
    num_layers: int = 2
    dropout: float = 0.5
    weight_drop: float | None = option(
        None, "Fraction of the recurrent weights dropped; 0.3 if not given, of a cell that has some.", 0, 0.99
    )
    transpose: int = option(6, "Most semitones to transpose a piece by, at random.", 0, KEYS - 1, group="Training")
    batch_size: int = 16
    seq_length: int = 256

    def recurrent(self) -> dict[str, Any]:
        default = WEIGHT_DROP if cells.get(self.cell).recurrent_gates else 0.0
        return super().recurrent() | {"weight_drop": default if self.weight_drop is None else self.weight_drop}


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(Config):
    """Options of :meth:`Composer.predict_lines` and :meth:`Composer.compose`."""

    group = "Composer"
    length: int = option(64, "Time steps to compose.", 1)
    temperature: float = option(1.0, "Lower is safer, higher more surprising, 0 the most likely chord.", 0)
    seed: int | None = option(None, "Random seed: the same seed gives the same piece.", 0)
    midi: str | None = option(None, "Write the piece to this MIDI file.")
    wav: str | None = option(None, "Write the piece to this WAV file.")


# ------------------------------------------------------------------------------------------------------- data


def read_rolls(source: str) -> dict[str, Rolls]:
    """Read the parts of a file of pieces as piano rolls, see :func:`minirnn.data.music.read_pieces`.

    Raises:
        DataError: as there; or a piano has no key for a pitch, or a piece has only one step; says where.
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
        return piano_roll(piece, LOWEST_PITCH, KEYS).astype(bool)
    except DataError as error:
        raise DataError(f"{where}: {error}, the keys of a piano") from None


def _transpositions(roll: np.ndarray, maximum: int) -> tuple[int, int]:
    """The range of semitones by which a piece can be transposed, at most ``maximum`` down or up."""
    keys = np.flatnonzero(roll.any(0))
    return (-min(maximum, keys[0]), min(maximum, KEYS - 1 - keys[-1])) if keys.size else (0, 0)


def _batch(rolls: Rolls) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [T-1, N, 88], targets [T-1, N, 88] and lengths [N] of N pieces."""
    padded, lengths = pad(rolls)
    return padded[:-1], padded[1:], lengths - 1


def _num_targets(rolls: Rolls) -> int:
    return sum(len(roll) - 1 for roll in rolls)


def _nll(
    model: ManyToMany, inputs: np.ndarray, targets: np.ndarray, lengths: np.ndarray, state: State = None
) -> tuple[Tensor, State]:
    """The loss in nats, summed over keys and steps, and the state after the last step."""
    logits, state = model(inputs, lengths, state)
    rows = valid_rows(len(inputs), lengths)
    logits = ops.take_rows(logits.reshape(-1, KEYS), rows)
    return F.binary_cross_entropy_with_logits(logits, targets.reshape(-1, KEYS)[rows], reduction="sum"), state


def evaluate(model: ManyToMany, rolls: Rolls) -> float:
    """Return the mean loss in nats per step, over steps 2 to T of all pieces."""
    total = 0.0
    with model.evaluating():
        for examples in Buckets([len(roll) for roll in rolls], EVAL_BATCH_SIZE).in_order():
            inputs, targets, lengths = _batch([rolls[e] for e in examples])
            state: State = None
            for start in range(0, len(inputs), EVAL_STEPS):
                part = slice(start, start + EVAL_STEPS)
                left = np.clip(lengths - start, 0, len(inputs[part]))
                losses, state = _nll(model, inputs[part], targets[part], left, state)
                total += losses.item()
    return total / _num_targets(rolls)


class Chords:
    """The chords of some pieces, as they are and transposed to every other key.

    Args:
        shapes: the semitones of a chord above its lowest key, and how many steps of the pieces have it; ``[[], 3]``
            is three steps of silence.
        frequency: fraction of the steps in which a key sounds, on average over all keys that ever do.

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
        if not (0 < len(shapes) <= MAX_CHORDS and chords and 0 <= frequency <= 1):
            raise DataError("expected chords as semitones above their lowest key, and how often each occurs")
        self.shapes, self.frequency = shapes, frequency
        width = max(len(shape) for shape, _ in shapes)
        keys, counts = [], []
        for shape, count in shapes:
            at = np.arange(KEYS - shape[-1])[:, None] + np.array(shape) if len(shape) else np.empty((1, 0), np.int64)
            keys.append(np.pad(at, ((0, 0), (0, width - len(shape))), constant_values=KEYS))
            counts.append(np.full(len(at), count))
        self._keys = np.concatenate(keys)  # [C, width]; KEYS stands for no key
        usual = math.log(frequency / (1 - frequency)) if 0 < frequency < 1 else 0.0  # log-odds of a key
        self._log_prior = np.log(np.concatenate(counts)) - usual * (self._keys < KEYS).sum(1)

    @classmethod
    def of(cls, rolls: Rolls) -> Chords:
        """Return the most frequent chords of the steps of ``rolls``."""
        found: Counter[tuple[int, ...]] = Counter()
        steps = np.concatenate(rolls)
        for keys in map(np.flatnonzero, steps):
            found[tuple((keys - keys[0]).tolist()) if keys.size else ()] += 1
        return cls(found.most_common(MAX_CHORDS), float(steps.mean() * KEYS / max(1, steps.any(0).sum())))

    def draw(self, logits: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
        """Return the keys of one chord, bool [88], drawn as :class:`Composer` says.

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
            cumulative = np.exp(scores / temperature).cumsum()
            chosen = np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right")
        keys = np.zeros(KEYS + 1, bool)
        keys[self._keys[chosen]] = True
        return keys[:KEYS]


# ------------------------------------------------------------------------------------------------------- task


class Composer(ExampleTask[Mapping[str, Rolls], MusicConfig]):
    """A model of music: learns to predict the next step of pieces, and composes.

    It is trained on the part "train" and validated on "valid", or where there is none on pieces split off; "test" is
    left alone. A piece is transposed in every epoch, all its notes by the same interval, which is drawn among those
    that keep it on the piano. Pieces longer than ``seq_length`` are cut for training.

    If each key were drawn independently, too many or too few would sound, and keys that exclude each other. So a step
    of a composition is one of the chords S of the training pieces, in any transposition, drawn with

        p(S)  proportional to  (n(S) prod_{k in S} (p_k / (1 - p_k)) / (q / (1 - q)))^(1 / temperature)

    where p_k is the model's probability of key k, q that of a key at any time, and n(S) how many steps of the training
    pieces are S, transposed or not: if all p_k = q, chords occur as often as there. With
    temperature 0 the most likely one is taken.

    Args:
        model: of 88 keys.
        starts: steps to begin with where none are given: those with which the training pieces begin.
        chords: to compose with.

    >>> composer = Composer.load("checkpoints/jsb_chorales/best.safetensors")  # doctest: +SKIP
    >>> composer.predict("C4,E4,G4", length=32, seed=1)["piece"]  # doctest: +SKIP
    >>> piece = composer.compose([(60, 64, 67)], ComposeConfig(length=32, seed=1))  # doctest: +SKIP
    """

    name = "music"
    description = "a model of music"
    help = (
        'Train a composer of polyphonic music on pieces. The validation set is the part "valid", or some of the pieces '
        'where there is none; the part "test" is left alone.'
    )
    sources_help = (
        'JSON: pieces, or {"train": pieces, "valid": pieces}; a piece is a list of time steps, a step a list of MIDI '
        "pitches. - is standard input."
    )
    unit = "steps"
    example = "minirnn predict {} C4,E4,G4 --midi piece.mid --wav piece.wav"
    Config = MusicConfig
    PredictConfig = ComposeConfig
    training = TrainingConfig(minutes=5, lr=1e-2)
    single_source = True
    predicts_whole_input = True  # an empty input is one request
    model: ManyToMany
    train: Rolls
    validation: Rolls
    _intervals: np.ndarray
    _shifts: np.ndarray

    def __init__(self, model: ManyToMany, starts: Sequence[Step], chords: Chords) -> None:
        self.model, self.starts, self.chords = model, list(starts), chords

    @classmethod
    def read(cls, sources: Sequence[str], config: MusicConfig) -> dict[str, Rolls]:
        return read_rolls(sources[0])

    @classmethod
    def _build(cls, data: Mapping[str, Rolls], config: MusicConfig, init_from: Self | None) -> Self:
        if "train" not in data:
            raise DataError(f"expected a part 'train', or pieces alone; got {', '.join(map(repr, data))}")
        train, length = data["train"], config.seq_length
        if "valid" in data:
            validation = data["valid"]
        else:
            kept, held = random_split(len(train), config.val_fraction, config.seed)
            train, validation = [train[n] for n in kept], [train[n] for n in held]
        random.manual_seed(config.seed)
        model = ManyToMany(KEYS, output_size=KEYS, **config.recurrent())
        steps = np.concatenate(train)
        frequency = (steps.sum(0) + 1) / (len(steps) + 2)
        assert model.head.bias is not None
        model.head.bias.data[:] = np.log(frequency / (1 - frequency))  # untrained, it knows how often each key sounds
        starts = sorted({roll_to_steps(roll[roll.any(1)][:1], LOWEST_PITCH)[0] for roll in train if roll.any()})
        task = cls(model, starts, Chords.of(train))
        task.validation = validation
        task.train = [roll[at : at + length + 1] for roll in train for at in range(0, len(roll) - 1, length)]
        task.set_examples([len(roll) for roll in task.train], config)
        task._intervals = np.array([_transpositions(roll, config.transpose) for roll in task.train])
        task._shifts = np.zeros(len(task.train), np.int64)
        names = ("batch_size", "seq_length", "transpose", "val_fraction", "seed")
        task._data = {"sha256": fingerprint(*train, np.zeros(0), *validation), **config.subset(*names)}
        total = sum(map(len, task.train))
        task.summary = f"{len(task.train):,} pieces of {total:,} steps; {len(validation):,} more to validate with"
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        model = rebuild(ManyToMany, config["model"], arrays)
        return cls(model, [tuple(step) for step in config["starts"]], Chords(**config["chords"]))

    def vocabulary_config(self) -> dict[str, Any]:
        return {
            "starts": self.starts,
            "chords": {"shapes": self.chords.shapes, "frequency": self.chords.frequency},
        }

    # ------------------------------------------------------------------------------------------- training

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        low, high = self._intervals.T
        self._shifts = np.random.default_rng([self._seed, epoch, 1]).integers(low, high, endpoint=True)

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        rolls = [np.roll(self.train[e], self._shifts[e], axis=1) for e in examples]
        losses, _ = _nll(self.model, *_batch(rolls))
        steps = _num_targets(rolls)
        return losses / steps, steps

    def evaluate(self) -> dict[str, float]:
        steps = np.cumsum([len(roll) for roll in self.validation])
        return {"val_loss": evaluate(self.model, self.validation[: max(1, int((steps <= MAX_EVAL_STEPS).sum()))])}

    def sample_output(self) -> str:
        return self.predict_lines([Line("")], ComposeConfig(length=8, seed=0))[0].text

    # ------------------------------------------------------------------------------------------------ use

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """Return ``loss`` and ``nll``, both the mean nats per step, and how many ``pieces`` and predicted ``steps``.

        Of a file only the part "test" counts; where there is none, "valid"; where there is neither, all of it.
        """
        rolls: Rolls = []
        for source in sources:
            parts = read_rolls(source)
            part = next((name for name in ("test", "valid") if name in parts), None)
            rolls += parts[part] if part else itertools.chain(*parts.values())
        loss = evaluate(self.model, rolls)
        return {"loss": loss, "nll": loss, "pieces": len(rolls), "steps": _num_targets(rolls)}

    def predict_lines(self, lines: Sequence[Line], options: ComposeConfig | None = None) -> list[Prediction]:
        """Compose a piece for every beginning, see :func:`read_starts`, and one where there is no line.

        Raises:
            DataError: the lines are no beginnings of pieces, or a piece is too long for a file.
            OptionError: there is more than one piece for a file, or the file cannot be written.
        """
        return self._compositions(read_starts(lines) or [[]], options or ComposeConfig())

    def _compositions(self, starts: Sequence[Sequence[Step]], options: ComposeConfig) -> list[Prediction]:
        if len(starts) > 1 and (options.midi or options.wav):
            kind = "a MIDI" if options.midi else "a WAV"
            raise OptionError(f"{kind} file holds one piece, but {len(starts)} beginnings are given")
        seed = random.draw_seed() if options.seed is None else options.seed
        pieces = [self.compose(start, options.replace(seed=seed + number)) for number, start in enumerate(starts)]
        files = [(options.midi, midi_bytes(pieces[0], tempo=TEMPO))] if options.midi else []
        files += [(options.wav, wav_bytes(pieces[0], seconds_per_step=60 / TEMPO))] if options.wav else []
        for path, data in files:
            try:
                write_atomically(Path(path), data)
            except (OSError, ValueError) as error:  # ValueError: a path without a file's name
                raise OptionError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
        found = [[list(step) for step in piece] for piece in pieces]
        return [Prediction(json.dumps(piece), {"piece": piece}) for piece in found]

    def predict_batches(
        self, batches: Iterable[Sequence[Line]], options: ComposeConfig | None = None
    ) -> Iterator[list[Prediction]]:
        """Return the pieces for beginnings that arrive in batches, the same as :meth:`predict_lines` for all of them.

        All lines are waited for where they are one beginning, and where a file is to be written, which holds one piece.
        """
        options = options or ComposeConfig()
        seed = random.draw_seed() if options.seed is None else options.seed
        held, count = list[Line](), 0  # lines that wait for others, and those answered
        for batch in batches:
            held += batch
            first = next((text for text in (line.text.strip() for line in held) if text), None)
            if not count and (first is None or _is_open_list(first) or options.midi or options.wav):
                continue
            yield self._compositions([read_start(line) for line in held], options.replace(seed=seed + count))
            held, count = [], count + len(held)
        if not count:
            yield self.predict_lines(held, options.replace(seed=seed))

    def is_list_of_inputs(self, input: Any) -> bool:
        """Whether it holds texts, or lists with lists in them; a list of steps is one beginning."""
        lists = (list, tuple)
        return isinstance(input, lists) and any(
            isinstance(one, str) or (isinstance(one, lists) and any(isinstance(step, lists) for step in one))
            for one in input
        )

    def predict_inputs(self, inputs: Mapping[str, Any], options: ComposeConfig) -> list[Prediction]:
        """Return a piece for every beginning: a list of steps, a text as :func:`read_start` takes it, or None."""
        starts = []
        for name, one in inputs.items():
            steps = one.tolist() if isinstance(one, np.ndarray) else one
            if isinstance(steps, str):
                starts.append(read_start(*(Line(text, name) for text in steps.split("\n"))))
            elif steps is None or isinstance(steps, (list, tuple)):
                starts.append(roll_to_steps(_roll(steps or [], name), LOWEST_PITCH))
            else:
                expected = "steps such as [[60, 64], [62]], or a text such as 'C4,E4,G4'"
                raise DataError(f"{name}: expected the beginning of a piece, {expected}; got {type(one).__name__}")
        return self._compositions(starts, options)

    def compose(self, start: Sequence[Step] = (), options: ComposeConfig | None = None) -> list[Step]:
        """Return ``start`` and ``options.length`` steps after it; without a start, that many steps, the first drawn.

        Raises:
            DataError: a piano has no key for a pitch.
        """
        options = options or ComposeConfig()
        rng, length = random.generator_of(options.seed), options.length
        if not start:
            start = [self.starts[rng.integers(len(self.starts))] if self.starts else ()]
            length -= 1
        fed = _roll(start, "the start")
        piece = roll_to_steps(fed, LOWEST_PITCH)
        state: State = None
        with self.model.evaluating():
            for _ in range(length):
                logits, state = self.model(fed[:, None], None, state)
                fed = self.chords.draw(logits.numpy()[-1, 0], options.temperature, rng)[None]
                piece += roll_to_steps(fed, LOWEST_PITCH)
        return piece

    def initial_state(self) -> State:
        return self.model.initial_state()

    def step(self, input: Step, state: State) -> tuple[dict[int, float], State]:
        """Read the pitches of the next step, and return the probability of each of the 88 keys, by its pitch, to sound
        in the step after it.

        Raises:
            DataError: a piano has no key for a pitch.
        """
        logits, state = self.model.step(_roll([input], "step").astype(self.model.head.weight.dtype), state)
        probabilities = logits.sigmoid().numpy()[0].astype(np.float64).tolist()
        return dict(enumerate(probabilities, LOWEST_PITCH)), state


# ------------------------------------------------------------------------------------- beginnings of pieces


def read_starts(lines: Sequence[Line]) -> list[list[Step]]:
    """Return the beginning on every line, see :func:`read_start`.

    Where the first line that is not blank opens a list in JSON and does not close it, all lines are one beginning.

    Raises:
        DataError: as there.
    """
    first = next((number for number, line in enumerate(lines) if line.text.strip()), 0)
    if lines and _is_open_list(lines[first].text.strip()):
        return [read_start(*lines[first:])]
    return [read_start(line) for line in lines]


def _is_open_list(text: str) -> bool:
    if not text.startswith("["):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return True
    return False


def read_start(line: Line, *more: Line) -> list[Step]:
    """Return the beginning of a piece: ``[[60, 64], [62]]``, steps in JSON; or the notes of one step, ``60,64`` or
    ``C4 E4``. A blank line is the empty beginning. C4 is middle C, 60; a sharp is #, a flat b.

    Args:
        more: lines on which the JSON continues.

    Raises:
        DataError: it is neither, or a piano has no key for a pitch.
    """
    text = "\n".join(one.text for one in (line, *more)).strip()
    if text.startswith("["):
        try:
            piece = json.loads(text)
        except (ValueError, RecursionError) as error:
            at = (line, *more)[error.lineno - 1].where if isinstance(error, json.JSONDecodeError) else line.where
            it = "it" if at == line.where else line.where
            message = f"{at}: not JSON, though {it} begins with [; expected steps as in [[60, 64], [62]]"
            raise DataError(message) from None
    elif text.startswith("{"):
        raise DataError(
            f"{line.where}: got a JSON object, as files to train on are; expected the beginning of one piece: steps as "
            "in [[60, 64], [62]], or the notes of one step such as 60,64 or C4 E4"
        )
    else:
        piece = [[_pitch(note, line.where) for note in re.findall(r"[^,\s]+", text)]] if text else []
    return roll_to_steps(_roll(piece, line.where), LOWEST_PITCH)


_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SIGNS = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}


def _pitch(note: str, where: str) -> int:
    if re.fullmatch(r"[0-9]{1,3}", note):
        return int(note)
    if named := re.fullmatch(r"([A-Ga-g])([#♯b♭]?)(-?[0-9])", note):
        return 12 * (int(named[3]) + 1) + _SEMITONES[named[1].upper()] + _SIGNS[named[2]]
    raise DataError(f"{where}: expected notes such as 60 or C4, or steps as in [[60, 64], [62]]; got {note[:40]!r}")
