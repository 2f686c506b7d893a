"""What recurrent models share: a configuration, and a body of embedding, recurrent layers and dropout."""

from __future__ import annotations

import inspect
from typing import Any, Literal, Self, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import ArrayLike

from minirnn import cells, kernels
from minirnn.autograd import ops
from minirnn.autograd.tensor import DType, Tensor
from minirnn.cells import Cell
from minirnn.data.sequences import valid_rows
from minirnn.errors import OptionError, ShapeError
from minirnn.nn.cells import Cell as CellModule
from minirnn.nn.functional import Reduction, linear_cross_entropy
from minirnn.nn.layers import Dropout, Embedding, Linear
from minirnn.nn.module import Module
from minirnn.nn.recurrent import Recurrent
from minirnn.nn.replay import Replay
from minirnn.nn.state import State, check_lengths, unpack_state
from minirnn.nn.unrolled import MERGES, Bidirectional, Merge, SequenceModule, Unrolled, is_cell, merge_directions
from minirnn.validation import check_choice

CellLike = str | Cell | dict[str, Any]
"""A name of :func:`minirnn.cells.names`, a cell, or the data of one."""
TensorLike = Tensor | ArrayLike
"""What :func:`minirnn.tensor` takes."""
Lengths = ArrayLike | None
"""The length of each sequence [N], integers from 0 to T; None for T."""


class Rates(TypedDict, total=False):
    """Regularisation of the recurrence: probabilities from 0 (the default) to 1, see :class:`~minirnn.nn.Recurrent`."""

    zoneout: float
    recurrent_dropout: float
    weight_drop: float


def cell_config(cell: CellLike | Module) -> str | dict[str, Any]:
    """A JSON-able description of a cell, for checkpoints: the name of a built-in cell, the data of any other.

    Raises:
        OptionError: ``cell`` is a module, whose code cannot be described.
    """
    if isinstance(cell, Module):
        kind = type(cell).__name__
        raise OptionError(f"config: a model made with a module ({kind}) as cell has none; use a cell of minirnn.cell")
    cell = cells.get(cell)
    return cell.name if cell.name in cells.names() and cells.get(cell.name) is cell else cell.to_data()


