"""Speech: the label of a recording, read as log-mel features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.config import option
from minirnn.data.audio import MAX_BANDS, MAX_RATE, MAX_WINDOW, LogMel, read_audio, read_clips, resample
from minirnn.data.sequences import Buckets, pad
from minirnn.data.tables import Scaler
from minirnn.data.vocabulary import Labels
from minirnn.errors import DataError
from minirnn.metrics import accuracy, macro_f1
from minirnn.models import ManyToOne
from minirnn.nn import functional as F
from minirnn.tasks import base, fine_tuning
from minirnn.tasks.base import ExampleTask, Line, Prediction
from minirnn.tasks.fine_tuning import Indexed
from minirnn.training import TrainingConfig
from minirnn.validation import check_int

EVAL_BATCH_SIZE = 64
MAX_EVAL_SECONDS = 1800  # of a larger validation set the beginning is evaluated while training
MAX_STACK = 16
_SPEEDS = 40  # a speed is a multiple of 1/40: few filters, and kept


@dataclass(frozen=True, kw_only=True)
class SpeechConfig(base.BidirectionalConfig):
    """Options of :class:`SpeechRecognizer`."""

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
    stack: int = option(2, "Windows that are read in one step.", 1, MAX_STACK, group="Features")
    pooling: Literal["last", "mean", "max", "attention"] = option("mean", "How outputs of all steps become one.")
    speed: float = option(0.15, "Most by which a recording is faster or slower in training.", 0, 0.5, group="Training")
    noise: float = option(
        0.02, "Most noise in training, as a fraction of the loudness of a recording.", 0, 10, group="Training"
    )
    mask: float = option(
        0.2, "Most bands, and steps, that are hidden in training, as a fraction.", 0, 1, group="Training"
    )
    hidden_size: int = 128
    num_layers: int = 2
    dropout: float | None = 0.4


class Clips(NamedTuple):
    """Recordings: samples and rate of each, its label, and where it was read."""

    audio: Sequence[tuple[np.ndarray, int]]
    texts: Sequence[str]
    where: Sequence[str]


def read_speech(sources: Sequence[str], label_from: str = "auto") -> Clips:
    """Read recordings, see :func:`~minirnn.data.audio.read_clips` and :func:`~minirnn.data.audio.read_audio`.

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
    return Clips(audio, texts, where)


