"""OneToMany: one vector or label to a sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack, overload

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.decode import Hypothesis, Scores, beam_search
from minirnn.errors import OptionError, ShapeError
from minirnn.models.body import Body, CellLike, Lengths, Model, Rates, TensorLike, linear_step, tokens_loss
from minirnn.nn import functional as F
from minirnn.nn.layers import Linear
from minirnn.nn.state import State, check_lengths, check_members, pack_state, unpack_state
from minirnn.validation import check_choice, check_float, check_int


class OneToMany(Model):
    """One vector, label or note to a sequence; every step reads the output of the step before.

    The first input sets the initial state, h_0 = tanh(W x + b) in each layer. Step 1 reads zeros (or the token
    <start>), and step t > 1 the output of step t - 1, or in training with ``targets`` the target of step t - 1 (teacher
    forcing; Williams & Zipser 1989). There is one direction only. With tokens and an ``end`` it writes sentences, such
    as the caption of an image (Vinyals et al. 2015, Karpathy & Fei-Fei 2015).

    Args:
        input_size, output_size: size of the first input, or the number of labels; numbers in each output, or with
            ``embedding_size`` the number of different tokens.
        hidden_size, num_layers: units of a recurrent layer, and layers.
        cell: name of a cell, a cell, or its data; a module is refused, as its state is not known.
        dropout: probability, in training, on embeddings and on the outputs of every layer.
        embedding_size: None: outputs are vectors. A number: outputs are logits of tokens, which are fed back embedded
            (0: one-hot).
        activation: what is fed back of a vector: "none" for the numbers themselves, "sigmoid" for probabilities.
        dtype: float32 or float64.
        condition: "start": the first input sets the initial state only (as the image in Vinyals et al. 2015 and
            Karpathy & Fei-Fei 2015). "every_step": every step also reads it, after its own input (as in Mao et al.
            2015); it cannot be forgotten, but takes input_size more columns of the first layer's weights.
        end: the token <end>, with which sequences end, such as :data:`minirnn.data.vocabulary.END`; None: they end only
            at the length that is asked for. <start> is the number ``output_size``, which no output can be.
        rates: ``zoneout``, ``recurrent_dropout``, ``weight_drop`` of ``nn.Recurrent``.

    >>> import minirnn as mr
    >>> model = mr.models.OneToMany(10, 32, 28, activation="sigmoid")  # a label to the rows of an image
    >>> model([3, 7], length=28).shape
    (28, 2, 28)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        cell: CellLike = "lstm",
        dropout: float = 0.0,
        embedding_size: int | None = None,
        activation: str = "none",
        dtype: DType = "float32",
        condition: str = "start",
        end: int | None = None,
        **rates: Unpack[Rates],
    ) -> None:
        self.condition = check_choice("OneToMany: condition", condition, ("start", "every_step"))
        self.activation = check_choice("OneToMany: activation", activation, ("none", "sigmoid"))
        self.output_size = check_int("OneToMany: output_size", output_size)
        if end is not None and embedding_size is None:
            raise OptionError(f"OneToMany: end={end} is a token, but outputs are vectors; give an embedding_size, or 0")
        self.end = None if end is None else check_int("OneToMany: end", end, 0, output_size - 1)
        self.start = Linear(input_size, num_layers * hidden_size, dtype=dtype)
        cell, size = cells.get(cell), output_size + (embedding_size is not None)  # one more token, <start>
        options = dropout, embedding_size, dtype, input_size if condition == "every_step" else 0
        self.body = Body(size, hidden_size, num_layers, cell, False, "concat", *options, **rates)
        self.head = Linear(hidden_size, output_size, dtype=dtype)

    def initial_state(self, first: TensorLike) -> State:
        """The state that ``first`` sets, [N, input_size] or integer labels [N]: of each state of the cell [L, N, H];
        conditioned at every step also ``first`` itself, [1, N, input_size], as vectors."""
        x = ops.as_tensor(first)
        if x.dtype.kind in "iu" and x.ndim == 1:
            assert self.start.bias is not None
            h = ops.embedding(self.start.weight.T, x) + self.start.bias  # W times a one-hot vector
        elif x.ndim == 2:
            h = self.start(first)
        else:
            raise ShapeError(f"OneToMany: expected a first input [N, I], or labels [N], got {list(x.shape)}")
        layers = self.body.layers
        h = h.tanh().reshape(len(x), layers.num_layers, -1).transpose(0, 1)
        members = [h, *[h * 0.0] * (len(layers.cell.states) - 1)]
        if self.condition == "every_step":
            vectors = first if x.ndim == 2 else F.one_hot(x, self.start.weight.shape[1]).numpy()
            members.append(ops.as_tensor(vectors, self.start.weight).unsqueeze(0))
        return pack_state(members)

    def step(self, x: TensorLike | None, state: State) -> tuple[Tensor, State]:
        """One step in evaluation mode, without a tape.

        Args:
            x: what the step reads: None at the first (zeros, or the token <start>), then vectors [N, output_size] or
                tokens [N], such as the output of the step before after the activation.
            state: what :meth:`initial_state` or an earlier step returned; it is not changed.

        Returns:
            Outputs (of tokens: logits) [N, output_size], and the new state.
        """
        members, context = self._split(state)
        x = self._begin(unpack_state(state)[0].shape[1]).squeeze(0) if x is None else x
        y, members = self.body.step(x, members, *(one.squeeze(0) for one in context))
        return linear_step(self.head, y), pack_state([*unpack_state(members), *context])

    def forward(
        self, first: TensorLike, targets: TensorLike | None = None, length: int | None = None, lengths: Lengths = None
    ) -> Tensor:
        """Outputs (of tokens: logits) [T, N, output_size].

        Args:
            first: [N, input_size], or integer labels [N].
            targets, lengths: [T, N, output_size], or tokens [T, N]: each step reads the target of the step before; [N]
                valid steps of the targets.
            length: T, without targets: each step reads the model's own output (of tokens: the most likely one).

        Raises:
            OptionError: both or neither of ``targets`` and ``length`` are given, or a length is out of range.
        """
        if (targets is None) == (length is None):
            raise OptionError("OneToMany: expected either targets, to learn from, or a length, to generate")
        if targets is None:
            length = check_int("OneToMany: length", length)
            return self._run(self.initial_state(first), length, self._feedback)[0]
        return self.head(self._decoded(first, targets, lengths))

    def loss(
        self,
        first: TensorLike,
        targets: TensorLike,
        lengths: Lengths = None,
        label_smoothing: float = 0.0,
        reduction: F.Reduction = "mean",
    ) -> Tensor:
        """Cross-entropy over the targets' valid tokens, in nats; padding is not counted.

        Args:
            first: [N, input_size], or integer labels [N].
            targets, lengths: tokens [T, N] without <start>, each sequence with its ``end`` where the model has one; [N]
                valid steps, the end counted; all T if None.
            label_smoothing: as for :func:`~minirnn.nn.functional.cross_entropy`.
            reduction: "mean" (per token), "sum" or "none".

        Raises:
            OptionError: outputs are vectors; compare those of a call with the targets, by a loss of
                :mod:`minirnn.nn.functional`.
        """
        if not self.body.takes_tokens:
            raise OptionError("OneToMany: loss expects a model of tokens (embedding_size); of vectors, use F.mse_loss")
        h, labels = self._decoded(first, targets, lengths), ops.as_index("OneToMany targets", targets)
        counts = check_lengths("OneToMany", lengths, *labels.shape)
        return tokens_loss(self.head, h, labels, counts, label_smoothing, reduction)

    @overload
    def generate(
        self, first: TensorLike, length: int, temperature: float = 1.0, seed: int | None = None
    ) -> np.ndarray: ...

    @overload
    def generate(
        self, first: TensorLike, length: int, *, beam_width: int, length_penalty: float = 1.0
    ) -> list[Hypothesis]: ...

    def generate(
        self,
        first: TensorLike,
        length: int,
        temperature: float = 1.0,
        seed: int | None = None,
        beam_width: int | None = None,
        length_penalty: float = 1.0,
    ) -> np.ndarray | list[Hypothesis]:
        """Generate a sequence without a tape.

        Args:
            first: [N, input_size], or integer labels [N].
            length: steps to generate; of a model with an ``end`` at most, the end included.
            temperature: of tokens: divides the logits; 0 takes the most likely.
            seed: the same seed gives the same tokens; drawn from :mod:`minirnn.random` if None.
            beam_width: None: tokens are drawn. A number: the best sequence found by
                :func:`minirnn.decode.beam_search` with so many hypotheses; 1 is greedy decoding.
            length_penalty: exponent of :func:`minirnn.decode.length_penalty`; larger favours longer sequences.

        Returns:
            Vectors [T, N, output_size] (after the activation), or sampled tokens [T, N], after the ``end`` of a
            sequence only that; T is at most ``length``. With ``beam_width`` N hypotheses, tokens without the end.

        Raises:
            OptionError: an option is out of range, or ``beam_width`` is given to a model without an ``end``.
        """
        temperature = check_float("OneToMany: temperature", temperature, finite=True)
        steps = check_int("OneToMany: length", length)
        feedback = partial(self._feedback, rng=random.generator_of(seed), temperature=temperature)
        with self.evaluating():
            state = self.initial_state(first)
            if beam_width is None:
                return self._run(state, steps, feedback, self.end)[1].numpy()
            if self.end is None:
                raise OptionError("OneToMany: beam_width needs a model of tokens with an end: OneToMany(..., end=END)")
            search = self._scores, _select, state, unpack_state(state)[0].shape[1]
            return beam_search(*search, self.output_size, self.end, steps, beam_width, length_penalty)

    def _scores(self, tokens: np.ndarray, state: State) -> Scores:
        """One step of the search."""
        logits, state = self.step(tokens, state)
        return Scores(logits.log_softmax(1).numpy(), None, state)

    def _decoded(self, first: TensorLike, targets: TensorLike, lengths: Lengths) -> Tensor:
        """The inputs of the head [T, N, H], with teacher forcing."""
        state, inputs = self.initial_state(first), self._begin(len(ops.as_tensor(first)))
        if self.body.takes_tokens:
            target = Tensor(ops.as_index("OneToMany targets", targets))
        else:
            target = ops.as_tensor(targets, self.start.weight)
        if target.shape[1:2] != inputs.shape[1:2] or target.ndim != inputs.ndim:
            raise ShapeError(f"OneToMany: expected targets {['T', *inputs.shape[1:]]}, got {list(target.shape)}")
        return self._recur(ops.concatenate([inputs, target[:-1]]), lengths, state)[0]

    def _recur(self, x: Tensor, lengths: Lengths, state: State) -> tuple[Tensor, State]:
        """The layers' outputs, and the state after them, which keeps what every step reads."""
        members, context = self._split(state)
        y, members = self.body(x, lengths, members, *(one.squeeze(0) for one in context))
        return y, pack_state([*unpack_state(members), *context])

    def _split(self, state: State) -> tuple[State, tuple[Tensor, ...]]:
        """A state as that of the layers, and where every step reads it the first input [1, N, input_size]."""
        names = self.body.layers.cell.states
        expected = (*names, "first") if self.condition == "every_step" else names
        members = check_members("OneToMany", "state", state, expected)
        return pack_state(members[: len(names)]), members[len(names) :]

    def _begin(self, batch: int) -> Tensor:
        """What step 1 reads, [1, N] or [1, N, output_size]."""
        if self.body.takes_tokens:
            return Tensor(np.full((1, batch), self.output_size))
        return ops.as_tensor(np.zeros((1, batch, self.output_size), self.start.weight.dtype), self.start.weight)

    def _run(
        self, state: State, length: int, feedback: Callable[[Tensor], Tensor], end: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """``length`` steps on the model's own outputs, or until all have ended: the outputs, and what was fed back."""
        x, outputs, fed_back = self._begin(unpack_state(state)[0].shape[1]), [], []
        for _ in range(length):
            y, state = self._recur(x, None, state)
            outputs.append(self.head(y))
            following = feedback(outputs[-1])
            if end is not None:
                following = Tensor(np.where(x.numpy() == end, end, following.numpy()))  # an end is followed by ends
            x = following
            fed_back.append(x)
            if end is not None and (x.numpy() == end).all():
                break
        return ops.concatenate(outputs), ops.concatenate(fed_back)

    def _feedback(self, output: Tensor, rng: np.random.Generator | None = None, temperature: float = 0.0) -> Tensor:
        """What the next step reads: the output after the activation, or a token."""
        if not self.body.takes_tokens:
            return output.sigmoid() if self.activation == "sigmoid" else output
        logits = output.numpy()
        if rng is None or temperature == 0:
            return Tensor(logits.argmax(-1))
        # the largest of logits plus Gumbel noise is a sample of their softmax
        return Tensor((logits / temperature + rng.gumbel(size=logits.shape)).argmax(-1))


def _select(state: State, rows: np.ndarray) -> State:
    """The states of some rows, in the order of ``rows``."""
    return pack_state([member[:, rows] for member in unpack_state(state)])
