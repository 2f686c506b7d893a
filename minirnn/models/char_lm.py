"""CharLM: a language model over characters, bytes or any other small vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Unpack

import numpy as np

from minirnn import kernels, random
from minirnn.autograd import ops
from minirnn.autograd.recompute import recompute
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.kernels.contract import TokenModel
from minirnn.models.body import CellLike, Model, Rates, recurrent_layers
from minirnn.nn.functional import Reduction, cross_entropy
from minirnn.nn.layers import Dropout, Embedding, Linear
from minirnn.nn.state import State, pack_state, unpack_state


def _whole(call: str, name: str, value: int, least: int) -> int:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        raise OptionError(f"{call}: {name} must be an int, got {value!r}")
    if value < least:
        raise OptionError(f"{call}: {name} must be at least {least}, got {value}")
    return int(value)


class CharLM(Model):
    """Embedding, recurrent layers, a linear head: logits of the next token at every step.

    Args:
        vocab_size: V.
        hidden_size: H.
        num_layers: recurrent layers.
        cell, rates: see :class:`~minirnn.models.body.Body`.
        embedding_size: width of the embedding; ``hidden_size`` where None.
        dropout: in training, on the outputs of every recurrent layer (Zaremba, Sutskever & Vinyals 2014).

    An LSTM's forget gates start open. Where a batch has more tokens than the vocabulary, the first layer's input part
    is computed once per token of the vocabulary, not once per step.

    >>> import minirnn as mr
    >>> lm = mr.models.CharLM(vocab_size=65, hidden_size=128)
    >>> logits, state = lm([[1, 2], [3, 4], [5, 6]])  # three steps of two sequences
    >>> logits.shape
    (3, 2, 65)
    """

    def __init__(
        self, vocab_size: int, hidden_size: int, num_layers: int = 2, cell: CellLike = "lstm",
        embedding_size: int | None = None, dropout: float = 0.0, dtype: DType = "float32", **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        self._remember(locals())
        self.vocab_size, self.hidden_size, self.num_layers = vocab_size, hidden_size, num_layers
        width = hidden_size if embedding_size is None else embedding_size
        self.embedding = Embedding(vocab_size, width, dtype=dtype)
        self.rnn: Any = recurrent_layers(cell, width, hidden_size, num_layers, dropout, dtype, **rates)
        self.dropout = Dropout(dropout)
        self.head = Linear(hidden_size, vocab_size, dtype=dtype)

    def forward(self, tokens: Any, state: State = None) -> tuple[Tensor, State]:
        """Logits for every step.

        Args:
            tokens: [T, N] integers, or [T].
            state: what an earlier call returned, to go on from there.

        Returns:
            logits [T, N, V] (or [T, V]), and the state after the last step.
        """
        y, state = self.rnn(ops.as_index("CharLM tokens", tokens), state, embedding=self.embedding.weight)
        return self.head(self.dropout(y)), state

    def loss(
        self, tokens: Any, targets: Any, state: State = None, recompute_every: int | None = None,
        reduction: Reduction = "mean",
    ) -> tuple[Tensor, State]:  # fmt: skip
        """Cross-entropy over all steps, in nats, and the state after the last.

        Args:
            tokens, targets: [T, N] integers, targets[t] what should follow tokens[t].
            state: what an earlier call returned, to go on from there.
            recompute_every: keep nothing but the states after every so many steps, and compute the rest again in
                backward (:func:`minirnn.recompute`): memory grows with this number, hardly with T.
            reduction: "mean", a token, or "sum".
        """
        if reduction not in ("mean", "sum"):
            raise OptionError(f"loss: reduction must be 'mean' or 'sum', got {reduction!r}")
        tokens, targets = ops.as_index("CharLM tokens", tokens), ops.as_index("CharLM targets", targets)
        if tokens.shape != targets.shape:
            raise ShapeError(f"loss: tokens {list(tokens.shape)} and targets {list(targets.shape)} must have one shape")
        every = len(tokens) if recompute_every is None else _whole("loss", "recompute_every", recompute_every, 1)
        if every >= len(tokens):
            logits, state = self(tokens, state)
            flat = logits.reshape(-1, self.vocab_size)
            return cross_entropy(flat, targets.reshape(-1), reduction=reduction), state
        losses = []
        for start in range(0, len(tokens), every):
            part = slice(start, start + every)
            loss, *members = recompute(partial(self._segment, tokens[part], targets[part]), *unpack_state(state))
            losses.append(loss)
            state = pack_state(members)
        total = ops.stack(losses).sum()
        return total if reduction == "sum" else total / targets.size, state

    def _segment(self, tokens: np.ndarray, targets: np.ndarray, *members: Tensor) -> tuple[Tensor, ...]:
        """Summed loss of some steps, then the members of the state after them."""
        loss, state = self.loss(tokens, targets, pack_state(members), reduction="sum")
        return loss, *unpack_state(state)

    def generate(
        self, prime_ids: Any, length: int, temperature: float = 1.0, top_k: int | None = None,
        top_p: float | None = None, seed: int | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Sample ``length`` tokens after ``prime_ids``; see :meth:`stream`.

        Returns:
            [length] integers, or [length, N] where ``prime_ids`` is [P, N].
        """
        chunks = list(self.stream(prime_ids, length, temperature, top_k, top_p, seed))
        empty = np.empty((0, *np.shape(prime_ids)[1:]), np.int64)
        return np.concatenate(chunks) if chunks else empty

    def stream(
        self, prime_ids: Any, length: int, temperature: float = 1.0, top_k: int | None = None,
        top_p: float | None = None, seed: int | None = None, chunk: int = 64,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        """Sample in one compiled loop, ``chunk`` tokens at a time.

        Args:
            prime_ids: [P] tokens to begin with (at least one), or [P, N] for N texts at once.
            length: tokens to sample.
            temperature: divides the logits: below 1 safer, above 1 wilder, 0 always the most probable.
            top_k: only the k most probable tokens (Fan, Lewis & Dauphin 2018).
            top_p: only the smallest set of tokens with this share of the mass (Holtzman et al. 2020).
            seed: the same seed gives the same text; drawn from :mod:`minirnn.random` where None.

        Yields:
            [chunk] integers, or [chunk, N].
        """
        prime = ops.as_index("generate prime_ids", prime_ids)
        if prime.ndim not in (1, 2) or prime.size == 0:
            raise ShapeError(f"generate: expected prime_ids [P] or [P, N] with P at least 1, got {list(prime.shape)}")
        ops.check_range("generate prime_ids", prime, self.vocab_size)
        length = _whole("generate", "length", length, 0)
        if not 0 <= temperature < float("inf"):
            raise OptionError(f"generate: temperature must be at least 0, got {temperature}")
        top_k = None if top_k is None else _whole("generate", "top_k", top_k, 1)
        if top_p is not None and not 0 < top_p <= 1:
            raise OptionError(f"generate: top_p must be above 0 and at most 1, got {top_p}")
        seed = random.draw_seed() if seed is None else _whole("generate", "seed", seed, 0)
        return self._stream(prime, length, temperature, top_k, top_p, seed, _whole("generate", "chunk", chunk, 1))

    def _stream(
        self, prime: np.ndarray, length: int, temperature: float, top_k: int | None, top_p: float | None, seed: int,
        chunk: int,
    ) -> Iterator[np.ndarray]:  # fmt: skip
        given = np.ascontiguousarray(prime if prime.ndim == 2 else prime[:, None])
        batch = given.shape[1]
        K = kernels.on(self.head.weight.device)
        zeros = K.zeros((self.num_layers, batch, self.hidden_size), self.head.weight.dtype)
        with self.evaluating():
            sampler = K.Sampler(self._token_model(), [zeros] * len(self.rnn.cell.states))
        seeds = np.random.SeedSequence(seed).generate_state(batch, np.uint64)
        for position in range(0, length, chunk):
            out = sampler.run(
                given, min(chunk, length - position), float(temperature), self.vocab_size if top_k is None else top_k,
                1.0 if top_p is None else float(top_p), seeds, position,
            )  # fmt: skip
            given = out[-1:]
            yield out if prime.ndim == 2 else out[:, 0]

    def _token_model(self) -> TokenModel:
        rnn, layers = self.rnn, range(self.num_layers)
        weights = [rnn.weights(layer, 0) for layer in layers]
        first = ops.linear(self.embedding.weight, rnn.weight_ih_l0, weights[0].input_bias).data
        assert self.head.bias is not None
        return TokenModel(
            rnn.resolved(), first, [getattr(rnn, f"weight_ih_l{layer}").data for layer in layers[1:]],
            [one.input_bias.data for one in weights[1:]], [one.map(lambda tensor: tensor.data) for one in weights],
            self.head.weight.data, self.head.bias.data, rnn.zoneout,
        )  # fmt: skip

    def extra_repr(self) -> str:
        sizes = f"vocab_size={self.vocab_size}, hidden_size={self.hidden_size}, layers={self.num_layers}"
        return f"{self.rnn.cell.name}, {sizes}"
