"""ManyToMany: a sequence to a sequence of the same length."""

from __future__ import annotations

from typing import Unpack

from minirnn.autograd.tensor import DType, Tensor
from minirnn.models.body import Body, CellLike, Lengths, Model, Rates, TensorLike
from minirnn.nn.layers import Linear
from minirnn.nn.module import Module
from minirnn.nn.state import State
from minirnn.nn.unrolled import Merge


class ManyToMany(Model):
    """A sequence to a sequence of the same length: tagging, language models, music.

    Args:
        input_size: I, the size of the vectors; with ``embedding_size`` the number of different tokens.
        hidden_size, num_layers: units of a recurrent layer, and layers.
        output_size: classes, or numbers, at every step.
        cell: name of a cell, a cell, its data, or a recurrent module; see :class:`~minirnn.models.body.Body`.
        bidirectional, merge: a second direction in every layer, merged at the top by "concat", "sum", "mul" or "ave".
        dropout: probability, in training, on embeddings and on the outputs of every layer.
        embedding_size: None for vectors; E for tokens that are embedded in E numbers; 0 for one-hot tokens.
        dtype: of the parameters, float32 or float64.
        rates: ``zoneout``, ``recurrent_dropout``, ``weight_drop``, see :class:`~minirnn.nn.Recurrent`.

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
        self.body = Body(
            input_size, hidden_size, num_layers, cell, bidirectional, merge, dropout, embedding_size, dtype, **rates
        )
        self.head = Linear(self.body.output_size, output_size, dtype=dtype)

    def forward(self, x: TensorLike, lengths: Lengths = None, state: State = None) -> tuple[Tensor, State]:
        """Outputs (of classes: logits) of every step.

        Args:
            x: vectors [T, N, I], or tokens [T, N].
            lengths: [N] integers from 0 to T; all T if None.
            state: what an earlier call returned, to continue from.

        Returns:
            [T, N, output_size], and the final states. Steps past a sequence's length hold the head's bias; leave them
            out of the loss.
        """
        y, state = self.body(x, lengths, state)
        return self.head(y), state
