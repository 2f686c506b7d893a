"""Character models: contiguous streams, state carried from chunk to chunk (truncated BPTT), nats per symbol."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd.tensor import Tensor
from minirnn.data.corpus import read_bytes, read_characters
from minirnn.data.text import Bytes, Characters, Streams, in_pieces, symbols_from_config
from minirnn.errors import DataError
from minirnn.models.body import CellLike, Rates
from minirnn.models.char_lm import CharLM
from minirnn.nn.state import pack_state, unpack_state
from minirnn.tasks.common import Trained, check_fraction, rebuild

NAME = "char"

_EVALUATION_STREAMS = 32
_EVALUATION_STEPS = 256
_MOST_EVALUATED = 1 << 17  # symbols; of a larger validation set the beginning is evaluated


class CharTask:
    """A character model and the text it is trained on.

    Args:
        tokens: [S] the whole corpus; the last ``val_fraction`` validates.
        symbols: what the tokens stand for.
        hidden_size, num_layers, cell, dropout, rates: the model's, see :class:`minirnn.models.CharLM`.
        batch_size: N streams read side by side.
        seq_length: T steps through which gradients flow.
        val_fraction: share of the corpus kept for validation.
        seed: of the weights and the dropout masks; :func:`minirnn.manual_seed` is called with it.
        recompute_every: see :meth:`minirnn.models.CharLM.loss`.

    Raises:
        DataError: the corpus is too short to train and validate on.
    """

    def __init__(
        self, tokens: np.ndarray, symbols: Characters | Bytes, hidden_size: int, num_layers: int, cell: CellLike,
        dropout: float, batch_size: int, seq_length: int, val_fraction: float = 0.1, seed: int = 0,
        recompute_every: int | None = None, **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        check_fraction(val_fraction)
        cut = tokens.size - max(2, round(tokens.size * val_fraction))
        if cut < 2:
            raise DataError(
                f"the corpus has only {tokens.size} symbols; expected at least 4, and many more to learn from"
            )
        self.symbols = symbols
        self.train = Streams.of(tokens[:cut], batch_size, seq_length)
        self.validation = Streams.of(tokens[cut:][:_MOST_EVALUATED], _EVALUATION_STREAMS, _EVALUATION_STEPS)
        random.manual_seed(seed)
        self.model = CharLM(len(symbols), hidden_size, num_layers, cell, dropout=dropout, **rates)
        self.batches = len(self.train)
        digest = hashlib.sha256()
        for piece in in_pieces(tokens):
            digest.update(np.ascontiguousarray(piece).data)
        self._data = {
            "sha256": digest.hexdigest(),
            "batch_size": batch_size, "seq_length": seq_length, "val_fraction": val_fraction, "seed": seed,
        }  # fmt: skip
        self._recompute_every = recompute_every
        self._state: Any = None

    def start_epoch(self, epoch: int) -> None:
        self._state = None

    def loss(self, number: int, progress: float) -> tuple[Tensor, int]:
        inputs, targets = self.train.chunk(number)
        loss, state = self.model.loss(inputs, targets, self._state, self._recompute_every)
        self._state = pack_state([member.detach() for member in unpack_state(state)])
        return loss, targets.size

    def evaluate(self) -> dict[str, float]:
        loss = evaluate(self.model, self.validation)
        return {"val_loss": loss, "bits_per_symbol": loss / math.log(2)}

    def config(self) -> dict[str, Any]:
        return {
            "task": NAME, "data": self._data, "model": self.model.config, "symbols": self.symbols.to_config(),
        }  # fmt: skip

    def carried(self) -> dict[str, np.ndarray]:
        return {str(number): member.numpy() for number, member in enumerate(unpack_state(self._state))}

    def carry(self, arrays: Mapping[str, np.ndarray]) -> None:
        device = self.model.head.weight.device
        self._state = pack_state([Tensor(arrays[str(number)]).to(device) for number in range(len(arrays))])


def evaluate(model: CharLM, streams: Streams) -> float:
    """Mean loss in nats per symbol; each stream starts from the zero state and carries it to its end."""
    total, state = 0.0, None
    with model.evaluating():
        for inputs, targets in streams:
            loss, state = model.loss(inputs, targets, state, reduction="sum")
            total += loss.item()
    return total / (streams.tokens.size - streams.batch_size)


def read_corpus(sources: Sequence[str], as_bytes: bool = False) -> tuple[np.ndarray, Characters | Bytes]:
    """Tokens [S] and vocabulary of files, ``-`` or ``@python``.

    Raises:
        DataError: a source cannot be read, is empty, or is not text.
    """
    return read_bytes(sources) if as_bytes else read_characters(sources)


class TextModel(Trained):
    """A trained character model with its vocabulary: text in, text out.

    >>> model = TextModel.load("checkpoints/python/best.safetensors")  # doctest: +SKIP
    >>> print("".join(model.sample("def ", 200, seed=1)))  # doctest: +SKIP
    """

    task: ClassVar[str] = NAME
    kind: ClassVar[str] = "a character model"

    def __init__(self, model: CharLM, symbols: Characters | Bytes) -> None:
        self.model, self.symbols = model, symbols

    @classmethod
    def _from_parts(cls, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        symbols = symbols_from_config(config["symbols"])
        model = rebuild(CharLM, config["model"], arrays)
        return cls(model, symbols)

    def evaluate(self, sources: Sequence[str]) -> dict[str, float]:
        """``loss`` in nats per symbol, and in bits, on text files; characters never seen in training are left out.

        Raises:
            DataError: a source cannot be read, or nothing of it is in the vocabulary.
        """
        if isinstance(self.symbols, Bytes):
            tokens, _ = read_bytes(sources)
        else:
            tokens, _ = read_characters(sources, self.symbols)
        loss = evaluate(self.model, Streams.of(tokens, _EVALUATION_STREAMS, _EVALUATION_STEPS))
        return {"loss": loss, "bits_per_symbol": loss / math.log(2)}

    def sample(
        self, prime: str = "", length: int = 500, temperature: float = 1.0, top_k: int | None = None,
        top_p: float | None = None, seed: int | None = None, stop: str | None = None,
    ) -> Iterator[str]:  # fmt: skip
        """Pieces of text that continue ``prime``, ``length`` symbols in all, or up to and with ``stop``.

        Without a prime the text begins after a line end, or where there is none, after the first symbol of the
        vocabulary.

        Raises:
            DataError: nothing of the prime is in the vocabulary.
        """
        tokens = self.symbols.encode(prime or "\n")
        if tokens.size == 0:
            if prime:
                raise DataError(f"no character of the prime {prime!r} is in the model's vocabulary")
            tokens = np.zeros(1, np.int64)
        return self._pieces(self.model.stream(tokens, length, temperature, top_k, top_p, seed), stop)

    def _pieces(self, chunks: Iterator[np.ndarray], stop: str | None) -> Iterator[str]:
        decode = self.symbols.decoder()
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
