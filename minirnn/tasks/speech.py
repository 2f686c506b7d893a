"""Speech: the label or the transcript of a recording, read as log-mel features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.config import Config, option
from minirnn.data.audio import MAX_BANDS, MAX_RATE, MAX_WINDOW, LogMel, read_audio, read_clips, resample
from minirnn.data.sequences import pad
from minirnn.data.tables import Scaler
from minirnn.data.vocabulary import Labels
from minirnn.decode import ctc_beam_search, ctc_greedy
from minirnn.errors import DataError, OptionError
from minirnn.metrics import char_error_rate, word_error_rate
from minirnn.models import ManyToMany, ManyToOne
from minirnn.nn import functional as F
from minirnn.tasks import base, fine_tuning
from minirnn.tasks.base import ExampleTask, Line, Prediction
from minirnn.tasks.fine_tuning import Indexed
from minirnn.tasks.outputs import class_facts, class_metrics, outputs_of, run
from minirnn.training import TrainingConfig
from minirnn.validation import check_choice, check_int

Target = Literal["label", "transcript"]

EVAL_BATCH_SIZE = 64
MAX_EVAL_SECONDS = 1800  # of a larger validation set the beginning is evaluated while training
MAX_STACK = 16
DEFAULT_BEAM = 8
MIN_STD = 0.1  # of a column, so that noise in a band without sound does not become loud
_SPEEDS = 40  # a speed is a multiple of 1/40: few filters, and kept


@dataclass(frozen=True, kw_only=True)
class SpeechConfig(base.BidirectionalConfig):
    """Options of :class:`SpeechRecognizer`."""

    target: Literal["auto", "label", "transcript"] = option(
        "auto",
        "Learn one label for a recording, or its transcript; auto: the transcript where a file lists the recordings.",
        group="Data",
    )
    label_from: Literal["auto", "name", "folder"] = option(
        "auto",
        "Label of a recording in a folder: its name up to the first _, or the sub-folder it lies in; auto: the "
        "sub-folder where there is one.",
        group="Data",
    )
    rate: int | None = option(
        None,
        "Samples per second that are read; by default the most frequent rate of the recordings, at most 16000.",
        100,
        MAX_RATE,
        group="Data",
    )
    window: float = option(0.025, "Seconds in a window.", 0.001, MAX_WINDOW, group="Features")
    hop: float = option(0.01, "Seconds between the beginnings of two windows.", 0.001, MAX_WINDOW, group="Features")
    bands: int = option(40, "Bands of frequencies.", 1, MAX_BANDS, group="Features")
    deltas: bool = option(False, "Add the slope of each band.", flags=("--deltas/--no-deltas",), group="Features")
    center: bool = option(
        True,
        "Subtract from each band its mean over the recording: that of the voice and the microphone.",
        flags=("--center/--no-center",),
        group="Features",
    )
    stack: int = option(3, "Windows that are read in one step.", 1, MAX_STACK, group="Features")
    pooling: Literal["last", "mean", "max", "attention"] = option(
        "max", "How outputs of all steps become one, for a label."
    )
    speed: float = option(0.2, "Most by which a recording is faster or slower in training.", 0, 0.5, group="Training")
    warp: float = option(
        0.2, "Most by which frequencies are scaled in training, besides by the speed.", 0, 1, group="Training"
    )
    noise: float = option(
        0.02, "Most noise in training, as a fraction of the loudness of a recording.", 0, 10, group="Training"
    )
    mask: float = option(
        0.2, "Most bands, and steps, that are hidden in training, as a fraction.", 0, 1, group="Training"
    )
    hidden_size: int = 128
    num_layers: int = 2
    dropout: float | None = 0.5
    batch_size: int = 16


@dataclass(frozen=True, kw_only=True)
class RecognizeConfig(Config):
    """Options of :meth:`SpeechRecognizer.predict_lines`."""

    group = "Speech recogniser"
    beam: int | None = option(None, "Width of the beam search; 1 is greedy.", 1)


class Clips(NamedTuple):
    """Recordings: samples and rate of each, its label or transcript, and where it was read; and which of both it is."""

    audio: Sequence[tuple[np.ndarray, int]]
    texts: Sequence[str]
    where: Sequence[str]
    target: Target = "label"


def read_speech(sources: Sequence[str], label_from: str = "auto", target: str = "auto") -> Clips:
    """Read recordings, see :func:`~minirnn.data.audio.read_clips` and :func:`~minirnn.data.audio.read_audio`.

    With ``target`` "auto" folders have labels, and files that list recordings transcripts.

    Raises:
        DataError, OptionError: as there; of a list of recordings with the line.
    """
    paths, texts, where = read_clips(sources, label_from)
    audio = []
    for path, place in zip(paths, where, strict=True):
        try:
            audio.append(read_audio(path))
        except DataError as error:
            raise DataError(str(error) if place == path else f"{place}: {error}") from None
    labelled = target == "label" or (target == "auto" and all(Path(source).is_dir() for source in sources))
    texts = texts if labelled else [" ".join(text.split()) for text in texts]
    return Clips(audio, texts, where, "label" if labelled else "transcript")


class SpeechRecognizer(ExampleTask[Clips, SpeechConfig]):
    """A recogniser of speech or other sounds: of each recording one label, or a transcript.

    A label is read from all outputs together (:class:`~minirnn.models.ManyToOne`). A transcript is learnt by
    connectionist temporal classification, without times: the model gives each step a character or the blank
    (:class:`~minirnn.models.ManyToMany`, :func:`~minirnn.nn.functional.ctc_loss`).

    In training, a recording is read faster or slower by up to ``speed`` (Ko et al. 2015), its frequencies are scaled by
    exp(-``warp``) to exp(``warp``) (Jaitly & Hinton 2013), white noise of up to ``noise`` times its root mean square is
    added, and a range of up to ``mask`` of its bands and one of its steps are hidden, as
    in SpecAugment (Park et al. 2019). With ``speed`` and ``noise`` 0, the features are computed once.

    Args:
        model: from features to logits of the labels.
        features: of the samples. scaler: gives each column mean 0 and variance 1 on the training set.
        stack: frames in a step. labels: the classes; of transcripts the characters, and first "", the blank.
        target: "label" or "transcript".

    >>> recognizer = SpeechRecognizer.load("checkpoints/digits/best.safetensors")  # doctest: +SKIP
    >>> recognizer.predict("7_jackson_32.wav")["label"]  # doctest: +SKIP
    '7'
    >>> recognizer.predict((samples, 8000))["label"]  # doctest: +SKIP
    '7'
    """

    name = "speech"
    description = "a speech recogniser"
    help = "Train a recogniser of speech or other sounds on recordings (WAV; FLAC and OGG with the extra audio)."
    sources_help = (
        "A folder of recordings with a label in each name (7_jackson_32.wav) or a sub-folder for each label; or files "
        "with the path of a recording, a tab and its transcript per line (- is standard input)."
    )
    unit = "recordings"
    example = "minirnn predict {} recording.wav"
    Config = SpeechConfig
    PredictConfig = RecognizeConfig
    training = TrainingConfig(minutes=3, lr=3e-3)
    file_suffixes = ("",)
    model: ManyToOne | ManyToMany
    _clips: list[np.ndarray]
    _frames: list[np.ndarray] | None
    _targets: list[np.ndarray]
    _validation: tuple[list[np.ndarray], list[str]]
    _options: SpeechConfig

    def __init__(
        self,
        model: ManyToOne | ManyToMany,
        features: LogMel,
        scaler: Scaler,
        stack: int,
        labels: Labels,
        target: Target = "label",
    ) -> None:
        self.model, self.features, self.scaler, self.stack, self.labels = model, features, scaler, stack, labels
        self.target: Target = target

    @classmethod
    def read(cls, sources: Sequence[str], config: SpeechConfig) -> Clips:
        return read_speech(sources, config.label_from, config.target)

    @classmethod
    def _build(cls, data: Clips, config: SpeechConfig, init_from: Self | None) -> Self:
        audio, texts, where, target = data
        spoken: list[list[str]] = [[text] if target == "label" else list(text) for text in texts]
        if init_from is not None and target != init_from.target:
            raise OptionError(f"target: expected {init_from.target}s, as the trained model gives, got {target}s")
        if target == "label" and len(set(texts)) == 1:
            raise DataError(f"{where[0]}: every recording has the label {texts[0]!r}; expected two or more")
        train, held = base.split_by_label(
            [set(parts) for parts in spoken], config.val_fraction, config.seed, "recording", where
        )
        rate = config.rate or min(16_000, Counter(audio[n][1] for n in train).most_common(1)[0][0])
        features = LogMel(rate, config.window, config.hop, config.bands, config.deltas, config.center)
        clips = [resample(samples, own, rate) for samples, own in audio]
        labels = Labels.of([part for n in train for part in spoken[n]] + [""] * (target == "transcript"))
        if init_from is None:
            scaler = Scaler.fit(np.concatenate([features(clips[n]) for n in train]))
            scaler = Scaler(scaler.mean, np.maximum(scaler.std, MIN_STD))
        else:
            scaler, labels = init_from.scaler, fine_tuning.merge_labels(init_from.labels, labels)
        random.manual_seed(config.seed)
        sizes: dict[str, Any] = {"input_size": features.size * config.stack, "output_size": len(labels)}
        model: ManyToOne | ManyToMany
        if target == "label":
            model = ManyToOne(**sizes, pooling=config.pooling, **config.recurrent())
        else:
            model = ManyToMany(**sizes, **config.recurrent())
        task = cls(model, features, scaler, config.stack, labels, target)
        task._options, task._clips = config, [clips[n] for n in train]
        task._frames = None if config.speed or config.noise else [task.normalized(clip) for clip in task._clips]
        task._targets = [labels.encode(spoken[n]) for n in train]
        if target == "transcript":
            task._check_lengths([where[n] for n in train])
        task.set_examples([len(clip) for clip in task._clips], config)
        seconds = np.cumsum([len(clips[n]) / rate for n in held])
        held = held[: max(1, int((seconds <= MAX_EVAL_SECONDS).sum()))]
        task._validation = [task.encode(clips[n]) for n in held], [texts[n] for n in held]
        names = ("label_from", "speed", "warp", "noise", "mask", "batch_size", "val_fraction", "seed")
        rates = np.array([own for _, own in audio])
        hashed = base.fingerprint(texts, rates, *(one for one, _ in audio))
        task._data = {"sha256": hashed, "target": target, **config.subset(*names)}
        minutes = sum(map(len, clips)) / rate / 60
        task.summary = (
            f"{len(clips):,} recordings of {len(labels) - (target == 'transcript'):,} "
            f"{'labels' if target == 'label' else 'characters'}, {minutes:.1f} minutes at {rate:,} samples per "
            f"second; {config.bands} bands every {config.hop * 1000:g} ms"
        )
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        features, scaler = LogMel(**config["features"]), Scaler.from_config(config["scaler"])
        stack, labels = check_int("stack", config["stack"], 1, MAX_STACK), Labels.from_config(config["labels"])
        target: Target = config["target"]
        check_choice("target", target, get_args(Target))
        if len(scaler.mean) != features.size or (target == "transcript" and labels.names[0]):
            raise DataError(
                f"expected {features.size} columns of the scaler, and the blank as first label of transcripts"
            )
        sizes = {"input_size": features.size * stack, "output_size": len(labels)}
        model: Any = ManyToOne if target == "label" else ManyToMany
        return cls(base.rebuild(model, config["model"] | sizes, arrays), features, scaler, stack, labels, target)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | asdict(self.features) | {"stack": self.stack, "target": self.target}

    def indexed(self) -> dict[str, Indexed]:
        return {"labels" if self.target == "label" else "characters": Indexed(self.labels, ("head",))}

    def vocabulary_config(self) -> dict[str, Any]:
        return {
            "features": asdict(self.features),
            "scaler": self.scaler.to_config(),
            "stack": self.stack,
            "labels": self.labels.to_config(),
            "target": self.target,
        }

    # ------------------------------------------------------------------------------------------- training

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        inputs, lengths = pad(
            [self._augmented(*one) for one in zip(examples, random.generators(len(examples)), strict=True)]
        )
        outputs = run(self.model, inputs, lengths)
        return self._loss(outputs, lengths, [self._targets[n] for n in examples]), len(examples)

    def _loss(self, outputs: Tensor, lengths: np.ndarray, targets: Sequence[np.ndarray]) -> Tensor:
        """Mean over the recordings, in nats; of transcripts per character. One that a speed has made too short is 0."""
        if self.target == "label":
            return F.cross_entropy(outputs, np.concatenate(targets))
        counts = [len(one) for one in targets]
        return F.ctc_loss(F.log_softmax(outputs, -1), np.concatenate(targets), lengths, counts, zero_infinity=True)

    def _check_lengths(self, where: Sequence[str]) -> None:
        """Refuse a transcript that is too long for its recording: equal characters need a blank between them."""
        for samples, target, place in zip(self._clips, self._targets, where, strict=True):
            steps, needed = len(self.encode(samples)), len(target) + int((target[1:] == target[:-1]).sum())
            if steps < needed:
                raise DataError(
                    f"{place}: a transcript of {len(target)} characters needs {needed} steps, but the recording has "
                    f"{steps}; lower --stack or --hop"
                )

    def _augmented(self, example: int, rng: np.random.Generator) -> np.ndarray:
        """The inputs of a training example, as it is read this time."""
        options = self._options
        if self._frames is not None:
            frames = self._frames[example].copy()
        else:
            clip = self._clips[example]
            clip = resample(clip, round(_SPEEDS * (1 + options.speed * rng.uniform(-1, 1))), _SPEEDS)
            level = options.noise * rng.uniform() * np.sqrt(np.mean(clip**2))
            frames = self.normalized(clip + level * rng.standard_normal(len(clip), np.float32))
        if options.warp:
            frames = self.features.warp(frames, float(np.exp(options.warp * rng.uniform(-1, 1))))
        bands = frames.reshape(len(frames), -1, self.features.bands)  # a view: slopes are masked with their bands
        for axis in (0, 2):
            size = bands.shape[axis]
            width = rng.integers(0, int(options.mask * size), endpoint=True)
            first = rng.integers(0, size - width, endpoint=True)
            bands.swapaxes(0, axis)[first : first + width] = 0
        return self.stacked(frames)

    def evaluate(self) -> dict[str, float]:
        metrics = self.metrics(*self._validation)
        return {"val_loss": metrics.pop("loss"), **metrics}

    # ------------------------------------------------------------------------------------------------ use

    def normalized(self, samples: np.ndarray) -> np.ndarray:
        """Return the features [T, F] of samples [S] at the rate of ``features``, as ``scaler`` scales them, float32."""
        return self.scaler.apply(self.features(samples)).astype(np.float32)

    def stacked(self, frames: np.ndarray) -> np.ndarray:
        """Return frames [T, F] as inputs of the model [ceil(T / stack), stack F], the last one padded with zeros."""
        return np.pad(frames, ((0, -len(frames) % self.stack), (0, 0))).reshape(-1, self.stack * frames.shape[1])

    def encode(self, samples: np.ndarray, rate: int | None = None) -> np.ndarray:
        """Return the inputs of the model of a recording [S], of another rate where one is given."""
        return self.stacked(self.normalized(samples if rate is None else resample(samples, rate, self.features.rate)))

    def logits(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the logits of each encoded recording: of its label [1, C], or of characters at every step [T, C]."""
        return outputs_of(self.model, inputs, EVAL_BATCH_SIZE)

    def metrics(
        self, inputs: Sequence[np.ndarray], texts: Sequence[str], where: Sequence[str] = ()
    ) -> dict[str, float]:
        """Return how well encoded recordings are recognised.

        Of labels: the mean ``loss`` in nats per recording, ``accuracy``, and ``macro_f1``; labels that training never
        saw are errors, and not in ``loss``. Of transcripts, on the most likely path: the mean ``loss`` in nats per
        character, of those whose characters training has seen, and the error rates of characters and words, ``cer``
        and ``wer``.

        Args:
            inputs, texts: of each recording. where: their places, for messages.
        """
        logits = self.logits(inputs)
        if self.target == "label":
            classes, _ = base.encode_labels(self.labels, texts, (where or texts).__getitem__)
            return class_metrics(np.concatenate(logits), classes, len(self.labels))
        known, losses = set(self.labels.names), []
        for rows, text in zip(logits, texts, strict=True):
            if known.issuperset(text):
                targets = [self.labels.encode(list(text))]
                losses.append(self._loss(Tensor(rows[:, None]), np.array([len(rows)]), targets).item())
        found = self._transcribe(logits, 1)
        return {
            "loss": float(np.mean(losses)) if losses else float("nan"),
            "cer": char_error_rate([text for text, _ in found], texts),
            "wer": word_error_rate([text for text, _ in found], texts),
        }

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, on a folder or files, see :func:`read_speech`; labels are found as in training."""
        audio, texts, where, _ = read_speech(sources, self._data.get("label_from", "auto"), self.target)
        return self.metrics([self.encode(*one) for one in audio], texts, where)

    def predict_lines(self, lines: Sequence[Line], options: RecognizeConfig | None = None) -> list[Prediction]:
        """Return the most likely label, with the probabilities of all, or the transcript of each line's recording.

        A line is the path of a recording.
        """
        found = [self._recording(line.where, line.text.strip()) for line in lines]
        return self._predictions(found, options or RecognizeConfig())

    def predict_files(self, paths: Sequence[str], options: RecognizeConfig | None = None) -> list[Prediction]:
        """As :meth:`predict_lines`, of recordings with these paths."""
        return self.predict_lines([Line(path, path) for path in paths], options)

    def is_list_of_inputs(self, input: Any) -> bool:
        """Whether it is a list of recordings; a pair of samples and their rate is one."""
        return isinstance(input, (list, tuple)) and not _is_pair(input)

    def predict_inputs(self, inputs: Mapping[str, Any], options: Any) -> list[Prediction]:
        """As :meth:`predict_lines`; a recording is the path of a file, or a pair of samples [S], -1 to 1, and rate."""
        return self._predictions([self._recording(name, one) for name, one in inputs.items()], options)

    def _recording(self, name: str, input: Any) -> tuple[str | None, np.ndarray]:
        if not _is_pair(input):
            if not isinstance(input, str) and not hasattr(input, "__fspath__"):
                expected = "the path of a recording, or a pair (samples, rate)"
                raise DataError(f"{name}: expected {expected}, got {type(input).__name__}")
            if not input:
                raise DataError(f"{name}: expected the path of a recording, got an empty text")
            return str(input), self.encode(*read_audio(input))
        samples, rate = np.asarray(input[0]), check_int(f"{name}: rate", input[1], 1, MAX_RATE)
        if samples.ndim != 1 or not samples.size or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            expected = "samples [S] of a floating-point type, at least one, all finite"
            raise DataError(f"{name}: expected {expected}, got {samples.dtype} {list(samples.shape)}")
        return None, self.encode(samples, rate)

    def _predictions(
        self, recordings: Sequence[tuple[str | None, np.ndarray]], options: RecognizeConfig
    ) -> list[Prediction]:
        if self.target == "label" and options.beam is not None:
            raise OptionError("beam: the model gives labels; only transcripts are searched for")
        found, logits = [], self.logits([inputs for _, inputs in recordings])
        if self.target == "transcript":
            transcripts = self._transcribe(logits, options.beam or DEFAULT_BEAM)
            for (path, _), (text, log_prob) in zip(recordings, transcripts, strict=True):
                found.append(Prediction(text, {"path": path, "transcript": text, "log_probability": log_prob}))
            return found
        for (path, _), rows in zip(recordings, logits, strict=True):
            facts = class_facts(self.labels.names, rows[0])
            found.append(Prediction(facts["label"], {"path": path, **facts}))
        return found

    def _transcribe(self, logits: Sequence[np.ndarray], beam: int) -> list[tuple[str, float]]:
        """The most likely text of each recording, and its log-probability; with ``beam`` 1 of the best path."""
        found = []
        for rows in logits:
            log_probs = F.log_softmax(rows.astype(np.float64)[:, None], -1).numpy()
            best = ctc_greedy(log_probs)[0] if beam == 1 else ctc_beam_search(log_probs, width=beam)[0][0]
            found.append(("".join(self.labels.decode(best.tokens)), float(best.log_prob)))
        return found


def _is_pair(input: Any) -> bool:
    return isinstance(input, tuple) and len(input) == 2 and isinstance(input[0], np.ndarray)
