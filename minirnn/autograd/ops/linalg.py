"""Matrix products, and sums of products by subscripts."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from minirnn import kernels
from minirnn.autograd.ops.elementwise import multiply
from minirnn.autograd.ops.operands import TensorLike, as_rows, as_tensor, promote, unbroadcast
from minirnn.autograd.ops.reductions import sum
from minirnn.autograd.ops.shapes import index, permute, reshape, squeeze
from minirnn.autograd.tape import record, same_device
from minirnn.errors import DTypeError, OptionError, ShapeError
from minirnn.kernels.contract import Array

if TYPE_CHECKING:
    from minirnn.autograd.tensor import Tensor

__all__ = ["einsum", "matmul"]


def matmul(input: TensorLike, other: TensorLike) -> Tensor:
    """Matrix product with NumPy's rules: vectors, matrices, and stacks of matrices that broadcast.

    [..., M, K] or [K] times [..., K, N] or [K] is [..., M, N], without M or N where a factor is a vector.
    """
    x, y = promote((input, other))
    fits = x.ndim > 0 and y.ndim > 0 and x.shape[-1] == y.shape[-2 if y.ndim > 1 else 0]
    if fits:
        try:
            np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        except ValueError:
            fits = False
    if not fits:
        raise ShapeError(
            f"matmul: cannot multiply {list(x.shape)} by {list(y.shape)}; the last dimension of the first must equal "
            "the last but one of the second, and leading ones must broadcast"
        )
    K = kernels.on(x.device)

    def gradients(g: Array) -> tuple[Array | None, Array | None]:
        left = x.data if x.ndim > 1 else x.data[None, :]
        right = y.data if y.ndim > 1 else y.data[:, None]
        if x.ndim == y.ndim == 1:
            g = g.reshape(1, 1)
        elif x.ndim == 1:
            g = g[..., None, :]
        elif y.ndim == 1:
            g = g[..., None]
        dx = dy = None
        if x.requires_grad:
            dx = unbroadcast(K.matmul(g, right.swapaxes(-1, -2)), left).reshape(x.shape)
        if y.requires_grad and right.ndim == 2 and left.ndim > 2:  # one product over all leading dimensions
            dy = K.matmul(as_rows(K, left).T, as_rows(K, g)).reshape(y.shape)
        elif y.requires_grad:
            dy = unbroadcast(K.matmul(left.swapaxes(-1, -2), g), right).reshape(y.shape)
        return dx, dy

    return record("matmul", (x, y), K.matmul(x.data, y.data), gradients)


def linear_operands(
    name: str, input: TensorLike, weight: TensorLike, bias: TensorLike | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The input [..., I], the weight [O, I] and the bias [O] or None of the operation ``name``, checked."""
    weight = as_tensor(weight)
    x, bias = as_tensor(input, weight), None if bias is None else as_tensor(bias, weight)
    if weight.ndim != 2:
        raise ShapeError(f"{name}: expected a weight [O, I], got {list(weight.shape)}")
    if x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"{name}: expected input [..., {weight.shape[1]}], got {list(x.shape)}")
    if x.dtype != weight.dtype:
        raise DTypeError(f"{name}: the input is {x.dtype}, the weight {weight.dtype}; convert one with .to(...)")
    same_device(name, x, weight, bias)
    return x, weight, bias