class Model(Module):
    """A module that knows the arguments it was made with: ``type(model)(**model.config)`` makes another one."""

    _arguments: dict[str, Any]
    _replay: Replay

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        call = inspect.signature(cls.__init__).bind_partial(self, *args, **kwargs)
        call.apply_defaults()
        self._arguments = {name: value for name, value in call.arguments.items() if value is not self}
        self._replay = Replay()
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._replay(self, self.forward, *args, **kwargs)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that make this model again, JSON-able.

        Raises:
            OptionError: the model was made with a module as cell.
        """
        arguments = {name: value for name, value in self._arguments.items() if name not in ("dtype", "rates")}
        values = {name: value.item() if isinstance(value, np.generic) else value for name, value in arguments.items()}
        if "cell" in values:
            values["cell"] = cell_config(values["cell"])
            values |= dict.fromkeys(Rates.__annotations__, 0.0) | self._arguments["rates"]
        return values | {"dtype": str(next(self.parameters()).dtype)}


class Body(Module):
    """Recurrent layers over vectors, or over embedded or one-hot tokens.

    Args:
        input_size: I, the size of the vectors; with ``embedding_size`` the number of different tokens.
        hidden_size, num_layers: H, units of a layer, and L, layers; with a module as cell H is the size of its outputs
            (merged, if it is a :class:`~minirnn.nn.Recurrent` of two directions), and L means nothing.
        cell: a name of :func:`minirnn.cells.names`, a cell of :func:`minirnn.cell`, or the data of one. Or a module
            that maps (x, state, lengths) to (y, state), such as :class:`~minirnn.nn.Bidirectional`, used as it is.
        bidirectional, merge: with a second direction in every layer, from each sequence's last step to its first; the
            top layer's two outputs become one by "concat", "sum", "mul" or "ave".
        dropout: probability, in training, on embeddings and on the outputs of every layer (Zaremba, Sutskever &
            Vinyals 2014).
        embedding_size: None: inputs are vectors [T, N, I]. E: tokens [T, N], embedded in E numbers. 0: tokens, one-hot;
            a table of input_size^2 numbers is made at every call, so for characters rather than for words.
        dtype: of the parameters, float32 or float64.
        context_size: C, the size of a vector that every step reads after its input, see :meth:`forward`.
        rates: ``zoneout``, ``recurrent_dropout`` (of the state; of the update if a cell has no recurrent weights) and
            ``weight_drop``, see :class:`~minirnn.nn.Recurrent`.

    Attributes:
        rnn, output_size: the recurrent layers; size of the outputs, 2 H for two concatenated directions, else H.

    Raises:
        OptionError: an option is unknown, out of its range, or does not go with a module as cell.
    """

    _drops_embeddings = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        cell: CellLike | Module = "lstm",
        bidirectional: bool = False,
        merge: Merge = "concat",
        dropout: float = 0.0,
        embedding_size: int | None = None,
        dtype: DType = "float32",
        context_size: int = 0,
        **rates: Unpack[Rates],
    ) -> None:
        self.input_size, self.dropout, self.takes_tokens = input_size, Dropout(dropout), embedding_size is not None
        check_choice("merge", merge, MERGES)
        self.merge: Merge = merge
        self.embedding = Embedding(input_size, embedding_size, dtype=dtype) if embedding_size else None
        if isinstance(cell, Module):
            if bidirectional or any(rates.values()) or getattr(cell, "batch_first", False):
                raise OptionError("cell: a module must have time first, and directions and regularisation of its own")
            self.rnn: Module = Unrolled(cast(CellModule, cell)) if is_cell(cell) else cell
        else:
            cell, dims = cells.get(cell), ((embedding_size or input_size) + context_size, hidden_size, num_layers)
            on: Literal["state", "update"] = "state" if cell.recurrent_gates else "update"
            self.rnn = Recurrent(
                cell, *dims, dropout=dropout, bidirectional=bidirectional, dtype=dtype, recurrent_dropout_on=on, **rates
            )
            _open_forget_gates(self.rnn)
        self.output_size = hidden_size * (2 if bidirectional and merge == "concat" else 1)

    def forward(
        self, x: TensorLike, lengths: Lengths = None, state: State = None, context: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Run the layers over whole sequences.

        Args:
            x, lengths: vectors [T, N, I] or tokens [T, N], and [N] integers from 0 to T; all T if None.
            state: what an earlier call returned, to continue from.
            context: [N, C], which every step reads after its input; None without one.

        Returns:
            Outputs of the top layer [T, N, output_size], zero past each length, and the final states of all layers.
        """
        rnn = self.rnn
        drops = self._drops_embeddings and self.embedding is not None and self.training and self.dropout.p > 0
        if self.takes_tokens and isinstance(rnn, Recurrent) and not drops and context is None:
            y, state = rnn(ops.as_index("tokens", x), state, lengths, embedding=self.table())
        else:
            rows = ops.embedding(self.table(), ops.as_index("tokens", x)) if self.takes_tokens else x
            rows = self.dropout(rows) if drops else rows
            if context is not None:
                rows = ops.as_tensor(rows, context)
                rows = ops.concatenate([rows, ops.stack([context] * len(rows))], 2)
            y, state = rnn(rows, state, lengths)
        if isinstance(rnn, Recurrent) and rnn.bidirectional and self.merge != "concat":
            forward, backward = y.chunk(2, dim=-1)
            y = merge_directions(forward, backward, self.merge)
        return self.dropout(y), state

    def initial_state(self, batch_size: int = 1) -> State:
        """The state before the first step, for ``batch_size`` sequences; None of a module whose state is not known.

        Raises:
            OptionError: the layers run in both directions.
        """
        self.check_one_direction()
        return self.rnn.initial_state(batch_size) if isinstance(self.rnn, SequenceModule) else None

    def step(self, x: TensorLike, state: State = None, context: Tensor | None = None) -> tuple[Tensor, State]:
        """One step in evaluation mode, without a tape: vectors [N, I] or tokens [N] to outputs [N, output_size].

        ``state`` is what :meth:`initial_state`, an earlier step or :meth:`forward` returned; it is not changed.
        ``context`` is as for :meth:`forward`.

        Raises:
            OptionError: the layers run in both directions.
            ShapeError, DTypeError, IndexRangeError: an input does not fit.
        """
        self.check_one_direction()
        x = self._rows(x) if self.takes_tokens else x
        if context is not None:
            x = ops.concatenate([ops.as_tensor(x, context), context], 1).detach()
        if isinstance(self.rnn, SequenceModule):
            return self.rnn.step(x, state)
        with self.evaluating():
            y, state = self.rnn(ops.as_tensor(x).unsqueeze(0), state)
            return y.squeeze(0), state

    def check_one_direction(self) -> None:
        """Raise :class:`OptionError` where a sequence cannot be read step by step."""
        if isinstance(self.rnn, Bidirectional) or getattr(self.rnn, "bidirectional", False):
            raise OptionError(
                "step: expected a model of one direction (bidirectional=False); the second direction starts at the end "
                "of a sequence, so the model needs all of it"
            )

    def _rows(self, tokens: TensorLike) -> Tensor:
        """The rows [N, E] of tokens [N]; of one-hot tokens only these rows are made."""
        index = ops.as_index("tokens", tokens)
        if index.ndim != 1:
            raise ShapeError(f"step: expected tokens [N] of one step, got {list(index.shape)}")
        ops.check_range("tokens", index, self.input_size)
        if self.embedding is not None:
            table = self.embedding.weight
            return Tensor(kernels.on(table.device).take_rows(table.data, index), device=table.device)
        weight = next(self.rnn.parameters())
        rows = np.zeros((index.size, self.input_size), weight.dtype)
        rows[np.arange(index.size), index] = 1
        return ops.as_tensor(rows, weight)

    @property
    def layers(self) -> Recurrent:
        """The recurrent layers, where they are made of a cell, or a :class:`~minirnn.nn.Recurrent` was given."""
        if not isinstance(self.rnn, Recurrent):
            raise OptionError(f"cell: expected a cell, got a module, {type(self.rnn).__name__}")
        return self.rnn

    def table(self) -> Tensor:
        """The rows that stand for tokens: the embedding [V, E], or one-hot vectors [V, V]."""
        if self.embedding is not None:
            return self.embedding.weight
        weight = next(self.rnn.parameters())
        return ops.as_tensor(np.eye(self.input_size, dtype=weight.dtype), weight)

    def last(self, state: State, y: Tensor | None = None, lengths: Lengths = None) -> Tensor:
        """One vector for each sequence: the top layer's final h [N, output_size], of two directions each one's own.

        ``state`` and ``y`` are what :meth:`forward` returned for ``lengths``; the latter two are needed only with a
        module as cell, whose output at each sequence's own last step is taken.
        """
        if isinstance(self.rnn, Recurrent) and len(set(self.rnn.hidden_sizes)) == 1:
            h_n = unpack_state(state)[0]
            return self.dropout(merge_directions(h_n[-2], h_n[-1], self.merge) if self.rnn.bidirectional else h_n[-1])
        if isinstance(self.rnn, Bidirectional) or getattr(self.rnn, "bidirectional", False):
            use = "use another pooling, or bidirectional=True"
            raise OptionError(f"cell: two directions have no one last output; {use}")
        assert y is not None
        steps, batch = y.shape[:2]
        return y[check_lengths("lengths", lengths, steps, batch) - 1, np.arange(batch)]


