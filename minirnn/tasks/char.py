"""Language models of characters, bytes or words.

Text is read in contiguous streams, the state is carried from chunk to chunk (truncated BPTT).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from minirnn import distributed, random
from minirnn.autograd.tensor import Tensor
from minirnn.config import Config, option
from minirnn.data import corpus
from minirnn.data.corpus import Encode, S, Store, read_bytes, read_characters, read_words, renumber
from minirnn.data.text import Bytes, Streams, Symbols, Words, iter_chunks, symbols_from_config, union
from minirnn.errors import DataError
from minirnn.kernels.contract import Weights
from minirnn.models import CharLM
from minirnn.models.body import CellLike
from minirnn.nn.state import State, pack_state, unpack_state
from minirnn.tasks.base import Line, Prediction, Task, WindowConfig, check_text, rebuild, softmax
from minirnn.tasks.fine_tuning import Indexed, numbers_in
from minirnn.tasks.scoring import Score, Scorer, perplexity
from minirnn.training import TrainingConfig
from minirnn.validation import check_choice

EVAL_STREAMS, EVAL_STEPS = 32, 256
DROPOUT_PER_PASS, MAX_DROPOUT = 0.006, 0.5
"""Where no rate of dropout is given: for each pass over a text that has as many symbols as the model has parameters;
otherwise times the square root of parameters / symbols. By experiment, see ``benchmarks/learning.md``."""
_LIKELY_WORK = 5.6e12  # symbols read times parameters, in 3 minutes of two cores, before the speed is known
WEIGHTS: dict[str, Weights] = {"fp32": "float32", "bf16": "bfloat16", "int8": "int8"}
MAX_EVAL_SYMBOLS = 1 << 17  # of a larger validation set the beginning is evaluated


@dataclass(frozen=True, kw_only=True)
class TextConfig(WindowConfig):
    """Options of language models."""

    cell: CellLike = "layer_norm_gru"
    hidden_size: int = 256
    batch_size: int = 16
    recompute_every: int | None = option(
        None, "Save memory: store every n-th state only, and recompute the others.", 1, flags=("--recompute",)
    )


@dataclass(frozen=True, kw_only=True)
class CharConfig(TextConfig):
    """Options of :class:`TextGenerator`; ``benchmarks/learning.md`` has why they are what they are."""

    as_bytes: bool = option(False, "Read bytes, of any kind of file.", flags=("--bytes",), group="Data")
    num_layers: int = 2
    dropout: float | None = option(
        None,
        "Fraction of the outputs of each layer dropped; follows from the passes over the text if not given.",
        0,
        0.95,
    )
    weight_drop: float | None = option(
        None, "Fraction of the recurrent weights dropped; follows from the passes over the text if not given.", 0, 0.99
    )


@dataclass(frozen=True, kw_only=True)
class NextConfig(Config):
    """Options of :meth:`TextGenerator.predict`."""

    alternatives: int | None = option(None, "The number of most likely next symbols to give; all by default.", 1)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Config):
    """Options of :meth:`TextGenerator.sample` and :meth:`~TextGenerator.stream`."""

    group = "Sampling"
    prime: str = option("", "Text to continue.", flags=("--prime", "--prompt"))
    length: int = option(1000, "Symbols to generate.", 0, flags=("--length", "--max-new-tokens"))
    temperature: float = option(0.8, "Lower is safer, higher more surprising, 0 the most likely symbol.", 0)
    top_k: int | None = option(None, "Sample from the k most likely symbols only.", 1)
    top_p: float | None = option(None, "Sample from the smallest set of symbols with this probability.", None, 1)
    seed: int | None = option(None, "Random seed: the same seed gives the same text.", 0)
    stop: str | None = option(None, "End the text after this string.")
    weights: Literal["fp32", "bf16", "int8"] = option("fp32", "Store the weights in fewer bits; int8 needs VNNI.")


class Corpus(NamedTuple):
    """Text as numbers: tokens [S] and what they stand for."""

    tokens: np.ndarray
    symbols: Symbols


def read_corpus(sources: Sequence[str], symbols: Symbols | None = None, store: Store = corpus.store) -> Corpus:
    """Read files, ``-`` or ``@python``.

    Args:
        symbols: what to read them as; as all their characters where None.
        store: makes one array of the tokens; with :func:`store_once` one rank of a machine reads for all.

    Raises:
        DataError: a source cannot be read, is empty, or is not text.
    """
    if isinstance(symbols, Bytes):
        return Corpus(*read_bytes(sources, store))
    if isinstance(symbols, Words):
        return Corpus(*read_words(sources, symbols, store=store))
    return Corpus(*read_characters(sources, symbols, store))


def store_once(encode: Encode[S], /) -> tuple[np.ndarray, S]:
    """As :func:`minirnn.data.corpus.store`, by one rank of each machine, whose file all map; without MPI the same.

    All ranks of the machine must call it.
    """
    with distributed.on_machine():
        if distributed.size() == 1:
            return corpus.store(encode)

        def write(file: IO[bytes]) -> tuple[str, dict[str, Any] | None]:
            blocks, symbols = encode()
            try:
                return corpus.write_blocks(file, blocks).str, None if symbols is None else symbols.to_config()
            except OSError as error:
                raise corpus.cannot_store(error) from None

        file, (dtype, config) = distributed.write_once(write)
        symbols: Any = None if config is None else symbols_from_config(config)
        with file:
            return corpus.map_file(file, np.dtype(dtype)), symbols


def evaluate(model: CharLM, streams: Streams) -> dict[str, float]:
    """Return the mean ``loss`` in nats per symbol, also in bits and as perplexity.

    Each stream starts from the zero state.
    """
    total, state = 0.0, None
    with model.evaluating():
        for inputs, targets in streams:
            loss, state = model.loss(inputs, targets, state, reduction="sum")
            total += loss.item()
    mean = total / (streams.tokens.size - streams.batch_size)
    return {"loss": mean, "bits_per_symbol": mean / math.log(2), "perplexity": perplexity(mean)}


class TextGenerator(Task[Corpus, TextConfig]):
    """A character model: learns to predict the next symbol of a text, and writes text of its own.

    Args:
        model: predicts the next token.
        symbols: what the tokens stand for.

    >>> generator = TextGenerator.load("checkpoints/corpus/best.safetensors")  # doctest: +SKIP
    >>> generator.sample("To be", 200, seed=1)  # doctest: +SKIP
    >>> generator.predict("To be")["probabilities"]  # doctest: +SKIP
    """

    name = "char"
    description = "a character model"
    help = "Train a character model on text. The end of the text is the validation set."
    sources_help = "Text files; - is standard input, @python the source of Python's standard library."
    example = "minirnn sample {}"
    Config: ClassVar[type[TextConfig]] = CharConfig
    PredictConfig = NextConfig
    metric: ClassVar = "bits_per_symbol"
    training = TrainingConfig(minutes=3, lr=4e-3)
    model: CharLM
    _train: Streams
    _validation: Streams
    _recompute_every: int | None
    _open_rates: Sequence[str] = ()

    def __init__(self, model: CharLM, symbols: Symbols) -> None:
        self.model, self.symbols, self.unit = model, symbols, symbols.kind
        self._state: State = None

    @classmethod
    def read(cls, sources: Sequence[str], config: Any) -> Corpus:
        return read_corpus(sources, Bytes() if config.as_bytes else None, store_once)

    @classmethod
    def _build(cls, data: Corpus, config: TextConfig, init_from: Self | None) -> Self:
        tokens = data.tokens
        cut = tokens.size - max(2, round(tokens.size * config.val_fraction))
        if cut < 2:
            raise DataError(
                f"the corpus has only {tokens.size} symbols; expected at least 4, and many more to learn from"
            )
        symbols = cls._vocabulary(data, config)
        if init_from is not None:
            symbols = union(init_from.symbols, symbols)
        if symbols.entries() != data.symbols.entries():
            tokens = renumber(tokens, np.maximum(numbers_in(symbols, data.symbols), 0), store_once)
        training, validation = cls._split(tokens, cut)
        train = Streams.of(training, config.batch_size, config.seq_length)
        random.manual_seed(config.seed)
        arguments = config.recurrent()
        given = {name: value for name, value in arguments.items() if value is not None}
        task = cls(CharLM(len(symbols), **given), symbols)
        droppable = ("dropout", "weight_drop") if task.model.layers.cell.recurrent_gates else ("dropout",)
        task._open_rates = [name for name in droppable if name not in given]
        task._train, task.num_batches = train, len(train)
        task._validation = Streams.of(validation[:MAX_EVAL_SYMBOLS], EVAL_STREAMS, EVAL_STEPS)
        task._recompute_every = config.recompute_every
        digest = hashlib.sha256("\n".join(symbols.vocabulary.tokens).encode() if isinstance(symbols, Words) else b"")
        for piece in iter_chunks(tokens):
            digest.update(np.ascontiguousarray(piece).data)
        task._data = {
            "sha256": digest.hexdigest(),
            **config.subset("batch_size", "seq_length", "val_fraction", "seed"),
        }
        task.summary = f"{tokens.size:,} {symbols.kind}, {len(symbols)} different"
        task.expect_passes(_LIKELY_WORK / (task.model.num_parameters() * len(training)))
        return task

    def expect_passes(self, passes: float) -> str:
        """Set the rates of dropout and weight drop that the options left open."""
        if not self._open_rates:
            return ""
        per_pass = DROPOUT_PER_PASS * math.sqrt(self.model.num_parameters() / self._train.tokens.size)
        rate = round(min(MAX_DROPOUT, passes * per_pass), 3)
        self.model.set_dropout(**dict.fromkeys(self._open_rates, rate))
        return f"{' and '.join(self._open_rates).replace('_', '-')} {rate:g}" if rate else "no dropout"

    def adopt(self, saved: Mapping[str, Any]) -> None:
        """Set these rates to those of a run that is resumed."""
        rates = saved.get("model", {})
        self.model.set_dropout(**{name: rates.get(name) for name in self._open_rates})

    @classmethod
    def _vocabulary(cls, data: Corpus, config: TextConfig) -> Symbols:
        """The vocabulary of a new model."""
        return data.symbols

    @classmethod
    def _split(cls, tokens: np.ndarray, cut: int) -> tuple[np.ndarray, np.ndarray]:
        """The training and the validation set; ``cut`` is the size of the first by the options."""
        return tokens[:cut], tokens[cut:]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        symbols = symbols_from_config(config["symbols"])
        return cls(rebuild(CharLM, config["model"] | {"vocab_size": len(symbols)}, arrays), symbols)

    def architecture(self) -> dict[str, Any]:
        return super().architecture() | self._reading()

    def _reading(self) -> dict[str, Any]:
        """The options that say how text is read."""
        return {"as_bytes": isinstance(self.symbols, Bytes)}

    def indexed(self) -> dict[str, Indexed]:
        return {self.symbols.kind: Indexed(self.symbols, ("embedding", "head"))}

    def vocabulary_config(self) -> dict[str, Any]:
        return {"symbols": self.symbols.to_config()}

    # ------------------------------------------------------------------------------------------- training

    def start_epoch(self, epoch: int) -> None:
        self._state = None

    def loss(self, batch_index: int, progress: float) -> tuple[Tensor, int]:
        inputs, targets = self._train.chunk(batch_index)
        shard = distributed.shard(targets.shape[1])
        if shard is not None:
            inputs, targets = (np.ascontiguousarray(tokens[:, shard.columns]) for tokens in (inputs, targets))
        with random.drawing_for(shard):
            loss, state = self.model.loss(inputs, targets, self._state, self._recompute_every)
        self._state = pack_state([member.detach() for member in unpack_state(state)])
        return loss, 0 if distributed.is_extra(self._train.batch_size) else targets.size

    def evaluate(self) -> dict[str, float]:
        metrics = evaluate(self.model, self._validation)
        return {"val_loss": metrics["loss"], self.metric: metrics[self.metric]}

    def state_dict(self) -> dict[str, np.ndarray]:
        shard = None if self._state is None else distributed.shard(self._train.batch_size)
        members = [distributed.gather(member.numpy(), shard, -2) for member in unpack_state(self._state)]
        return {str(number): member for number, member in enumerate(members)}

    def load_state_dict(self, state_dict: Mapping[str, np.ndarray]) -> None:
        device = self.model.head.weight.device
        members = [state_dict[str(number)] for number in range(len(state_dict))]
        shard = distributed.shard(self._train.batch_size) if members else None
        if shard is not None:
            members = [np.ascontiguousarray(member[..., shard.columns, :]) for member in members]
        self._state = pack_state([Tensor(member).to(device) for member in members])

    def sample_output(self) -> str:
        return self.sample(length=500, seed=0)

    # ------------------------------------------------------------------------------------------------ use

    def measure(self, sources: Sequence[str], weights: Sequence[str] = ()) -> dict[str, float]:
        """As :func:`evaluate`, on text files, with the ``metric`` of the task.

        Characters that the model does not know are left out, words are read as ``<unk>``.

        Args:
            weights: "bf16", "int8": ``loss_bf16`` and so on are measured too, with the weights of such a sample.
        """
        tokens, _ = read_corpus(sources, self.symbols)
        streams, found = Streams.of(tokens, EVAL_STREAMS, EVAL_STEPS), dict[str, float]()
        models = {"": self.model}
        models |= {f"_{name}": self.model.rounded(WEIGHTS[check_choice("weights", name, WEIGHTS)]) for name in weights}
        for suffix, model in models.items():
            metrics = evaluate(model, streams)
            found |= {f"{name}{suffix}": metrics[name] for name in ("loss", self.metric)}
        return found

    def sample(self, prime: str = "", length: int = 1000, **options: Any) -> str:
        """Return a text that continues ``prime``, without it; arguments and errors are those of :meth:`stream`."""
        return "".join(self.stream(prime, length, **options))

    def stream(self, prime: str = "", length: int = 1000, **options: Any) -> Iterator[str]:
        """Return pieces of a text that continues ``prime``, as they are made.

        Args:
            prime, length: the text to continue, and the number of symbols to generate.
            options: ``temperature``, ``top_k``, ``top_p``, ``seed``, ``stop`` and ``weights``, as :class:`SampleConfig`
                has them.

        Without a prime the text starts at the beginning of a line, or where the model knows no line end, after the
        first symbol of the vocabulary.

        Raises:
            DataError: the model knows no character of the prime.
        """
        config = SampleConfig(prime=prime, length=length, **options)
        sampling = config.subset("length", "temperature", "top_k", "top_p", "seed")
        chunks = self.model.stream(
            self.start(prime), **sampling, exclude=self.symbols.never, weights=WEIGHTS[config.weights]
        )
        return self._decoded(chunks, prime, config.stop)

    def start(self, text: str = "", name: str = "the prime") -> np.ndarray:
        """Return the tokens of a text to continue; without one, what :meth:`stream` says.

        Raises:
            DataError: the model knows no character of it, which is called ``name``.
        """
        tokens = self.symbols.encode(text or "\n")
        if tokens.size == 0:
            if text:
                raise DataError(f"no {self.unit.removesuffix('s')} of {name} {text!r} is in the model's vocabulary")
            tokens = np.zeros(1, np.int64)
        return tokens

    def predict_lines(self, lines: Sequence[Line], options: Any = None) -> list[Prediction]:
        """Return the probabilities of all symbols to come next after each text, the most likely first.

        Texts are read as the prime of :meth:`stream` is. A byte above 127 is called as in ``\\xff``.
        """
        found, name_of, options = [], self.symbols.symbol, options or NextConfig()
        with self.model.evaluating():
            for line in lines:
                logits, _ = self.model(self.start(line.text, line.where))
                row = softmax(logits[-1].numpy())
                order = sorted(range(len(row)), key=lambda n: -row[n])[: options.alternatives]
                symbol, probability = name_of(order[0]), row[order[0]]
                shown = symbol if symbol.isprintable() else repr(symbol)[1:-1]
                facts = {"text": line.text, "symbol": symbol, "probability": probability}
                found.append(Prediction(shown, facts | {"probabilities": {name_of(n): row[n] for n in order}}))
        return found

    def _decoded(self, chunks: Iterator[np.ndarray], prime: str, stop: str | None) -> Iterator[str]:
        decode = self.symbols.decoder(prime)
        text = ""
        for chunk in chunks:
            piece = decode(chunk)
            if stop:
                searched_from = max(0, len(text) - len(stop) + 1)
                text += piece
                at = text.find(stop, searched_from)
                if at >= 0:
                    yield text[len(text) - len(piece) : at + len(stop)]
                    return
            yield piece

    def score(self, text: str, alternatives: int = 0) -> Score:
        """Return how likely the model finds ``text``, symbol by symbol, where it starts as :meth:`sample` does.

        Characters that the model does not know are left out, words are read as ``<unk>``.

        Args:
            alternatives: the number of most likely symbols to report for each place.

        >>> generator.score("To be", alternatives=5).bits_per_symbol  # doctest: +SKIP
        """
        return self.scorer(alternatives)([text])[0]

    def scorer(self, alternatives: int = 0, prime: str = "") -> Scorer:
        """As :meth:`score`, for a text that comes piece by piece, after ``prime``, which is not scored itself."""
        return Scorer(self.model, self.symbols, self.start(prime), alternatives)

    def initial_state(self) -> State:
        return self.model.initial_state()

    def step(self, input: str, state: State) -> tuple[dict[str, float], State]:
        """Read the next symbol, or several, and return the probability of each symbol to come after it.

        The state is one of the model: ``model.stream(tokens, length, state=state)`` goes on from it.

        Raises:
            DataError: there is no symbol, or a character that the model does not know.

        >>> state = generator.initial_state()  # doctest: +SKIP
        >>> probabilities, state = generator.step("T", state)  # doctest: +SKIP
        """
        text = check_text("step", input)
        tokens, missing = self.symbols.encode(text), self.symbols.missing(text)
        if not tokens.size or (missing and not isinstance(self.symbols, Words)):
            what = f"{missing[0]!r}, which is not in the model's vocabulary" if missing else "an empty string"
            raise DataError(f"step: expected a symbol, got {what}")
        for token in tokens:
            logits, state = self.model.step([token], state)
        return {self.symbols.symbol(n): p for n, p in enumerate(softmax(logits.numpy()[0]))}, state
