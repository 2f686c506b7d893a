"""EncoderDecoder: a sequence to a sequence of another length, with attention and teacher forcing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.data.sequences import valid_rows
from minirnn.data.vocabulary import END, PAD, START
from minirnn.decode import Hypothesis, Scores, beam_search
from minirnn.errors import OptionError, ShapeError
from minirnn.models.body import Body, CellLike, Model, Rates
from minirnn.nn import functional as F
from minirnn.nn.attention import Attention
from minirnn.nn.layers import Dropout, Linear
from minirnn.nn.module import ModuleList
from minirnn.nn.state import State, check_lengths, pack_state, unpack_state

SCHEDULES = ("constant", "linear", "inverse-sigmoid")

_STEEPNESS = 15.0


def teacher_forcing_ratio(schedule: str, start: float, end: float, progress: float) -> float:
    """The share of steps that read the expected token, at ``progress`` (0 to 1) of the training.

    "constant": start; "linear": start + (end - start) p; "inverse-sigmoid": end + (start - end) k / (k + e^(100 p / k))
    with k = 15, which stays near the start, passes the middle at p = 0.41 and ends near the end (Bengio et al. 2015,
    section 2.4).
    """
    if schedule not in SCHEDULES:
        raise OptionError(f"teacher forcing schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
    if not (0 <= start <= 1 and 0 <= end <= 1):
        raise OptionError(f"teacher forcing ratios must be from 0 to 1, got {start} and {end}")
    if schedule == "constant":
        return start
    if schedule == "linear":
        return start + (end - start) * progress
    return end + (start - end) * _STEEPNESS / (_STEEPNESS + math.exp(100 * progress / _STEEPNESS))


@dataclass(frozen=True)
class Memory:
    """What the decoder looks at.

    Attributes:
        values: [S, N, M] the encoder's outputs. keys: [S, N, A] what they are compared by. lengths: [N].
    """

    values: Tensor
    keys: Tensor
    lengths: np.ndarray


class EncoderDecoder(Model):
    """Encoder h^e, its final state carried over a bridge, decoder h^d, attention, a linear head.

    h^d_t = cell(E y_{t-1}, h^d_{t-1}); c_t = attention(h^d_t, h^e); logits_t = W tanh(W_c [c_t; h^d_t] + b_c) + b
    (Sutskever, Vinyals & Le 2014; attention after the recurrent layer: Luong, Pham & Manning 2015, section 3.1).
    Without attention logits_t = W h^d_t + b. As nothing after the recurrent layer is fed back, all steps of a expected
    sequence are computed at once.

    Args:
        source_size, target_size: tokens of the source and of the target vocabulary; 0 is <pad>, 1 <start>, 2 <end>,
            3 <unk>.
        hidden_size, num_layers, cell, dropout, rates: of encoder and decoder, see :class:`~minirnn.models.body.Body`.
        embedding_size: of both vocabularies; ``hidden_size`` where None, 0 for one-hot.
        bidirectional, merge: of the encoder. In every layer its final h and, of cells that have it, c reach the decoder
            through a linear layer (then tanh for h), other states as the mean of both directions; the final states of
            an encoder of one direction are taken as they are.
        attention: "additive", "dot", or None for none.
    """

    def __init__(
        self, source_size: int, target_size: int, hidden_size: int, num_layers: int = 1, cell: CellLike = "lstm",
        embedding_size: int | None = None, bidirectional: bool = True, merge: str = "concat", dropout: float = 0.0,
        attention: str | None = "additive", dtype: DType = "float32", **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        cell = cells.get(cell)
        self._remember(locals())
        if min(source_size, target_size) <= END:
            raise OptionError(
                f"EncoderDecoder: vocabularies hold <pad>, <start>, <end> and more; got {source_size} and {target_size}"
            )
        self.source_size, self.target_size = source_size, target_size
        width = hidden_size if embedding_size is None else embedding_size
        self.encoder = Body(
            source_size, hidden_size, num_layers, cell, bidirectional, merge, dropout, width, dtype, **rates
        )  # fmt: skip
        self.decoder = Body(target_size, hidden_size, num_layers, cell, dropout=dropout, embedding_size=width,
                            dtype=dtype, **rates)  # fmt: skip
        self._bridged = [number for number, state in enumerate(cell.states) if number == 0 or state == "c"]
        bridges = len(self._bridged) * num_layers if bidirectional else 0
        self.bridge = ModuleList(*(Linear(2 * hidden_size, hidden_size, dtype=dtype) for _ in range(bridges)))
        self.attention: Attention | None = None
        if attention is not None:
            memory_size = self.encoder.output_size
            self.attention = Attention(hidden_size, memory_size, attention, dtype=dtype)
            self.combine = Linear(memory_size + hidden_size, hidden_size, dtype=dtype)
            self.dropout = Dropout(dropout)
        self.head = Linear(hidden_size, target_size, dtype=dtype)

    # ---------------------------------------------------------------------------------------------- the parts

    def encode(self, source: Any, lengths: Any = None) -> tuple[Memory | None, State]:
        """What the decoder looks at (None without attention), and its initial state.

        Args:
            source: [S, N] tokens. lengths: [N] from 0 to S; all S where None.
        """
        tokens = ops.as_index("EncoderDecoder source", source)
        if tokens.ndim != 2 or len(tokens) == 0:
            raise ShapeError(f"EncoderDecoder: expected a source [S, N] with S at least 1, got {list(tokens.shape)}")
        steps, batch = tokens.shape
        counts = check_lengths("source", lengths, steps, batch)
        values, state = self.encoder(tokens, counts)
        memory = None
        if self.attention is not None:
            memory = Memory(values, self.attention.keys(values, counts), counts)
        return memory, self._carried_over(state)

    def _carried_over(self, state: State) -> State:
        """The encoder's final states [L D, N, H] as the decoder's initial ones [L, N, H]."""
        if not self.encoder.rnn.bidirectional:
            return state
        layers = self.encoder.rnn.num_layers
        carried = []
        for number, member in enumerate(unpack_state(state)):
            both = member.reshape(layers, 2, *member.shape[1:])
            if number not in self._bridged:  # a learnt map could leave the range of a state, as of a normaliser
                carried.append(both.mean(1))
                continue
            parts = []
            for layer in range(layers):
                joined = ops.concatenate([both[layer, 0], both[layer, 1]], 1)
                part = self.bridge[self._bridged.index(number) * layers + layer](joined)
                parts.append(part.tanh() if number == 0 else part)
            carried.append(ops.stack(parts))
        return pack_state(carried)

    def decode(
        self, tokens: Any, memory: Memory | None, state: State, lengths: Any = None
    ) -> tuple[Tensor, Tensor | None, State]:
        """What the head reads [T, N, H], the attention's weights [T, N, S] or None, and the state after the last step.

        Args:
            tokens: [T, N] what each step reads. lengths: [N] valid steps.
        """
        h, state = self.decoder(tokens, lengths, state)
        if self.attention is None or memory is None:
            return h, None, state
        context, weights = self.attention(h, memory.values, memory.lengths, memory.keys)
        return self.dropout(self.combine(ops.concatenate([context, h], 2)).tanh()), weights, state

    # ----------------------------------------------------------------------------------------------- training

    def forward(
        self, source: Any, target: Any, source_lengths: Any = None, target_lengths: Any = None,
        teacher_forcing_ratio: float = 1.0, draw: str = "step",
    ) -> Tensor:  # fmt: skip
        """Logits [T - 1, N, target_size] of the tokens ``target[1:]``.

        Args:
            source: [S, N] tokens. source_lengths: [N].
            target: [T, N] tokens: <start>, the expected ones, <end>, <pad>. target_lengths: [N], both ends counted.
            teacher_forcing_ratio: the probability with which a step reads the expected token rather than the most likely
                of the step before (scheduled sampling, Bengio et al. 2015).
            draw: the choice is made again at every "step", or once a "sequence".
        """
        h, _ = self._features(source, target, source_lengths, target_lengths, teacher_forcing_ratio, draw)
        return self.head(h)

    def loss(
        self, source: Any, target: Any, source_lengths: Any = None, target_lengths: Any = None,
        teacher_forcing_ratio: float = 1.0, draw: str = "step", label_smoothing: float = 0.0,
        reduction: F.Reduction = "mean",
    ) -> Tensor:  # fmt: skip
        """Cross-entropy, in nats, over the expected tokens that are there: padding is neither computed nor counted."""
        h, counts = self._features(source, target, source_lengths, target_lengths, teacher_forcing_ratio, draw)
        expected = ops.as_index("EncoderDecoder target", target)[1:]
        valid = valid_rows(len(expected), counts)
        rows = ops.take_rows(h.reshape(expected.size, h.shape[2]), valid)
        return F.cross_entropy(
            self.head(rows), expected.reshape(-1)[valid], label_smoothing=label_smoothing, reduction=reduction
        )

    def _features(
        self, source: Any, target: Any, source_lengths: Any, target_lengths: Any, ratio: float, draw: str
    ) -> tuple[Tensor, np.ndarray]:
        """What the head reads [T - 1, N, H], and how many steps of each sequence are expected."""
        if not 0 <= ratio <= 1:
            raise OptionError(f"EncoderDecoder: teacher_forcing_ratio must be from 0 to 1, got {ratio}")
        if draw not in ("step", "sequence"):
            raise OptionError(f"EncoderDecoder: draw must be 'step' or 'sequence', got {draw!r}")
        tokens = ops.as_index("EncoderDecoder target", target)
        batch = np.shape(source)[1:2]
        if tokens.ndim != 2 or len(tokens) < 2 or tokens.shape[1:] != batch:
            raise ShapeError(
                f"EncoderDecoder: expected a target [T, {batch[0] if batch else 'N'}] with T at least 2 (<start> and "
                f"<end>), got {list(tokens.shape)}"
            )
        length = len(tokens)
        counts = np.maximum(check_lengths("target", target_lengths, length, batch[0]) - 1, 0)
        memory, state = self.encode(source, source_lengths)
        inputs = tokens[:-1]
        if ratio < 1:
            inputs = self._mixed_inputs(inputs, memory, state, ratio, draw)
        h, _, _ = self.decode(inputs, memory, state, counts)
        return h, counts

    def _mixed_inputs(
        self, expected: np.ndarray, memory: Memory | None, state: State, ratio: float, draw: str
    ) -> np.ndarray:
        """Inputs [T, N] of which a share are the model's own guesses.

        A guess carries no gradient. So the inputs can be found first, step by step and without a tape, and the step
        that is learnt from still runs over all of them at once. The decoder guesses without dropout.
        """
        shape = expected.shape if draw == "step" else expected.shape[1:]
        guessed = np.broadcast_to(random.generator().random(shape) >= ratio, expected.shape)
        inputs = expected.copy()
        with self.evaluating():
            for t in range(1, len(inputs)):
                h, _, state = self.decode(inputs[t - 1 : t], memory, state)
                rows = np.flatnonzero(guessed[t])
                inputs[t, rows] = self.head(h[0, rows]).numpy().argmax(1)
        return inputs

    # ----------------------------------------------------------------------------------------------- decoding

    def generate(
        self, source: Any, source_lengths: Any = None, max_length: int | None = None, beam_width: int = 1,
        length_penalty: float = 1.0,
    ) -> list[Hypothesis]:  # fmt: skip
        """The best target found for each source; greedy with ``beam_width`` 1, see :func:`minirnn.decode.beam_search`.

        Args:
            source: [S, N] tokens. source_lengths: [N].
            max_length: tokens at most, <end> included; where None, 10 more than twice the source has.
            length_penalty: the exponent; larger favours longer targets.
        """
        with self.evaluating():
            memory, state = self.encode(source, source_lengths)
            steps, batch = np.shape(source)
            lengths = check_lengths("source", source_lengths, steps, batch)
            found = beam_search(
                self._scores, _rows_of, _Beams(np.arange(batch), memory, state), batch, START, END,
                2 * lengths + 10 if max_length is None else max_length, beam_width, length_penalty,
            )  # fmt: skip
        return [
            one if one.attention is None else replace(one, attention=one.attention[:, :n])
            for one, n in zip(found, lengths, strict=True)
        ]

    def _scores(self, tokens: np.ndarray, beams: _Beams) -> Scores:
        h, weights, state = self.decode(tokens[None], beams.memory, beams.state)
        log_probs = self.head(h[0]).log_softmax(1).numpy()
        log_probs[:, [PAD, START]] = -np.inf
        return Scores(log_probs, None if weights is None else weights[0].numpy(), replace(beams, state=state))

    def extra_repr(self) -> str:
        return f"source_size={self.source_size}, target_size={self.target_size}"


@dataclass(frozen=True)
class _Beams:
    """What the search keeps for each hypothesis: the number of its source, what it looks at, its decoder's state."""

    source: np.ndarray
    memory: Memory | None
    state: State


def _rows_of(beams: _Beams, rows: np.ndarray) -> _Beams:
    """Some hypotheses, in the order of ``rows``; the memory is copied only where other sources lie in its columns."""
    source, memory, state = beams.source[rows], beams.memory, beams.state
    if memory is not None and not np.array_equal(source, beams.source):
        memory = Memory(memory.values[:, rows], memory.keys[:, rows], memory.lengths[rows])
    return _Beams(source, memory, pack_state([member[:, rows] for member in unpack_state(state)]))
