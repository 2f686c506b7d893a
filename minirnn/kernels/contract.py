"""The kernel contract: what every backend offers, typed and documented once.

mypy checks the modules ``minirnn.kernels.cpu`` and ``minirnn.kernels.cuda`` against :class:`Backend`. Layers above the
kernels see neither: they are given :data:`Kernels` and :class:`Array`.

Rules that hold for every function:

- Arrays are of the backend's device, C-contiguous unless stated otherwise, float32 or float64; indices are int64 and
  may lie on the host.
- Arguments are not checked. The caller does that, and raises the errors users see.
- ``gemm``, ``matmul`` and ``Recurrence`` multiply in the precision of ``matmul_precision``, on the CPU.
- No result depends on the number of threads: every sum has one order.
- Only ``to_numpy``, ``has_nan``, ``square_sum``, ``Sampler.run``, and methods named after a Python type wait for a GPU.

Shapes: T steps, N sequences, S packed rows (:mod:`minirnn.kernels.steps`), I inputs, H hidden units, G gates with an
input part, R gates with a recurrent part, V tokens; W is the width of the output h, which is H without a projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np

from minirnn.kernels.equations import Equations
from minirnn.kernels.steps import Steps

Axes = int | tuple[int, ...] | None
Weights = Literal["float32", "bfloat16", "int8"]
"""In what the matrices of a model are stored for sampling."""
DType = np.dtype | type


class Array(Protocol):
    """What :class:`numpy.ndarray` and the GPU's ``DeviceArray`` have in common: NumPy's names and meanings.

    Operands may be arrays of the same device or numbers. Comparisons give boolean arrays, which lack some arithmetic.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def T(self) -> Array: ...  # noqa: N802 - NumPy's name
    @property
    def reshape(self) -> Callable[..., Array]: ...  # a method; mypy cannot match NumPy's overloads of it
    def astype(self, dtype: DType, /, *, copy: bool = True) -> Array: ...
    def copy(self) -> Array: ...
    def transpose(self, *axes: Any) -> Array: ...
    def swapaxes(self, first: int, second: int, /) -> Array: ...
    def sum(self, axis: Axes = None, *, dtype: Any = None, keepdims: bool = False) -> Any: ...
    def max(self, axis: Axes = None, *, keepdims: bool = False) -> Any: ...
    def min(self, axis: Axes = None, *, keepdims: bool = False) -> Any: ...
    def any(self) -> Any: ...
    def item(self) -> Any: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __neg__(self) -> Array: ...
    def __add__(self, other: Any, /) -> Array: ...
    def __radd__(self, other: Any, /) -> Array: ...
    def __sub__(self, other: Any, /) -> Array: ...
    def __rsub__(self, other: Any, /) -> Array: ...
    def __mul__(self, other: Any, /) -> Array: ...
    def __rmul__(self, other: Any, /) -> Array: ...
    def __truediv__(self, other: Any, /) -> Array: ...
    def __rtruediv__(self, other: Any, /) -> Array: ...
    def __eq__(self, other: object, /) -> Any: ...
    def __ne__(self, other: object, /) -> Any: ...
    def __lt__(self, other: Any, /) -> Any: ...
    def __le__(self, other: Any, /) -> Any: ...
    def __gt__(self, other: Any, /) -> Any: ...
    def __ge__(self, other: Any, /) -> Any: ...


A = TypeVar("A")
B = TypeVar("B")


@dataclass
class RecurrentWeights(Generic[A]):
    """The recurrent weights of one layer in one direction, as arrays or as tensors; None or empty where not used.

    Attributes:
        input_bias: [G H], part of the input part of the gates.
        weight_hh: [R H, W].
        bias: [K, H], of the K gates whose recurrent part is stored separately.
        vectors: [V, H], learnt vectors of the cell.
        inner: a weight [H, H] for each ``product`` inside the step.
        weight_hr: [W, H], the projection of h.
    """

    input_bias: A | None = None
    weight_hh: A | None = None
    bias: A | None = None
    vectors: A | None = None
    inner: list[A] = field(default_factory=list)
    weight_hr: A | None = None

    def map(self, function: Callable[[A], B]) -> RecurrentWeights[B]:
        """Apply ``function`` to every weight."""

        def apply(value: Any) -> Any:
            if isinstance(value, list):
                return [function(weight) for weight in value]
            return None if value is None else function(value)

        return RecurrentWeights(**{name: apply(value) for name, value in vars(self).items()})