def linear_step(layer: Linear, x: Tensor) -> Tensor:
    """``layer(x)`` of the few rows of one step, without a tape."""
    bias = None if layer.bias is None else layer.bias.data
    K = kernels.on(x.device)
    return Tensor(K.gemv(K.contiguous(x.data), layer.weight.data, bias), device=x.device)


def tokens_loss(
    head: Linear,
    h: Tensor,
    labels: np.ndarray,
    lengths: np.ndarray,
    label_smoothing: float,
    reduction: Reduction,
) -> Tensor:
    """Cross-entropy of the tokens ``labels`` [T, N], given the inputs ``h`` [T, N, H] of the head.

    Padding, steps from ``lengths`` [N] on, is neither computed nor counted.
    """
    valid = valid_rows(len(labels), lengths)
    rows, classes = ops.take_rows(h.reshape(labels.size, h.shape[2]), valid), labels.reshape(-1)[valid]
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "reduction": reduction}
    return linear_cross_entropy(rows, head.weight, classes, linear_bias=head.bias, **options)


def _open_forget_gates(rnn: Recurrent) -> None:
    """Let a gate f of a cell with a state c start with bias 1 (Jozefowicz, Zaremba & Sutskever 2015)."""
    cell = rnn.cell
    if "f" in cell.gates and "c" in cell.states:
        for prefix, gates, value in (("bias_ih", cell.input_gates, 1), ("bias_hh", cell.recurrent_gates, 0)):
            for name, parameter in rnn.named_parameters():
                if name.startswith(prefix):
                    parameter.data.reshape(len(gates), -1)[gates.index("f")] = value
