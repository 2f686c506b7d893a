"""ManyToMany and ManyToOne: a sequence to a sequence of the same length, and to one vector."""

from __future__ import annotations

from typing import Unpack

from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.models.body import Body, CellLike, Lengths, Model, Rates, TensorLike, linear_step
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module
from minirnn.nn.pooling import POOLINGS, Pooling
from minirnn.nn.state import State, check_lengths, check_members
from minirnn.nn.unrolled import Merge
from minirnn.validation import check_choice

_MEMBERS = ("state of the layers", "state of the pooling")


class ManyToMany(Model):
    """A sequence to a sequence of the same length: tagging, language models, music.

    Args:
        input_size: I, the size of the vectors; with ``embedding_size`` the number of different tokens.
        hidden_size, num_layers, output_size: units of a layer; layers; classes, or numbers, at every step.
        cell: name of a cell, a cell, its data, or a recurrent module; see :class:`~minirnn.models.body.Body`.
        bidirectional, merge: a second direction in every layer, merged at the top by "concat", "sum", "mul" or "ave".
        dropout: probability, in training, on embeddings and on the outputs of every layer.
        embedding_size: None for vectors; E for tokens that are embedded in E numbers; 0 for one-hot tokens.
        dtype, rates: float32 or float64; ``zoneout``, ``recurrent_dropout``, ``weight_drop`` of ``nn.Recurrent``.

    >>> import minirnn as mr
    >>> model = mr.models.ManyToMany(1000, 32, 17, bidirectional=True, embedding_size=16)
    >>> model([[5, 7], [9, 0]], lengths=[2, 1])[0].shape  # two steps of two sequences
    (2, 2, 17)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        cell: CellLike | Module = "lstm",
        bidirectional: bool = False,
        merge: Merge = "concat",
        dropout: float = 0.0,
        embedding_size: int | None = None,
        dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:
        options = bidirectional, merge, dropout, embedding_size, dtype
        self.body = Body(input_size, hidden_size, num_layers, cell, *options, **rates)
        self.head = Linear(self.body.output_size, output_size, dtype=dtype)

    def forward(self, x: TensorLike, lengths: Lengths = None, state: State = None) -> tuple[Tensor, State]:
        """Outputs (of classes: logits) of every step.

        Args:
            x, lengths: vectors [T, N, I] or tokens [T, N], and [N] integers from 0 to T; all T if None.
            state: what an earlier call returned, to continue from.

        Returns:
            [T, N, output_size], with the head's bias past a sequence's length (not for the loss), and the final states.
        """
        y, state = self.body(x, lengths, state)
        return self.head(y), state

    def initial_state(self, batch_size: int = 1) -> State:
        """The state before the first step, for ``batch_size`` sequences; of models of one direction."""
        return self.body.initial_state(batch_size)

    def step(self, x: TensorLike, state: State = None) -> tuple[Tensor, State]:
        """One step in evaluation mode, without a tape: vectors [N, I] or tokens [N] to outputs [N, output_size].

        ``state`` is what :meth:`initial_state`, an earlier step or :meth:`forward` returned; it is not changed.
        """
        y, state = self.body.step(x, state)
        return linear_step(self.head, y), state


class ManyToOne(Model):
    """A sequence to one vector: classification, regression.

    Args:
        input_size: I, the size of the vectors; with ``embedding_size`` the number of different tokens.
        hidden_size, num_layers, output_size: units of a layer; layers; classes, or numbers to predict.
        cell: name of a cell, a cell, its data, or a recurrent module; see :class:`~minirnn.models.body.Body`.
        bidirectional, merge: a second direction in every layer, merged at the top by "concat", "sum", "mul" or "ave".
        dropout: probability, in training, on embeddings and on the outputs of every layer.
        pooling: what stands for the whole sequence: "last" (the final state), or "mean", "max" or "attention" over the
            valid steps.
        embedding_size: None for vectors; E for tokens that are embedded in E numbers; 0 for one-hot tokens.
        dtype, rates: float32 or float64; ``zoneout``, ``recurrent_dropout``, ``weight_drop`` of ``nn.Recurrent``.

    >>> import minirnn as mr
    >>> model = mr.models.ManyToOne(1000, 32, 2, embedding_size=16, bidirectional=True, pooling="attention")
    >>> model([[5, 7], [9, 0], [2, 0]], lengths=[3, 1]).shape  # three steps of two sequences, the second of length 1
    (2, 2)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        num_layers: int = 1,
        cell: CellLike | Module = "lstm",
        bidirectional: bool = False,
        merge: Merge = "concat",
        dropout: float = 0.0,
        pooling: str = "last",
        embedding_size: int | None = None,
        dtype: DType = "float32",
        **rates: Unpack[Rates],
    ) -> None:
        check_choice("ManyToOne: pooling", pooling, ("last", *POOLINGS))
        options = bidirectional, merge, dropout, embedding_size, dtype
        self.body = Body(input_size, hidden_size, num_layers, cell, *options, **rates)
        self.pooling = None if pooling == "last" else Pooling(pooling, self.body.output_size, dtype)
        self.head = Linear(self.body.output_size, output_size, dtype=dtype)

    def features(self, x: TensorLike, lengths: Lengths = None) -> Tensor:
        """What stands for each sequence of ``x`` with its ``lengths``, [N, size of the top layer's outputs]."""
        y, state = self.body(x, lengths)
        return self.body.last(state, y, lengths) if self.pooling is None else self.pooling(y, lengths)

    def forward(
        self, x: TensorLike, lengths: Lengths = None, state: State = None, return_state: bool = False
    ) -> Tensor | tuple[Tensor, State]:
        """Outputs (of classes: logits) [N, output_size] of sequences, or of all chunks of them that were read so far.

        Args:
            x, lengths: as for :class:`ManyToMany`: vectors [T, N, I] or tokens [T, N], and [N] integers from 0 to T,
                all T if None.
            state: what an earlier call returned for the chunk before; only of one direction.
            return_state: return the outputs and the state after this chunk: that of the layers, and what the pooling
                needs of the steps so far.
        """
        if state is None and not return_state:
            return self.head(self.features(x, lengths))
        self.body.check_one_direction()
        body_state, pooled = check_members("ManyToOne", "state", (None, None) if state is None else state, _MEMBERS)
        y, body_state = self.body(x, lengths, body_state)
        features, pooled = self._pool(y, body_state, lengths, pooled)
        output = self.head(features)
        return (output, (body_state, pooled)) if return_state else output

    def initial_state(self, batch_size: int = 1) -> State:
        """The state before the first step, for ``batch_size`` sequences: that of the layers, and nothing pooled."""
        return self.body.initial_state(batch_size), None

    def step(self, x: TensorLike, state: State = None) -> tuple[Tensor, State]:
        """One step in evaluation mode, without a tape: vectors [N, I] or tokens [N] to the outputs so far.

        ``state`` is what :meth:`initial_state`, an earlier step or :meth:`forward` returned; it is not changed.
        """
        body_state, pooled = check_members("ManyToOne", "state", (None, None) if state is None else state, _MEMBERS)
        y, body_state = self.body.step(x, body_state)
        with self.evaluating():
            features, pooled = self._pool(y.unsqueeze(0), body_state, None, pooled)
        return linear_step(self.head, features), (body_state, pooled)

    def _pool(self, y: Tensor, state: State, lengths: Lengths, pooled: State) -> tuple[Tensor, State]:
        """What stands for the sequences so far, after a chunk with outputs ``y``, and the new state of the pooling."""
        if self.pooling is not None:
            return self.pooling.update(y, lengths, pooled)
        last = self.body.last(state, y, lengths)
        if isinstance(pooled, Tensor) and lengths is not None:  # a chunk without a step changes nothing
            last = ops.where((check_lengths("lengths", lengths, *y.shape[:2]) > 0)[:, None], last, pooled)
        return last, last