@dataclass
class Noise(Generic[A]):
    """Regularisation in training: the seed of all draws, the rates, a mask [N, H] on what weight_hh multiplies.

    ``rows`` [S] int64 numbers the packed rows for the draws, those of row s being a function of ``seed`` and
    ``rows[s]``; s itself where None.
    """

    seed: int = 0
    zoneout: float = 0.0
    dropout: float = 0.0
    mask: A | None = None
    rows: np.ndarray | None = None


@dataclass(frozen=True)
class TokenModel(Generic[A]):
    """The weights of a token model: an embedding, L layers of one cell, a linear head.

    Attributes:
        equations: the cell's, resolved for evaluation.
        table: [V, G H], input part of the first layer for each token, biases included.
        weight_ih, bias_ih: [G H, H] and [G H] of each layer above the first, biases combined as in ``table``.
        recurrent: of each layer.
        head, head_bias: [V, H], [V].
        zoneout: rate of the cell's zoneout.
    """

    equations: Equations
    table: A
    weight_ih: list[A]
    bias_ih: list[A]
    recurrent: list[RecurrentWeights[A]]
    head: A
    head_bias: A
    zoneout: float = 0.0


class Recurrence(Protocol[A]):
    """One layer in one direction over a batch. The forward pass runs when it is made.

    Attributes:
        histories: each state over time, [N + S, W] for h and [N + S, H] for the others: the initial states, then the
            result of every packed row.
    """

    histories: list[A]

    def backward(
        self, dy: A | None, d_states: list[A], d_weight_hh: A | None = None
    ) -> tuple[list[A], RecurrentWeights[A]]:
        """Backpropagation through time, once: the gradients of the initial states and of the weights.

        The gradient of the gates' input part replaces the content of ``gates``.

        Args:
            dy: [S, W], gradient of the output at every step; None for zero.
            d_states: gradients of the final states, shaped like the initial ones; overwritten.
            d_weight_hh: memory for the gradient of ``weight_hh``; new memory if None.
        """


class Sampler(Protocol[A]):
    """A token model ready to sample: weights packed, states kept between calls."""

    def states(self) -> list[A]:
        """Copies of the states [L, N, H] after the last token that was fed: not yet the one sampled last."""

    def run(
        self,
        given: np.ndarray,
        count: int,
        temperature: float,
        top_k: int,
        top_p: float,
        seeds: np.ndarray,
        position: int,
    ) -> np.ndarray:
        """Feed the tokens ``given`` [P, N], P at least 1, then sample; returns int64 tokens [count, N] on the host.

        Args:
            temperature: divides the logits; 0 takes the most probable token.
            top_k, top_p: sample from the k most probable tokens, and of these from the smallest set that holds the
                fraction p of their probability.
            seeds: [N] uint64, one random stream per sequence.
            position: number of the first draw, so that consecutive calls continue one stream.
        """


