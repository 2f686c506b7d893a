"""Four of the five input/output shapes of networks; the fifth, encoder-decoder, has a file of its own."""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np

from minirnn import random
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.errors import OptionError, ShapeError
from minirnn.models.body import Body, CellLike, Model, Rates
from minirnn.nn.layers import Dropout, Linear, ReLU, Sigmoid, Tanh
from minirnn.nn.module import Sequential
from minirnn.nn.pooling import Pooling
from minirnn.nn.state import State, pack_state, unpack_state
from minirnn.validation import check_int

ACTIVATIONS = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}


class OneToOne(Model):
    """One vector to one vector, without a state: the feed-forward network, y = W_2 f(W_1 x + b_1) + b_2.

    Args:
        input_size, hidden_size, output_size: widths.
        num_layers: hidden layers; 0 leaves a linear model.
        activation: f of the hidden layers: "relu", "tanh" or "sigmoid".
        dropout: in training, on the outputs of every hidden layer.

    >>> import minirnn as mr
    >>> mr.models.OneToOne(4, 16, 3)(mr.zeros(5, 4)).shape
    (5, 3)
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, num_layers: int = 1, activation: str = "relu",
        dropout: float = 0.0, dtype: DType = "float32",
    ) -> None:  # fmt: skip
        self._remember(locals())
        if activation not in ACTIVATIONS:
            raise OptionError(f"OneToOne: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if num_layers != 0:
            check_int("OneToOne: num_layers", num_layers)
        parts: list[Any] = []
        width = input_size
        for _ in range(num_layers):
            parts += [Linear(width, hidden_size, dtype=dtype), ACTIVATIONS[activation](), Dropout(dropout)]
            width = hidden_size
        self.layers = Sequential(*parts, Linear(width, output_size, dtype=dtype))

    def forward(self, x: Any) -> Tensor:
        """x [..., input_size] to [..., output_size]."""
        return self.layers(x)


class ManyToOne(Model):
    """A sequence to one vector: classification, regression.

    Args:
        input_size, hidden_size, num_layers, cell, bidirectional, merge, dropout, embedding_size, rates:
            see :class:`~minirnn.models.body.Body`.
        output_size: classes, or numbers to predict.
        pooling: what stands for the whole sequence: "last" (the final state), "mean", "max" or "attention" over the
            valid steps.

    >>> import minirnn as mr
    >>> model = mr.models.ManyToOne(1000, 32, 2, embedding_size=16, bidirectional=True, pooling="attention")
    >>> model([[5, 7], [9, 0], [2, 0]], lengths=[3, 1]).shape  # three steps of two sequences, the second of length 1
    (2, 2)
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, num_layers: int = 1, cell: CellLike = "lstm",
        bidirectional: bool = False, merge: str = "concat", dropout: float = 0.0, pooling: str = "last",
        embedding_size: int | None = None, dtype: DType = "float32", **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        self._remember(locals())
        self.body = Body(
            input_size, hidden_size, num_layers, cell, bidirectional, merge, dropout, embedding_size, dtype, **rates
        )
        self.pooling = None if pooling == "last" else Pooling(pooling, self.body.output_size, dtype)
        self.head = Linear(self.body.output_size, output_size, dtype=dtype)

    def features(self, x: Any, lengths: Any = None) -> Tensor:
        """What stands for each sequence, [N, output width of the layers]."""
        y, state = self.body(x, lengths)
        return self.body.last(state) if self.pooling is None else self.pooling(y, lengths)

    def forward(self, x: Any, lengths: Any = None) -> Tensor:
        """x [T, N, I] or tokens [T, N], and lengths [N], to [N, output_size]."""
        return self.head(self.features(x, lengths))