class SpeechRecognizer(ExampleTask[Clips, SpeechConfig]):
    """A recogniser of spoken words or sounds: one label for each recording.

    In training, a recording is read faster or slower by up to ``speed`` (Ko et al. 2015) with white noise of up to
    ``noise`` times its root mean square, and a range of up to ``mask`` of its bands and one of its steps are hidden, as
    in SpecAugment (Park et al. 2019). With ``speed`` and ``noise`` 0, the features are computed once.

    Args:
        model: from features to logits of the labels.
        features: of the samples. scaler: gives each column mean 0 and variance 1 on the training set.
        stack: frames in a step. labels: the classes.

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
        "with the path of a recording, a tab and its label per line (- is standard input)."
    )
    unit = "recordings"
    example = "minirnn predict {} recording.wav"
    Config = SpeechConfig
    training = TrainingConfig(minutes=3, lr=3e-3)
    predicts_files = True
    model: ManyToOne
    _clips: list[np.ndarray]
    _frames: list[np.ndarray] | None
    _classes: np.ndarray
    _validation: tuple[list[np.ndarray], np.ndarray]
    _options: SpeechConfig

    def __init__(self, model: ManyToOne, features: LogMel, scaler: Scaler, stack: int, labels: Labels) -> None:
        self.model, self.features, self.scaler, self.stack, self.labels = model, features, scaler, stack, labels

    @classmethod
    def read(cls, sources: Sequence[str], config: SpeechConfig) -> Clips:
        return read_speech(sources, config.label_from)

    @classmethod
    def _build(cls, data: Clips, config: SpeechConfig, init_from: Self | None) -> Self:
        audio, texts, where = data
        if len(set(texts)) == 1:
            raise DataError(f"{where[0]}: every recording has the label {texts[0]!r}; expected two or more")
        train, held = base.split_by_label(
            [{text} for text in texts], config.val_fraction, config.seed, "recording", where
        )
        rate = config.rate or min(16_000, Counter(audio[n][1] for n in train).most_common(1)[0][0])
        features = LogMel(rate, config.window, config.hop, config.bands, config.deltas, config.center)
        clips = [resample(samples, own, rate) for samples, own in audio]
        labels = Labels.of(texts[n] for n in train)
        if init_from is None:
            scaler = Scaler.fit(np.concatenate([features(clips[n]) for n in train]))
        else:
            scaler, labels = init_from.scaler, fine_tuning.merge_labels(init_from.labels, labels)
        random.manual_seed(config.seed)
        model = ManyToOne(
            features.size * config.stack, output_size=len(labels), pooling=config.pooling, **config.recurrent()
        )
        task = cls(model, features, scaler, config.stack, labels)
        task._options, task._clips = config, [clips[n] for n in train]
        task._frames = None if config.speed or config.noise else [task.normalized(clip) for clip in task._clips]
        task._classes = labels.encode([texts[n] for n in train])
        task.set_examples([len(clip) for clip in task._clips], config)
        seconds = np.cumsum([len(clips[n]) / rate for n in held])
        held = held[: max(1, int((seconds <= MAX_EVAL_SECONDS).sum()))]
        task._validation = [task.encode(clips[n]) for n in held], labels.encode([texts[n] for n in held])
        names = ("label_from", "speed", "noise", "mask", "batch_size", "val_fraction", "seed")
        rates = np.array([own for _, own in audio])
        task._data = {"sha256": base.fingerprint(texts, rates, *(one for one, _ in audio)), **config.subset(*names)}
        minutes = sum(map(len, clips)) / rate / 60
        task.summary = (
            f"{len(clips):,} recordings of {len(set(texts)):,} labels, {minutes:.1f} minutes at {rate:,} samples per "
            f"second; {config.bands} bands every {config.hop * 1000:g} ms"
        )
        return task

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        features, scaler = LogMel(**config["features"]), Scaler.from_config(config["scaler"])
        stack, labels = check_int("stack", config["stack"], 1, MAX_STACK), Labels.from_config(config["labels"])
        if len(scaler.mean) != features.size:
            raise DataError(f"scaler: expected {features.size} columns, got {len(scaler.mean)}")
        sizes = {"input_size": features.size * stack, "output_size": len(labels)}
        return cls(base.rebuild(ManyToOne, config["model"] | sizes, arrays), features, scaler, stack, labels)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | asdict(self.features) | {"stack": self.stack}

    def indexed(self) -> dict[str, Indexed]:
        return {"labels": Indexed(self.labels, ("head",))}

    def vocabulary_config(self) -> dict[str, Any]:
        return {
            "features": asdict(self.features),
            "scaler": self.scaler.to_config(),
            "stack": self.stack,
            "labels": self.labels.to_config(),
        }

    # ------------------------------------------------------------------------------------------- training

    def batch_loss(self, examples: np.ndarray, progress: float) -> tuple[Tensor, int]:
        logits = self.model(*pad([self._augmented(n) for n in examples]))
        return F.cross_entropy(logits, self._classes[examples]), len(examples)

    def _augmented(self, example: int) -> np.ndarray:
        """The inputs of a training example, as it is read this time."""
        options, rng = self._options, random.generator()
        if self._frames is not None:
            frames = self._frames[example].copy()
        else:
            clip = self._clips[example]
            clip = resample(clip, round(_SPEEDS * (1 + options.speed * rng.uniform(-1, 1))), _SPEEDS)
            level = options.noise * rng.uniform() * np.sqrt(np.mean(clip**2))
            frames = self.normalized(clip + level * rng.standard_normal(len(clip), np.float32))
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

    def logits(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Return logits [N, C] of encoded recordings; those of similar length are batched."""
        found = np.zeros((len(inputs), len(self.labels)), next(self.model.parameters()).dtype)
        with self.model.evaluating():
            for batch in Buckets([len(one) for one in inputs], EVAL_BATCH_SIZE).in_order():
                found[batch] = self.model(*pad([inputs[n] for n in batch])).numpy()
        return found

    def metrics(self, inputs: Sequence[np.ndarray], classes: np.ndarray) -> dict[str, float]:
        """Return the mean ``loss`` in nats per recording, ``accuracy``, and ``macro_f1``, of encoded recordings.

        Labels that training never saw count as in :meth:`Classifier.metrics <minirnn.tasks.Classifier.metrics>`.
        """
        logits = self.logits(inputs)
        predicted = logits.argmax(1)
        return {
            "loss": F.cross_entropy(logits, base.mask_unseen(classes, len(self.labels))).item(),
            "accuracy": accuracy(predicted, classes),
            "macro_f1": macro_f1(predicted, classes, max(len(self.labels), int(classes.max()) + 1)),
        }

    def measure(self, sources: Sequence[str]) -> dict[str, float]:
        """As :meth:`metrics`, on a folder or files, see :func:`read_speech`; labels are found as in training."""
        audio, texts, where = read_speech(sources, self._data.get("label_from", "auto"))
        classes, _ = base.encode_labels(self.labels, texts, where.__getitem__)
        return self.metrics([self.encode(*one) for one in audio], classes)

    def predict_lines(self, lines: Sequence[Line], options: None = None) -> list[Prediction]:
        """Return the most likely label of the recording whose path each line is, with the probabilities of all."""
        return self._predictions([(line.text.strip(), self._read(line.text.strip(), line.where)) for line in lines])

    def is_list_of_inputs(self, input: Any) -> bool:
        """Whether it is a list of recordings; a pair of samples and their rate is one."""
        return isinstance(input, (list, tuple)) and not _is_pair(input)

    def predict_inputs(self, inputs: Mapping[str, Any], options: Any) -> list[Prediction]:
        """Return the label of each recording: the path of a file, or a pair of samples [S], from -1 to 1, and rate."""
        return self._predictions([self._recording(name, one) for name, one in inputs.items()])

    def _recording(self, name: str, input: Any) -> tuple[str | None, np.ndarray]:
        if not _is_pair(input):
            if not isinstance(input, str) and not hasattr(input, "__fspath__"):
                expected = "the path of a recording, or a pair (samples, rate)"
                raise DataError(f"{name}: expected {expected}, got {type(input).__name__}")
            return str(input), self._read(str(input), name)
        samples, rate = np.asarray(input[0]), check_int(f"{name}: rate", input[1], 1, MAX_RATE)
        if samples.ndim != 1 or not samples.size or samples.dtype.kind != "f" or not np.isfinite(samples).all():
            expected = "samples [S] of a floating-point type, at least one, all finite"
            raise DataError(f"{name}: expected {expected}, got {samples.dtype} {list(samples.shape)}")
        return None, self.encode(samples, rate)

    def _read(self, path: str, where: str) -> np.ndarray:
        if not path:
            raise DataError(f"{where}: expected the path of a recording, got an empty text")
        return self.encode(*read_audio(path))

    def _predictions(self, recordings: Sequence[tuple[str | None, np.ndarray]]) -> list[Prediction]:
        found, logits = [], self.logits([inputs for _, inputs in recordings])
        for (path, _), row in zip(recordings, logits, strict=True):
            probabilities = dict(zip(self.labels.names, base.softmax(row), strict=True))
            label = max(probabilities, key=probabilities.__getitem__)
            facts = {"label": label, "probability": probabilities[label], "probabilities": probabilities}
            found.append(Prediction(label, {"path": path, **facts}))
        return found


def _is_pair(input: Any) -> bool:
    return isinstance(input, tuple) and len(input) == 2 and isinstance(input[0], np.ndarray)
