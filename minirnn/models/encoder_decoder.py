"""EncoderDecoder: a sequence to a sequence of another length, with attention and teacher forcing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias, Unpack

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.data.vocabulary import END, PAD, START
from minirnn.decode import Hypothesis, Scores, beam_search
from minirnn.errors import ShapeError
from minirnn.models.body import Body, CellLike, Lengths, Model, Rates, TensorLike, linear_step, tokens_loss
from minirnn.nn import functional as F
from minirnn.nn.attention import Attention
from minirnn.nn.layers import Dropout, Linear
from minirnn.nn.module import ModuleList
from minirnn.nn.state import State, check_lengths, pack_state, unpack_state
from minirnn.nn.unrolled import Merge
from minirnn.validation import check_choice, check_float, check_int

SCHEDULES = ("constant", "linear", "inverse-sigmoid")
"""How the teacher forcing ratio may change during training, see :func:`teacher_forcing_ratio`."""


def teacher_forcing_ratio(schedule: str, start: float, end: float, progress: float) -> float:
    """The probability with which a step reads the target rather than the model's prediction: scheduled sampling.

    With p the progress and k = 15 (Bengio et al. 2015, arXiv:1506.03099, section 2.4)::

        constant          start
        linear            start + (end - start) p
        inverse-sigmoid   end + (start - end) k / (k + exp(100 p / k)); half-way at p = 0.41

    Args:
        schedule: one of :data:`SCHEDULES`.
        start, end, progress: ratios, and the fraction of the training that is done, from 0 to 1.
    """
    check_choice("teacher forcing schedule", schedule, SCHEDULES)
    for name, ratio in (("start", start), ("end", end)):
        check_float(f"teacher forcing {name}", ratio, 0.0, 1.0)
    if schedule == "constant":
        return start
    if schedule == "linear":
        return start + (end - start) * progress
    k = 15.0
    return end + (start - end) * k / (k + math.exp(100 * progress / k))


@dataclass(frozen=True)
class Memory:
    """What the decoder attends to: the encoder's outputs ``values`` [S, N, M], the ``keys`` [S, N, A] that queries are
    compared with, and ``lengths`` [N]."""

    values: Tensor
    keys: Tensor
    lengths: np.ndarray


DecoderState: TypeAlias = tuple[Memory | None, State]
"""What the decoder attends to, None without attention, and the state of its layers."""


class EncoderDecoder(Model):
    """Encoder h^e, its final state passed on by a bridge, decoder h^d, attention, a linear head.

    h^d_t = cell(E y_{t-1}, h^d_{t-1}); c_t = attention(h^d_t, h^e); logits_t = W tanh(W_c [c_t; h^d_t] + b_c) + b
    (Sutskever, Vinyals & Le 2014; attention after the recurrent layer: Luong, Pham & Manning 2015, section 3.1).
    Without attention logits_t = W h^d_t + b. As nothing after the recurrent layer is fed back, all steps of a target
    are computed at once.

    Args:
        source_size, target_size: tokens of each vocabulary; 0 is <pad>, 1 <start>, 2 <end>, 3 <unk>.
        hidden_size, num_layers, cell: of encoder and decoder: units of a layer; layers; the name of a cell, a cell, or
            its data. A module is refused, as one cannot be both.
        embedding_size: of both vocabularies; ``hidden_size`` if None, 0 for one-hot.
        bidirectional, merge: of the encoder, as in :class:`~minirnn.models.body.Body`. In every layer its final h and,
            of cells that have it, c reach the decoder through a linear layer (then tanh for h), other states as the
            mean of both directions. The final states of an encoder of one direction are passed on as they are.
        dropout: probability, in training, on embeddings, on the outputs of every layer and before the head.
        attention: "additive", "dot", or None for none.
        dtype, rates: float32 or float64; ``zoneout``, ``recurrent_dropout``, ``weight_drop`` of ``nn.Recurrent``.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: CellLike = "lstm",
        embedding_size: int | None = None,
        bidirectional: bool = True,
        merge: Merge = "concat",
        dropout: float = 0.0,
        attention: str | None = "additive",
        dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:
        self.source_size = check_int("EncoderDecoder: source_size", source_size, END + 1)  # <pad>, <start>, <end>
        self.target_size = check_int("EncoderDecoder: target_size", target_size, END + 1)
        cell, width = cells.get(cell), hidden_size if embedding_size is None else embedding_size
        options = merge, dropout, width, dtype
        self.encoder = Body(source_size, hidden_size, num_layers, cell, bidirectional, *options, **rates)
        self.decoder = Body(target_size, hidden_size, num_layers, cell, False, *options, **rates)
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

    def encode(self, source: TensorLike, lengths: Lengths = None) -> tuple[Memory | None, State]:
        """Run the encoder over ``source`` [S, N], tokens, with ``lengths`` [N] from 0 to S, all S if None.

        Returns:
            What the decoder attends to (None without attention), and its initial state.
        """
        tokens = ops.as_index("EncoderDecoder source", source)
        if tokens.ndim != 2 or len(tokens) == 0:
            raise ShapeError(f"EncoderDecoder: expected a source [S, N] with S at least 1, got {list(tokens.shape)}")
        counts = check_lengths("source", lengths, *tokens.shape)
        values, state = self.encoder(tokens, counts)
        memory = None if self.attention is None else Memory(values, self.attention.keys(values, counts), counts)
        return memory, self._bridge_state(state)

    def _bridge_state(self, state: State) -> State:
        """The encoder's final states [L D, N, H] as the decoder's initial ones [L, N, H]."""
        if not self.encoder.layers.bidirectional:
            return state
        layers, bridged = self.encoder.layers.num_layers, []
        for number, member in enumerate(unpack_state(state)):
            both = member.reshape(layers, 2, *member.shape[1:])
            if number not in self._bridged:  # a learnt map could leave the range of a state, as of a normaliser
                bridged.append(both.mean(1))
                continue
            parts = []
            for layer in range(layers):
                joined = ops.concatenate([both[layer, 0], both[layer, 1]], 1)
                part = self.bridge[self._bridged.index(number) * layers + layer](joined)
                parts.append(part.tanh() if number == 0 else part)
            bridged.append(ops.stack(parts))
        return pack_state(bridged)

    def decode(
        self, tokens: TensorLike, memory: Memory | None, state: State, lengths: Lengths = None
    ) -> tuple[Tensor, Tensor | None, State]:
        """Run the decoder.

        Args:
            tokens, lengths: [T, N] what each step reads, and [N] valid steps; all T if None.
            memory, state: from :meth:`encode`, or the state of an earlier call.

        Returns:
            The inputs of the head [T, N, H], the attention's weights [T, N, S] or None, and the state after all steps.
        """
        h, state = self.decoder(tokens, lengths, state)
        return *self._attended(h, memory), state

    def _attended(self, h: Tensor, memory: Memory | None) -> tuple[Tensor, Tensor | None]:
        """The inputs of the head, from the decoder's outputs [T, N, H], and the attention's weights."""
        if self.attention is None or memory is None:
            return h, None
        context, weights = self.attention(h, memory.values, memory.lengths, memory.keys)
        return self.dropout(self.combine(ops.concatenate([context, h], 2)).tanh()), weights

    def initial_state(self, source: TensorLike, source_lengths: Lengths = None) -> DecoderState:
        """What :meth:`encode` returns for ``source`` [S, N] with its lengths, in evaluation mode and without a tape."""
        with self.evaluating():
            return self.encode(source, source_lengths)

    def step(self, tokens: TensorLike, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One step of the decoder in evaluation mode, without a tape.

        Args:
            tokens: [N], what each target continues with; <start> (1) at the first step.
            state: from :meth:`initial_state` or an earlier step; it is not changed.

        Returns:
            Logits [N, target_size] of the next token, and the new state.
        """
        if not isinstance(state, tuple) or not isinstance(state[0], Memory if self.attention else type(None)):
            raise ShapeError("EncoderDecoder: expected a state of initial_state(source), or of an earlier step")
        memory, decoder_state = state
        h, decoder_state = self.decoder.step(tokens, decoder_state)
        with self.evaluating():
            h, _ = self._attended(h.unsqueeze(0), memory)
        return linear_step(self.head, h.squeeze(0)), (memory, decoder_state)

    def forward(
        self,
        source: TensorLike,
        target: TensorLike,
        source_lengths: Lengths = None,
        target_lengths: Lengths = None,
        teacher_forcing_ratio: float = 1.0,
        draw: str = "step",
    ) -> Tensor:
        """Logits [T - 1, N, target_size] of the tokens ``target[1:]``.

        Args:
            source, target: tokens [S, N], and [T, N]: <start>, the sequence, <end>, <pad>.
            source_lengths, target_lengths: [N], <start> and <end> counted; all S and T if None.
            teacher_forcing_ratio: the probability with which a step reads the target token rather than the most likely
                token of the step before (scheduled sampling, Bengio et al. 2015).
            draw: the choice is drawn for every "step", or once for a "sequence".
        """
        h, _ = self._decoded(source, target, (source_lengths, target_lengths), teacher_forcing_ratio, draw)
        return self.head(h)

    def loss(
        self,
        source: TensorLike,
        target: TensorLike,
        source_lengths: Lengths = None,
        target_lengths: Lengths = None,
        teacher_forcing_ratio: float = 1.0,
        draw: str = "step",
        label_smoothing: float = 0.0,
        reduction: F.Reduction = "mean",
    ) -> Tensor:
        """Cross-entropy over the target's valid tokens, in nats; padding is neither computed nor counted.

        Args:
            source, target, source_lengths, target_lengths, teacher_forcing_ratio, draw: as for :meth:`forward`.
            label_smoothing: as for :func:`~minirnn.nn.functional.cross_entropy`.
            reduction: "mean" (per token), "sum" or "none".
        """
        h, counts = self._decoded(source, target, (source_lengths, target_lengths), teacher_forcing_ratio, draw)
        labels = ops.as_index("EncoderDecoder target", target)[1:]
        return tokens_loss(self.head, h, labels, counts, label_smoothing, reduction)

    def _decoded(
        self, source: TensorLike, target: TensorLike, lengths: tuple[Lengths, Lengths], ratio: float, draw: str
    ) -> tuple[Tensor, np.ndarray]:
        """The inputs of the head [T - 1, N, H], and the number of valid steps of each sequence."""
        check_float("EncoderDecoder: teacher_forcing_ratio", ratio, 0.0, 1.0)
        check_choice("EncoderDecoder: draw", draw, ("step", "sequence"))
        tokens, batch = ops.as_index("EncoderDecoder target", target), np.shape(source)[1:2]
        if tokens.ndim != 2 or len(tokens) < 2 or tokens.shape[1:] != batch:
            expected = f"[T, {batch[0] if batch else 'N'}] with T at least 2 (<start> and <end>)"
            raise ShapeError(f"EncoderDecoder: expected a target {expected}, got {list(tokens.shape)}")
        counts = np.maximum(check_lengths("target", lengths[1], *tokens.shape) - 1, 0)
        memory, state = self.encode(source, lengths[0])
        inputs = tokens[:-1] if ratio == 1 else self._scheduled_sampling(tokens[:-1], memory, state, ratio, draw)
        return self.decode(inputs, memory, state, counts)[0], counts

    def _scheduled_sampling(
        self, targets: np.ndarray, memory: Memory | None, state: State, ratio: float, draw: str
    ) -> np.ndarray:
        """Inputs [T, N] of which some are the model's own predictions, made without dropout.

        As a prediction carries no gradient, all are found first, without a tape; then all steps are learnt at once.
        """
        shape = targets.shape if draw == "step" else targets.shape[1:]
        predicted = np.broadcast_to(random.uniform(*shape) >= ratio, targets.shape)
        inputs = targets.copy()
        with self.evaluating():
            for t in range(1, len(inputs)):
                h, _, state = self.decode(inputs[t - 1 : t], memory, state)
                rows = np.flatnonzero(predicted[t])
                inputs[t, rows] = self.head(h[0, rows]).numpy().argmax(1)
        return inputs

    def generate(
        self,
        source: TensorLike,
        source_lengths: Lengths = None,
        max_length: int | None = None,
        beam_width: int = 1,
        length_penalty: float = 1.0,
    ) -> list[Hypothesis]:
        """The best target found for each source, by :func:`minirnn.decode.beam_search`.

        Args:
            source, source_lengths: [S, N] tokens, and [N] from 0 to S; all S if None.
            max_length: tokens at most, <end> included; if None, 10 more than twice the source has.
            beam_width: hypotheses kept for each source; 1 is greedy decoding.
            length_penalty: exponent of :func:`minirnn.decode.length_penalty`; larger favours longer targets.
        """
        with self.evaluating():
            memory, state = self.encode(source, source_lengths)
            steps, batch = np.shape(source)
            lengths = check_lengths("source", source_lengths, steps, batch)
            beams = _Beams(np.arange(batch), memory, state)
            limits = 2 * lengths + 10 if max_length is None else max_length
            found = beam_search(self._scores, _select, beams, batch, START, END, limits, beam_width, length_penalty)
        return [
            one if one.attention is None else replace(one, attention=one.attention[:, :n])
            for one, n in zip(found, lengths, strict=True)
        ]

    def _scores(self, tokens: np.ndarray, beams: _Beams) -> Scores:
        """One step of the search."""
        h, weights, state = self.decode(tokens[None], beams.memory, beams.state)
        log_probs = self.head(h[0]).log_softmax(1).numpy()
        log_probs[:, [PAD, START]] = -np.inf
        return Scores(log_probs, None if weights is None else weights[0].numpy(), replace(beams, state=state))

    def extra_repr(self) -> str:
        return f"source_size={self.source_size}, target_size={self.target_size}"


@dataclass(frozen=True)
class _Beams:
    """What the search keeps for each hypothesis: the index of its source, its memory, and the decoder's state."""

    source: np.ndarray
    memory: Memory | None
    state: State


def _select(beams: _Beams, rows: np.ndarray) -> _Beams:
    """Some hypotheses, in the order of ``rows``; the memory is copied only if its columns change their source."""
    source, memory, state = beams.source[rows], beams.memory, beams.state
    if memory is not None and not np.array_equal(source, beams.source):
        memory = Memory(memory.values[:, rows], memory.keys[:, rows], memory.lengths[rows])
    return _Beams(source, memory, pack_state([member[:, rows] for member in unpack_state(state)]))