class ManyToMany(Model):
    """A sequence to a sequence of the same length: tagging, language models, music.

    Args:
        input_size, hidden_size, num_layers, cell, bidirectional, merge, dropout, embedding_size, rates:
            see :class:`~minirnn.models.body.Body`.
        output_size: classes, or numbers, at every step.
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, num_layers: int = 1, cell: CellLike = "lstm",
        bidirectional: bool = False, merge: str = "concat", dropout: float = 0.0,
        embedding_size: int | None = None, dtype: DType = "float32", **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        self._remember(locals())
        self.body = Body(
            input_size, hidden_size, num_layers, cell, bidirectional, merge, dropout, embedding_size, dtype, **rates
        )
        self.head = Linear(self.body.output_size, output_size, dtype=dtype)

    def forward(self, x: Any, lengths: Any = None, state: State = None) -> tuple[Tensor, State]:
        """x [T, N, I] or tokens [T, N] to [T, N, output_size], and the final state, from which a call can go on.

        Steps past a sequence's length hold the head's bias; leave them out of the loss.
        """
        y, state = self.body(x, lengths, state)
        return self.head(y), state


class OneToMany(Model):
    """One vector, label or note to a sequence, every step reading what the step before has given.

    The first input sets the initial state, h_0 = tanh(W x + b) in each layer; step 1 reads zeros (or the token
    <begin>), and step t > 1 the output of step t - 1, or in training with ``targets`` the expected one (teacher
    forcing; Williams & Zipser 1989). One direction only: what comes later does not exist yet.

    Args:
        input_size: width of the first input, or the number of labels.
        output_size: numbers in each output; with ``embedding_size`` the number of different tokens.
        hidden_size, num_layers, cell, dropout, rates: as for the others.
        embedding_size: None: outputs are vectors; a number: outputs are logits of tokens, which are fed back embedded
            (0: one-hot).
        activation: what is fed back of a vector: "none" the numbers themselves; "sigmoid" probabilities.

    >>> import minirnn as mr
    >>> model = mr.models.OneToMany(10, 32, 28, activation="sigmoid")  # a label to the rows of an image
    >>> model([3, 7], length=28).shape
    (28, 2, 28)
    """

    def __init__(
        self, input_size: int, hidden_size: int, output_size: int, num_layers: int = 1, cell: CellLike = "lstm",
        dropout: float = 0.0, embedding_size: int | None = None, activation: str = "none", dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        self._remember(locals())
        if activation not in ("none", "sigmoid"):
            raise OptionError(f"OneToMany: activation must be 'none' or 'sigmoid', got {activation!r}")
        self.activation, self.output_size = activation, check_int("OneToMany: output_size", output_size)
        self.start = Linear(input_size, num_layers * hidden_size, dtype=dtype)
        tokens = embedding_size is not None
        self.body = Body(
            output_size + 1 if tokens else output_size, hidden_size, num_layers, cell, dropout=dropout,
            embedding_size=embedding_size, dtype=dtype, **rates,
        )  # fmt: skip
        self.head = Linear(hidden_size, output_size, dtype=dtype)

    def initial_state(self, first: Any) -> State:
        """The state that ``first``, [N, input_size] or labels [N], sets."""
        x = ops.as_tensor(first)
        if x.dtype.kind in "iu" and x.ndim == 1:
            h = ops.embedding(self.start.weight.T, x) + self.start.bias  # W times a one-hot vector
        elif x.ndim == 2:
            h = self.start(first)
        else:
            raise ShapeError(f"OneToMany: expected a first input [N, I], or labels [N], got {list(x.shape)}")
        rnn = self.body.rnn
        h = h.tanh().reshape(len(x), rnn.num_layers, rnn.hidden_size).transpose(0, 1)
        return pack_state([h, *[h * 0.0] * (len(rnn.cell.states) - 1)])

    def forward(self, first: Any, targets: Any = None, length: int | None = None, lengths: Any = None) -> Tensor:
        """Outputs (of tokens: logits) [T, N, output_size].

        Args:
            first: [N, input_size], or integer labels [N].
            targets: [T, N, output_size], or tokens [T, N]: each step reads the target of the step before.
            length: T, where there are no targets: each step reads the model's own output (the most likely token).
            lengths: [N] valid steps.
        """
        if (targets is None) == (length is None):
            raise OptionError("OneToMany: expected either targets, to learn from, or a length, to run freely")
        state = self.initial_state(first)
        if targets is None:
            return self._run(state, check_int("OneToMany: length", length or 0), None)[0]
        inputs = self._begin(len(ops.as_tensor(first)))
        if self.body.takes_tokens:
            expected = Tensor(ops.as_index("OneToMany targets", targets))
        else:
            expected = ops.as_tensor(targets, self.start.weight)
        if expected.shape[1:2] != inputs.shape[1:2] or expected.ndim != inputs.ndim:
            raise ShapeError(f"OneToMany: expected targets {['T', *inputs.shape[1:]]}, got {list(expected.shape)}")
        y, _ = self.body(ops.concatenate([inputs, expected[:-1]]), lengths, state)
        return self.head(y)

    def generate(self, first: Any, length: int, temperature: float = 1.0, seed: int | None = None) -> np.ndarray:
        """Run freely without a tape: vectors [T, N, output_size] (after the activation), or sampled tokens [T, N].

        Args:
            temperature: of tokens: divides the logits; 0 takes the most likely.
            seed: the same seed gives the same tokens; drawn from :mod:`minirnn.random` where None.
        """
        if not 0 <= temperature < float("inf"):
            raise OptionError(f"OneToMany: temperature must be at least 0, got {temperature}")
        steps = check_int("OneToMany: length", length)
        rng = random.generator_of(seed)
        with self.evaluating():
            _, fed = self._run(self.initial_state(first), steps, (rng, temperature))
        return fed.numpy()

    def _begin(self, batch: int) -> Tensor:
        """What step 1 reads, [1, N] or [1, N, output_size]."""
        if self.body.takes_tokens:
            return Tensor(np.full((1, batch), self.output_size))
        return ops.as_tensor(np.zeros((1, batch, self.output_size), self.body.rnn.dtype), self.start.weight)

    def _run(
        self, state: State, length: int, sampling: tuple[np.random.Generator, float] | None
    ) -> tuple[Tensor, Tensor]:
        """``length`` steps on the model's own outputs: the outputs, and what was fed back."""
        batch = unpack_state(state)[0].shape[1]
        fed, outputs, chosen = self._begin(batch), [], []
        for _ in range(length):
            y, state = self.body(fed, None, state)
            output = self.head(y)
            fed = self._fed_back(output, sampling)
            outputs.append(output)
            chosen.append(fed)
        return ops.concatenate(outputs), ops.concatenate(chosen)

    def _fed_back(self, output: Tensor, sampling: tuple[np.random.Generator, float] | None) -> Tensor:
        if not self.body.takes_tokens:
            return output.sigmoid() if self.activation == "sigmoid" else output
        logits = output.numpy()
        if sampling is None or sampling[1] == 0:
            return Tensor(logits.argmax(-1))
        rng, temperature = sampling  # the largest of logits plus Gumbel noise is a draw from their softmax
        return Tensor((logits / temperature + rng.gumbel(size=logits.shape)).argmax(-1))
