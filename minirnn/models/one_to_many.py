"""OneToMany: one vector or label to a sequence."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Unpack

import numpy as np

from minirnn import cells, random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.models.body import Body, CellLike, Lengths, Model, Rates, TensorLike, linear_step
from minirnn.nn.layers import Linear
from minirnn.nn.state import State, check_members, pack_state, unpack_state
from minirnn.validation import check_choice, check_float, check_int


class OneToMany(Model):
    """One vector, label or note to a sequence; every step reads the output of the step before.

    The first input sets the initial state, h_0 = tanh(W x + b) in each layer. Step 1 reads zeros (or the token
    <begin>), and step t > 1 the output of step t - 1, or in training with ``targets`` the target of step t - 1 (teacher
    forcing; Williams & Zipser 1989). There is one direction only.

    Args:
        input_size, output_size: size of the first input, or the number of labels; numbers in each output, or with
            ``embedding_size`` the number of different tokens.
        hidden_size, num_layers: units of a recurrent layer, and layers.
        cell: name of a cell, a cell, or its data; a module is refused, as its state is not known.
        dropout: probability, in training, on embeddings and on the outputs of every layer.
        embedding_size: None: outputs are vectors. A number: outputs are logits of tokens, which are fed back embedded
            (0: one-hot).
        activation: what is fed back of a vector: "none" for the numbers themselves, "sigmoid" for probabilities.
        dtype, rates: float32 or float64; ``zoneout``, ``recurrent_dropout``, ``weight_drop`` of ``nn.Recurrent``.

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
        **rates: Unpack[Rates],
    ) -> None:
        self.activation = check_choice("OneToMany: activation", activation, ("none", "sigmoid"))
        self.output_size = check_int("OneToMany: output_size", output_size)
        self.start = Linear(input_size, num_layers * hidden_size, dtype=dtype)
        cell, size = cells.get(cell), output_size + (embedding_size is not None)  # one more token, <begin>
        self.body = Body(size, hidden_size, num_layers, cell, False, "concat", dropout, embedding_size, dtype, **rates)
        self.head = Linear(hidden_size, output_size, dtype=dtype)

    def initial_state(self, first: TensorLike) -> State:
        """The state that ``first`` sets, [N, input_size] or integer labels [N]."""
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
        return pack_state([h, *[h * 0.0] * (len(layers.cell.states) - 1)])

    def step(self, x: TensorLike | None, state: State) -> tuple[Tensor, State]:
        """One step in evaluation mode, without a tape.

        Args:
            x: what the step reads: None at the first (zeros, or the token <begin>), then vectors [N, output_size] or
                tokens [N], such as the output of the step before after the activation.
            state: what :meth:`initial_state` or an earlier step returned; it is not changed.

        Returns:
            Outputs (of tokens: logits) [N, output_size], and the new state.
        """
        members = check_members("OneToMany", "state", state, self.body.layers.cell.states)
        x = self._begin(members[0].shape[1]).squeeze(0) if x is None else x
        y, state = self.body.step(x, state)
        return linear_step(self.head, y), state

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
        state = self.initial_state(first)
        if targets is None:
            return self._run(state, check_int("OneToMany: length", length), self._feedback)[0]
        inputs = self._begin(len(ops.as_tensor(first)))
        if self.body.takes_tokens:
            target = Tensor(ops.as_index("OneToMany targets", targets))
        else:
            target = ops.as_tensor(targets, self.start.weight)
        if target.shape[1:2] != inputs.shape[1:2] or target.ndim != inputs.ndim:
            raise ShapeError(f"OneToMany: expected targets {['T', *inputs.shape[1:]]}, got {list(target.shape)}")
        y, _ = self.body(ops.concatenate([inputs, target[:-1]]), lengths, state)
        return self.head(y)

    def generate(self, first: TensorLike, length: int, temperature: float = 1.0, seed: int | None = None) -> np.ndarray:
        """Generate a sequence without a tape.

        Args:
            first, length: [N, input_size], or integer labels [N]; T, steps to generate.
            temperature: of tokens: divides the logits; 0 takes the most likely.
            seed: the same seed gives the same tokens; drawn from :mod:`minirnn.random` if None.

        Returns:
            Vectors [T, N, output_size] (after the activation), or sampled tokens [T, N].
        """
        temperature = check_float("OneToMany: temperature", temperature, finite=True)
        steps = check_int("OneToMany: length", length)
        feedback = partial(self._feedback, rng=random.generator_of(seed), temperature=temperature)
        with self.evaluating():
            return self._run(self.initial_state(first), steps, feedback)[1].numpy()

    def _begin(self, batch: int) -> Tensor:
        """What step 1 reads, [1, N] or [1, N, output_size]."""
        if self.body.takes_tokens:
            return Tensor(np.full((1, batch), self.output_size))
        return ops.as_tensor(np.zeros((1, batch, self.output_size), self.start.weight.dtype), self.start.weight)

    def _run(self, state: State, length: int, feedback: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """``length`` steps on the model's own outputs: the outputs, and what was fed back."""
        x, outputs, fed_back = self._begin(unpack_state(state)[0].shape[1]), [], []
        for _ in range(length):
            y, state = self.body(x, None, state)
            outputs.append(self.head(y))
            x = feedback(outputs[-1])
            fed_back.append(x)
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
