"""What all recurrent models begin with: tokens or vectors in, the outputs of recurrent layers out."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import numpy as np

from minirnn import cells
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.cells import Cell
from minirnn.errors import OptionError
from minirnn.nn.layers import Dropout, Embedding
from minirnn.nn.module import Module
from minirnn.nn.recurrent import Recurrent
from minirnn.nn.state import State, unpack_state
from minirnn.nn.unrolled import MERGES, merge_directions

CellLike = str | Cell | dict[str, Any]
"""A name of :func:`minirnn.cells.names`, a cell, or the data of one."""


class Rates(TypedDict, total=False):
    """How the recurrence is regularised, from 0 (the default) to below 1; see :class:`~minirnn.nn.Recurrent`."""

    zoneout: float
    recurrent_dropout: float
    weight_drop: float


def cell_config(cell: CellLike) -> str | dict[str, Any]:
    """A cell for a checkpoint, JSON-able: the name of a built-in cell, the data of any other."""
    cell = cells.get(cell)
    return cell.name if cell.name in cells.names() and cells.get(cell.name) is cell else cell.to_data()


class Model(Module):
    """A module that knows what it was made with: ``type(model)(**model.config)`` makes another.

    Each ``__init__`` begins with ``self._remember(locals())``.
    """

    def _remember(self, values: dict[str, Any]) -> None:
        self._arguments = {n: v for n, v in values.items() if n not in ("self", "__class__", "dtype", "rates")}
        if "cell" in values:
            self._arguments["cell"] = cell_config(values["cell"])
            self._arguments |= dict.fromkeys(Rates.__annotations__, 0.0) | values["rates"]

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this model again, JSON-able."""
        return self._arguments | {"dtype": str(next(self.parameters()).dtype)}


def recurrent_layers(
    cell: CellLike, input_size: int, hidden_size: int, num_layers: int, dropout: float, dtype: DType,
    bidirectional: bool = False, **rates: Unpack[Rates],
) -> Recurrent:  # fmt: skip
    """What models make of a cell: :class:`~minirnn.nn.Recurrent` with open forget gates.

    A gate f of a cell with a state c starts with bias 1 (Jozefowicz, Zaremba & Sutskever 2015). Where a cell has no
    recurrent weights, recurrent dropout falls on the update.
    """
    cell = cells.get(cell)
    rnn = Recurrent(
        cell, input_size, hidden_size, num_layers, dropout=dropout, bidirectional=bidirectional, dtype=dtype,
        recurrent_dropout_on="state" if cell.recurrent_gates else "update", **rates,
    )  # fmt: skip
    if "f" in cell.gates and "c" in cell.states:
        for prefix, gates, value in (("bias_ih", cell.input_gates, 1), ("bias_hh", cell.recurrent_gates, 0)):
            for name, parameter in rnn.named_parameters():
                if name.startswith(prefix):
                    parameter.data.reshape(len(gates), -1)[gates.index("f")] = value
    return rnn


class Body(Module):
    """Recurrent layers over vectors, or over embedded or one-hot tokens.

    Args:
        input_size: I, the width of the vectors; with ``embedding_size`` the number of different tokens.
        hidden_size, num_layers: H and L.
        cell: a name of :func:`minirnn.cells.names`, or what :func:`minirnn.cell` made, or the data of a cell.
        bidirectional: with a second direction in every layer.
        merge: how the top layer's two directions become one: "concat", "sum", "mul" or "ave".
        dropout: in training, on embeddings and on the outputs of every layer (Zaremba, Sutskever & Vinyals 2014).
        embedding_size: None: inputs are vectors [T, N, I]; E: tokens [T, N], embedded in E numbers; 0: tokens, one-hot
            (a table of input_size^2 numbers is made at every call: for characters, not for words).
        rates: ``zoneout``, ``recurrent_dropout``, ``weight_drop``, see :class:`~minirnn.nn.Recurrent`.

    Attributes:
        output_size: width of the outputs, 2 H for two concatenated directions, else H.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, cell: CellLike = "lstm",
        bidirectional: bool = False, merge: str = "concat", dropout: float = 0.0, embedding_size: int | None = None,
        dtype: DType = "float32", **rates: Unpack[Rates],
    ) -> None:  # fmt: skip
        if merge not in MERGES:
            raise OptionError(f"merge must be one of {', '.join(MERGES)}, got {merge!r}")
        self.input_size, self.merge, self.dropout = input_size, merge, Dropout(dropout)
        self.takes_tokens = embedding_size is not None
        self.embedding = Embedding(input_size, embedding_size, dtype=dtype) if embedding_size else None
        self.rnn: Any = recurrent_layers(
            cell, embedding_size or input_size, hidden_size, num_layers, dropout, dtype, bidirectional, **rates
        )
        self.output_size = hidden_size * (2 if bidirectional and merge == "concat" else 1)

    def forward(self, x: Any, lengths: Any = None, state: State = None) -> tuple[Tensor, State]:
        """Outputs of the top layer [T, N, output_size], zero past each length, and the final states of all layers.

        Args:
            x: vectors [T, N, I], or tokens [T, N].
            lengths: [N] integers from 0 to T; all T where None.
            state: what an earlier call returned, to go on from there.
        """
        if self.embedding is not None and self.training and self.dropout.p > 0:
            y, state = self.rnn(self.dropout(self.embedding(x)), state, lengths)
        elif self.takes_tokens:
            y, state = self.rnn(ops.as_index("tokens", x), state, lengths, embedding=self._table())
        else:
            y, state = self.rnn(x, state, lengths)
        if self.rnn.bidirectional and self.merge != "concat":
            ahead, back = y.chunk(2, dim=-1)
            y = merge_directions(ahead, back, self.merge)
        return self.dropout(y), state

    def _table(self) -> Tensor:
        if self.embedding is not None:
            return self.embedding.weight
        return ops.as_tensor(np.eye(self.input_size, dtype=self.rnn.dtype), self.rnn.weight_hh_l0)

    def last(self, state: State) -> Tensor:
        """The top layer's final h [N, output_size], of both directions where there are two."""
        h_n = unpack_state(state)[0]
        if not self.rnn.bidirectional:
            return self.dropout(h_n[-1])
        return self.dropout(merge_directions(h_n[-2], h_n[-1], self.merge))