def linear(input: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """y = x W^T + b over the last dimension: x [..., I], W [O, I] and b [O] or None to y [..., O]."""
    x, weight, bias = linear_operands("linear", input, weight, bias)
    K = kernels.on(x.device)
    rows, w, b = as_rows(K, x.data), weight.data, None if bias is None else bias.data
    y = K.gemm(rows, w, b, transpose_b=True)

    def gradients(g: Array) -> tuple[Array | None, Array | None, Array | None]:
        g = as_rows(K, g)
        dx = K.gemm(g, w).reshape(x.shape) if x.requires_grad else None
        out = None if x is weight else weight.grad_out()
        dw = K.gemm(g, rows, out=out, transpose_a=True) if weight.requires_grad else None
        return dx, dw, K.column_sums(g) if bias is not None and bias.requires_grad else None

    return record("linear", (x, weight, bias), y.reshape(*x.shape[:-1], w.shape[0]), gradients)


_TERM = r"[A-Za-z]*(?:\.\.\.)?[A-Za-z]*"


def einsum(equation: str, *operands: TensorLike) -> Tensor:
    """Sum of products over the subscripts that the result lacks, of one or two operands.

    ``einsum("bij,bjk->bik", a, b)`` is a @ b, ``einsum("ii", a)`` the trace. Subscripts are letters, one for each
    dimension; ``...`` stands for any others, which broadcast. Without ``->`` the result has these and the letters that
    occur once, in alphabetical order. A subscript twice in one operand takes the diagonal; extents of 1 broadcast.

    Raises:
        OptionError, ShapeError: the equation cannot be read; it does not fit the operands.

    >>> import minirnn as mr
    >>> mr.einsum("i,j->ij", [1.0, 2.0], [3.0, 4.0])
    tensor([[3., 4.],
            [6., 8.]])
    """
    xs = promote(operands)
    terms, result = _subscripts(equation, xs)
    (x, a), *others = [_diagonals(x, labels) for x, labels in zip(xs, terms, strict=True)]
    if not others:
        x, a = _summed(x, a, result)
        return permute(x, [a.index(label) for label in result])
    y, b = others[0]
    for label in [label for label in a if label in b]:
        m, n = x.shape[a.index(label)], y.shape[b.index(label)]
        if m != n and 1 not in (m, n):
            name = label if label.isalpha() else "..."
            raise ShapeError(f"einsum: {name!r} has extents of {m} and {n} in {equation!r}")
        if m == 1 != n:
            x, a = squeeze(x, a.index(label)), [one for one in a if one != label]
        elif n == 1 != m:
            y, b = squeeze(y, b.index(label)), [one for one in b if one != label]
    x, a = _summed(x, a, [*b, *result])
    y, b = _summed(y, b, [*a, *result])
    extents = dict(zip(a, x.shape, strict=True)) | dict(zip(b, y.shape, strict=True))
    shared = [label for label in a if label in b]
    batch, inner = ([label for label in shared if (label in result) == kept] for kept in (True, False))
    left, right = [label for label in a if label not in b], [label for label in b if label not in a]
    lead = [math.prod(extents[label] for label in batch)] if batch else []
    L, C, R = (math.prod(extents[label] for label in labels) for labels in (left, inner, right))
    x = reshape(permute(x, [a.index(label) for label in batch + left + inner]), [*lead, L, C])
    y = reshape(permute(y, [b.index(label) for label in batch + inner + right]), [*lead, C, R])
    z, order = matmul(x, y) if inner else multiply(x, y), batch + left + right
    return permute(reshape(z, [extents[label] for label in order]), [order.index(label) for label in result])


def _subscripts(equation: str, xs: Sequence[Tensor]) -> tuple[list[list[str]], list[str]]:
    """The labels of every dimension of the operands, and of the result; those of ``...`` are numbers from the last."""
    text = str(equation).replace(" ", "")
    if not re.fullmatch(rf"{_TERM}(?:,{_TERM})?(?:->{_TERM})?", text):
        raise OptionError(f"einsum: expected subscripts of one or two operands, as 'ij,jk->ik', got {equation!r}")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(xs):
        raise OptionError(f"einsum: {equation!r} has subscripts of {len(terms)} operands, got {len(xs)}")
    others = [x.ndim - len(term.replace("...", "")) for x, term in zip(xs, terms, strict=True)]
    for x, term, count in zip(xs, terms, others, strict=True):
        if count < 0 or (count and "..." not in term):
            raise ShapeError(f"einsum: {term!r} does not fit a tensor of shape {list(x.shape)}")

    def labels(term: str, count: int) -> list[str]:
        before, dots, after = term.partition("...")
        return [*before, *(str(d) for d in reversed(range(count)) if dots), *after]

    if not arrow:
        right = "..." + "".join(sorted(label for label in left if label.isalpha() and left.count(label) == 1))
    named, result = [labels(*pair) for pair in zip(terms, others, strict=True)], labels(right, max(others))
    if len(set(result)) != len(result) or not set(result).issubset(label for term in named for label in term):
        raise OptionError(f"einsum: the result must have subscripts of the operands, each once, got {equation!r}")
    return named, result


def _diagonals(x: Tensor, labels: list[str]) -> tuple[Tensor, list[str]]:
    """The diagonal of dimensions with the same label, which comes first."""
    while repeated := [label for label in labels if labels.count(label) > 1]:
        i, j = [d for d, label in enumerate(labels) if label == repeated[0]][:2]
        if x.shape[i] != x.shape[j]:
            raise ShapeError(f"einsum: {repeated[0]!r} has extents of {x.shape[i]} and {x.shape[j]} in one operand")
        others, at = [d for d in range(x.ndim) if d not in (i, j)], np.arange(x.shape[i])
        x, labels = index(permute(x, i, j, *others), (at, at)), [repeated[0], *(labels[d] for d in others)]
    return x, labels


def _summed(x: Tensor, labels: list[str], kept: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The sum over dimensions whose labels are not needed any more."""
    dims = [d for d, label in enumerate(labels) if label not in kept]
    return (sum(x, dims), [label for label in labels if label in kept]) if dims else (x, labels)