class Backend(Protocol[A]):
    """The functions of a device, on its array type ``A``."""

    # Arrays. `empty` does not initialise; `asarray` copies host values to the device, and shares the memory of an array
    # that is there; `contiguous` copies only where needed.
    def empty(self, shape: tuple[int, ...], dtype: DType) -> A: ...
    def zeros(self, shape: tuple[int, ...], dtype: DType) -> A: ...
    def zeros_like(self, x: A, /) -> A: ...
    def ones_like(self, x: A, /) -> A: ...
    def asarray(self, values: object, dtype: DType | None = None) -> A: ...
    def contiguous(self, x: A) -> A: ...
    def to_numpy(self, x: A) -> np.ndarray: ...

    # Elementwise, as NumPy's functions of these names: operands broadcast, Python numbers take the arrays' type.
    # erf, sigmoid and softplus = log(1 + exp(x)) neither overflow nor lose precision at either end.
    def abs(self, x: A, /) -> A: ...
    def negative(self, x: A, /) -> A: ...
    def sign(self, x: A, /) -> A: ...
    def exp(self, x: A, /) -> A: ...
    def log(self, x: A, /) -> A: ...
    def log1p(self, x: A, /) -> A: ...
    def sqrt(self, x: A, /) -> A: ...
    def tanh(self, x: A, /) -> A: ...
    def sigmoid(self, x: A, /) -> A: ...
    def softplus(self, x: A, /) -> A: ...
    def erf(self, x: A, /) -> A: ...
    def add(self, a: A | float, b: A | float, /) -> A: ...
    def subtract(self, a: A | float, b: A | float, /) -> A: ...
    def multiply(self, a: A | float, b: A | float, /) -> A: ...
    def divide(self, a: A | float, b: A | float, /) -> A: ...
    def power(self, a: A | float, b: A | float, /) -> A: ...
    def maximum(self, a: A | float, b: A | float, /) -> A: ...
    def minimum(self, a: A | float, b: A | float, /) -> A: ...
    def equal(self, a: A | float, b: A | float, /) -> A: ...
    def not_equal(self, a: A | float, b: A | float, /) -> A: ...
    def less(self, a: A | float, b: A | float, /) -> A: ...
    def less_equal(self, a: A | float, b: A | float, /) -> A: ...
    def greater(self, a: A | float, b: A | float, /) -> A: ...
    def greater_equal(self, a: A | float, b: A | float, /) -> A: ...
    def where(self, condition: A, a: A | float, b: A | float, /) -> A: ...
    def clip(self, x: A, low: Any = None, high: Any = None, /) -> A: ...

    # Reductions and shapes, as NumPy's functions of these names. log_softmax of a row of -inf alone gives NaN.
    def argmax(self, x: A, /, axis: int | None = None, *, keepdims: bool = False) -> A: ...
    def argmin(self, x: A, /, axis: int | None = None, *, keepdims: bool = False) -> A: ...
    def cumsum(self, x: A, /, axis: int) -> A: ...
    def softmax(self, x: A, axis: int) -> A: ...
    def log_softmax(self, x: A, axis: int) -> A: ...
    def broadcast_to(self, x: A, /, shape: tuple[int, ...]) -> A: ...
    def concatenate(self, xs: Sequence[A], /, axis: int) -> A: ...
    def stack(self, xs: Sequence[A], /, axis: int) -> A: ...
    def split(self, x: A, borders: Any, /, axis: int) -> Sequence[A]: ...
    def flip(self, x: A, axes: tuple[int, ...], /) -> A: ...
    def take_along_axis(self, x: A, index: Any, /, axis: int) -> A: ...

    def has_nan(self, x: A) -> bool:
        """Whether any element is NaN."""

    def unstack(self, x: A, axis: int) -> Iterable[A]:
        """The slices of ``x`` along ``axis``, without that axis."""

    def scaled(self, x: A, factor: A) -> A:
        """``x * factor`` for a single number ``factor``; may return ``x`` itself where that is 1."""

    def add_at(self, out: A, index: Any, values: A) -> None:
        """``out[index] += values``, every repeated index counted, in order."""

    def put_along_axis(self, out: A, index: Any, values: A, axis: int) -> None:
        """Add ``values`` to ``out`` at ``index`` along ``axis``, every repeated index counted, in order."""

    def matmul(self, a: A, b: A) -> A:
        """``a @ b``, with NumPy's rules for vectors and stacks of matrices."""

    def gemm(
        self,
        a: A,
        b: A,
        bias: A | None = None,
        out: A | None = None,
        transpose_a: bool = False,
        transpose_b: bool = False,
        rows: Any = None,
        column: int = 0,
        accumulate: bool = False,
    ) -> A:
        """A B + bias, where A is ``a`` or its transpose, B is ``b`` or its transpose (not both transposed).

        Args:
            a: [M, K], or [K, M] with ``transpose_a``.
            b: [K, N], or [N, K] with ``transpose_b``.
            bias: [N], added to every row; not with ``transpose_a``.
            out: [M, N], overwritten; a new array if None. With ``transpose_a`` it may have fewer rows than ``a`` has
                columns: it then takes those from ``column`` on.
            rows: [K] integers, with ``transpose_a``: row k of B is ``b[rows[k]]``.
            accumulate: with ``transpose_a``: add to ``out``.
        """

    def all_below(self, index: np.ndarray, count: int) -> bool:
        """Whether all int64 indices [S], which are on the host, are from 0 to ``count`` - 1."""

    def take_rows(self, table: A, rows: Any) -> A:
        """``table[rows]``: table [V, ...], rows [S], result [S, ...]."""

    def scatter_add_rows(self, values: A, rows: Any, count: int, out: A | None = None) -> A:
        """out [count, H], zero but for ``out[rows[s]] += values[s]`` in order; values [S, H], rows [S]."""

    def column_sums(self, x: A) -> A:
        """Sums over the rows of x [S, H]: [H]. Rows are summed in blocks, so rounding errors grow slowly."""

    def dropout(self, x: A, probability: float, seed: int, rows: np.ndarray | None = None) -> A:
        """``x`` times a random mask of 0 and 1 / (1 - p), a function of ``seed`` alone; p in steps of 1 / 65536.

        With ``rows`` [S] int64, x is S rows of H numbers, and row s gets row ``rows[s]`` of the mask of a larger array.
        """

    def cross_entropy(
        self,
        logits: A,
        targets: Any,
        weight: A | None,
        smoothing: float,
        scale: float,
        with_grad: bool,
        in_place: bool = False,
    ) -> tuple[A, A | None]:
        """Softmax cross-entropy: the loss of each row [S], and the gradient [S, V] of their sum, both times ``scale``.

        With p the softmax, w the class weights and s the smoothing, a row of target y has the loss
        ``-(1 - s) w_y log p_y - s / V sum_j w_j log p_j``.

        Args:
            logits: [S, V].
            targets: [S] class numbers; rows with a negative one are ignored.
            weight: [V], weights of the classes; None for ones.
            smoothing: label smoothing in [0, 1] (Szegedy et al. 2016).
            in_place: whether the gradient overwrites the logits.
        """

    def ctc_loss(
        self,
        log_probs: A,
        targets: np.ndarray,
        input_lengths: np.ndarray,
        target_lengths: np.ndarray,
        blank: int,
        scale: np.ndarray,
        zero_infinity: bool,
        with_grad: bool,
    ) -> tuple[A, A | None]:
        """Connectionist temporal classification: the loss of each sequence [N], and its gradient [T, N, C].

        The loss is -log of the summed probability of all alignments of a target with the steps of its input (Graves et
        al. 2006). The gradient ``exp(log_probs) - posterior`` is that of the logits behind a log-softmax, which passes
        it on unchanged. A sequence without an alignment has an infinite loss and the gradient NaN.

        Args:
            log_probs: [T, N, C].
            targets: [N, S] int64 labels, read up to ``target_lengths``; none is the blank.
            input_lengths, target_lengths: [N] int64, 0 to T and 0 to S.
            blank: the class that stands for no label.
            scale: [N] float64, the factor of each sequence's loss and gradient.
            zero_infinity: infinite losses, and their gradients, are zero.
        """

    def attention_forward(
        self, query: A, keys: A, values: A, score: A | None, lengths: np.ndarray, scale: float
    ) -> tuple[A, A]:
        """Attention of T queries over M memory rows of each sequence: context [T, N, D] and weights [T, N, M].

        ``weights[t] = softmax(score . tanh(query[t] + keys))`` (additive, Bahdanau et al. 2015), or without ``score``
        ``softmax(scale query[t] . keys)`` (dot product, Luong et al. 2015); ``context[t] = weights[t] @ values``.

        Args:
            query: [T, N, A].
            keys, values: [M, N, A], [M, N, D].
            score: [A] or None.
            lengths: [N] int64, memory rows of each sequence, 0 to M; those past it get weight 0.
        """

    def attention_backward(
        self,
        query: A,
        keys: A,
        values: A,
        score: A | None,
        lengths: np.ndarray,
        scale: float,
        weights: A,
        dcontext: A | None,
        dweights: A | None,
    ) -> tuple[A, A, A, A | None]:
        """The gradients of query, keys, values and score, from those of the results of :meth:`attention_forward`.

        Args:
            weights: as :meth:`attention_forward` returned them.
            dcontext, dweights: [T, N, D], [T, N, M]; None for zero.
        """

    # Optimisers, in place, on flat parameters p and gradients g of one length; formulas as in PyTorch 2.
    def sgd(
        self,
        p: A,
        g: A,
        velocity: A | None,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        first: bool,
    ) -> None:
        """``v = momentum v + (1 - dampening) (g + weight_decay p)``, ``p -= lr v``; on the ``first`` step v = g.

        Without ``velocity`` v is the gradient; with ``nesterov`` p moves by ``lr (g + momentum v)``.
        """

    def rmsprop(
        self,
        p: A,
        g: A,
        square: A,
        mean: A | None,
        velocity: A | None,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        """``s = alpha s + (1 - alpha) g^2``, ``p -= lr g / (sqrt(s - mean^2) + eps)``.

        ``mean``, the moving average of g, only when centred; ``velocity`` only with momentum.
        """

    def adagrad(self, p: A, g: A, total: A, lr: float, eps: float, weight_decay: float) -> None:
        """``s += g^2``, ``p -= lr g / (sqrt(s) + eps)``."""

    def adam(
        self,
        p: A,
        g: A,
        m: A,
        v: A,
        step: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """``p -= lr m' / (sqrt(v') + eps)`` with bias-corrected moments m' and v'; AdamW if ``decoupled``."""

    def scale(self, x: A, factor: float) -> None:
        """``x *= factor``, in place."""

    def square_sum(self, x: A) -> float:
        """Sum of squares of a flat array."""

    def Recurrence(  # noqa: N802 - a class
        self,
        equations: Equations,
        gates: A,
        table: A | None,
        tokens: Any,
        weights: RecurrentWeights[A],
        states: Sequence[A],
        steps: Steps,
        noise: Noise[A],
    ) -> Recurrence[A]:
        """Run a layer forward over a packed batch; see :class:`minirnn.kernels.contract.Recurrence`.

        Args:
            equations: the cell's, resolved.
            gates: [S, G H], the input part of the pre-activations; used as workspace until the backward pass.
            table, tokens: [V, G H] and [S], if given, the input part instead of ``gates``: ``table[tokens]``.
            states: initial states [N, W], then [N, H] for each further one, in the sorted order of ``steps``.
        """

    def recurrent_step(
        self, equations: Equations, x: A, weights: Mapping[str, A], states: Sequence[A], zoneout: float
    ) -> list[A]:
        """One step of a layer in evaluation: new arrays of its states, [N, W], then [N, H] for each further one.

        Nothing is kept between calls, so the result is always that of the parameters as they are.

        Args:
            equations, x, zoneout: the cell's, resolved for evaluation; [N, I]; the rate of zoneout.
            weights: the layer's parameters by name, as ``nn.cells.new_parameters`` makes them.
            states: [N, W], then [N, H] for each further one; not changed.
        """

    def gemv(self, x: A, weight: A, bias: A | None = None) -> A:
        """``x @ weight.T + bias`` for a few rows x [N, K], which are not worth packing the weight [M, K]."""

    def Sampler(  # noqa: N802 - a class
        self, model: TokenModel[A], states: Sequence[A], weights: Weights = "float32"
    ) -> Sampler[A]:
        """Prepare a model for sampling.

        Args:
            states: [L, N, H] to start from, one for each state of the cell.
            weights: "float32", which leaves the matrices as they are; for float32 models on a CPU "bfloat16", and
                where it multiplies integers of 8 bits (VNNI) "int8", with a factor per row.

        Raises:
            OptionError: this backend, or the type of the model, has no such ``weights``.
        """


Kernels = Backend[Array]
