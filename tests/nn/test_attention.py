"""Attention as one operation: the equations, sequence by sequence, give the same values and every gradient.

The readable version is here, in primitive operations and without a mask: each sequence is cut to its length.
PyTorch, with a mask, is the outside oracle; differences in float64 need neither.
"""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minirnn import nn, random
from minirnn.autograd import ops
from minirnn.autograd.attention import attend
from minirnn.autograd.gradcheck import gradcheck
from minirnn.autograd.tensor import Tensor, tensor
from minirnn.kernels import memory as kernel_memory
from minirnn.kernels import threads
from minirnn.kernels.jit import DISABLED

DTYPES = ("float32", "float64")
KINDS = ("additive", "dot")
THROUGH = ("context", "weights", "both")
Close = Callable[..., None]


class Sizes(NamedTuple):
    """T queries, S memory rows, N sequences, Q query, M memory, A attention; lengths of the sequences."""

    T: int
    S: int
    N: int
    Q: int
    M: int
    A: int
    lengths: tuple[int, ...] | None

    def __str__(self) -> str:
        ragged = "" if self.lengths is None else f"-len{'.'.join(map(str, self.lengths))}"
        return "-".join(f"{name}{value}" for name, value in zip("TSNQMA", self[:6], strict=True)) + ragged


CASES = [
    Sizes(1, 1, 1, 1, 1, 1, None),
    Sizes(1, 5, 3, 3, 4, 6, (5, 1, 3)),
    Sizes(4, 5, 3, 3, 4, 6, None),
    Sizes(3, 5, 4, 2, 7, 3, (0, 5, 2, 0)),
    Sizes(2, 3, 2, 3, 4, 5, (0, 0)),
    Sizes(7, 3, 2, 5, 33, 17, (3, 2)),
    Sizes(0, 3, 2, 3, 4, 5, (3, 1)),
    Sizes(2, 40, 2, 3, 66, 5, (40, 33)),  # more rows than a panel is wide
    Sizes(3, 2, 2, 3, 70, 35, (1, 2)) if DISABLED else Sizes(13, 11, 6, 37, 70, 67, (11, 0, 4, 7, 1, 8)),
]


def gradient(leaf: Tensor) -> np.ndarray:
    assert leaf.grad is not None
    return leaf.grad.numpy()


def make(kind: str, sizes: Sizes, dtype: str) -> nn.Attention:
    return nn.Attention(sizes.Q, sizes.M, kind, sizes.A, dtype)


def draw(sizes: Sizes, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """query [T, N, Q] and memory [S, N, M]."""
    rng = np.random.default_rng(seed)
    shapes = (sizes.T, sizes.N, sizes.Q), (sizes.S, sizes.N, sizes.M)
    query, memory = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return query, memory


def primitive(
    layer: nn.Attention, query: Tensor, memory: Tensor, lengths: tuple[int, ...] | None
) -> tuple[Tensor, Tensor]:
    """The equations for one sequence after the other; query [T, N, Q], memory [S, N, M]."""
    steps, batch, _ = query.shape
    extent, _, size = memory.shape
    contexts, weights = [], []
    for n, length in enumerate(lengths or [extent] * batch):
        queries, rows = layer.query(query[:, n]), memory[:length, n]
        if layer.kind == "dot":
            scores = queries @ rows.transpose(0, 1) / math.sqrt(size)
        else:
            scores = layer.score((queries.unsqueeze(1) + layer.memory(rows)).tanh()).squeeze(2)
        weights.append(ops.cat([scores.softmax(1), np.zeros((steps, extent - length), query.dtype)], 1))
        contexts.append(weights[-1][:, :length] @ rows)
    return ops.stack(contexts, 1), ops.stack(weights, 1)


class Run(NamedTuple):
    """What came out, and the gradients of query, memory and every parameter by name."""

    context: np.ndarray
    weights: np.ndarray
    gradients: dict[str, np.ndarray]


def run(
    layer: nn.Attention, forward: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], query: np.ndarray,
    memory: np.ndarray, through: str = "both",
) -> Run:  # fmt: skip
    """Values, and the gradients of a sum in which every element of the outputs has a weight of its own."""
    layer.zero_grad()
    leaves = Tensor(query, requires_grad=True), Tensor(memory, requires_grad=True)
    outputs = dict(zip(("context", "weights"), forward(*leaves), strict=True))
    rng = np.random.default_rng(1)
    above = {name: rng.standard_normal(y.shape).astype(y.dtype) for name, y in outputs.items()}
    chosen = [name for name in outputs if through in (name, "both")]
    sum(((outputs[name] * above[name]).sum() for name in chosen), start=tensor(0.0, dtype=query.dtype)).backward()
    named = {"query": leaves[0], "memory": leaves[1], **dict(layer.named_parameters())}
    # the readable version never touches what takes part in no sum; the fused one says zero
    gradients = {n: np.zeros(t.shape, t.dtype) if t.grad is None else gradient(t).copy() for n, t in named.items()}
    return Run(outputs["context"].numpy(), outputs["weights"].numpy(), gradients)


def compare(ours: Run, theirs: Run, dtype: str, assert_close: Close) -> None:
    assert_close(ours.context, theirs.context, dtype, "context")
    assert_close(ours.weights, theirs.weights, dtype, "weights")
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, expected in theirs.gradients.items():
        if expected.size:
            assert_close(ours.gradients[name], expected, dtype, f"gradient of {name}")


def identical(a: Run, b: Run) -> None:
    np.testing.assert_array_equal(a.context, b.context)
    np.testing.assert_array_equal(a.weights, b.weights)
    for name in a.gradients:
        np.testing.assert_array_equal(a.gradients[name], b.gradients[name], err_msg=name)


# ------------------------------------------------------------------------------------------- the same, readable


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("through", THROUGH)
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_fused_is_primitive(kind: str, dtype: str, through: str, sizes: Sizes, assert_close: Close) -> None:
    layer, (query, memory) = make(kind, sizes, dtype), draw(sizes, dtype)
    fused = run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory, through)
    readable = run(layer, lambda q, m: primitive(layer, q, m, sizes.lengths), query, memory, through)
    compare(fused, readable, dtype, assert_close)
    assert fused.context.dtype == fused.weights.dtype == np.dtype(dtype)


@given(data=st.data())
def test_fused_is_primitive_for_any_sizes(data: st.DataObject, assert_close: Close) -> None:
    widths = st.sampled_from([1, 2, 5, 16, 31] if DISABLED else [1, 3, 15, 16, 17, 31, 32, 33, 64, 65, 100])
    steps, extent, batch = (data.draw(st.integers(1, most), name) for name, most in (("T", 9), ("S", 9), ("N", 5)))
    sizes = Sizes(
        steps, extent, batch, *(data.draw(widths, name) for name in "QMA"),
        tuple(data.draw(st.lists(st.integers(0, extent), min_size=batch, max_size=batch), "lengths")),
    )  # fmt: skip
    kind, dtype = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(DTYPES))
    layer, (query, memory) = make(kind, sizes, dtype), draw(sizes, dtype, seed=steps)
    fused = run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory)
    compare(fused, run(layer, lambda q, m: primitive(layer, q, m, sizes.lengths), query, memory), dtype, assert_close)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, (5, 1, 3)], ids=str)
def test_values_by_hand(kind: str, lengths: tuple[int, ...] | None, assert_close: Close) -> None:
    """Sequence by sequence, row by row, in NumPy from the equations; one step."""
    sizes = Sizes(1, 5, 3, 3, 4, 6, lengths)
    layer, (query, memory) = make(kind, sizes, "float64"), draw(sizes, "float64", 8)
    state = layer.state_dict()
    context, weights = layer(Tensor(query[0]), Tensor(memory), lengths)
    for n, length in enumerate(lengths or (5, 5, 5)):
        q, rows = query[0, n], memory[:length, n]
        if kind == "dot":
            scores = [state["query.weight"] @ q @ row / 2 for row in rows]
        else:
            part = state["query.weight"] @ q + state["query.bias"]
            scores = [state["score.weight"][0] @ np.tanh(part + state["memory.weight"] @ row) for row in rows]
        expected = np.exp(scores) / np.exp(scores).sum()
        assert_close(weights.numpy()[n, :length], expected, "float64")
        assert_close(context.numpy()[n], sum(w * row for w, row in zip(expected, rows, strict=True)), "float64")


@pytest.mark.parametrize("kind", KINDS)
def test_no_sequence_at_all(kind: str, dtype: np.dtype) -> None:
    sizes = Sizes(2, 3, 0, 3, 4, 5, None)
    layer, (query, memory) = make(kind, sizes, dtype.name), draw(sizes, dtype.name)
    for lengths in (None, []):
        result = run(layer, lambda q, m, lengths=lengths: layer(q, m, lengths), query, memory)
        assert (result.context.shape, result.weights.shape) == ((2, 0, 4), (2, 0, 3))
        for name, array in result.gradients.items():
            assert not array.any(), name


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_a_distribution_over_the_valid_rows(kind: str, dtype: np.dtype) -> None:
    sizes = CASES[-1]
    layer, (query, memory) = make(kind, sizes, dtype.name), draw(sizes, dtype.name)
    context, weights = (y.numpy() for y in layer(Tensor(query), Tensor(memory), sizes.lengths))
    assert sizes.lengths is not None
    for n, length in enumerate(sizes.lengths):
        assert not weights[:, n, length:].any()
        assert (weights[:, n, :length] > 0).all()
        if length:
            np.testing.assert_allclose(weights[:, n].sum(1), 1, rtol=1e-6)
        else:
            assert not context[:, n].any()


# ------------------------------------------------------------------------------------------------- differences


@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("lengths", [(4, 4), (0, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_are_differences(additive: bool, lengths: tuple[int, ...], steps: int) -> None:
    rng = np.random.default_rng(9)
    shapes = ((steps, 2, 3), (4, 2, 3), (4, 2, 2), (3,))
    leaves = [Tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes[: 4 if additive else 3]]

    def fn(query: Tensor, keys: Tensor, values: Tensor, score: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return attend(query, keys, values, score, np.array(lengths), 0.6)

    assert gradcheck(fn, leaves, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, [4, 1]], ids=str)
def test_gradients_of_the_layer_are_differences(kind: str, lengths: list[int] | None) -> None:
    rng = np.random.default_rng(9)
    layer = nn.Attention(2, 3, kind, dtype="float64")
    query = tensor(rng.standard_normal((2, 2)), requires_grad=True, dtype="float64")
    memory = tensor(rng.standard_normal((4, 2, 3)), requires_grad=True, dtype="float64")
    assert gradcheck(lambda q, m, *_: layer(q, m, lengths), [query, memory, *layer.parameters()], atol=1e-7, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- PyTorch


def by_torch(torch: Any, layer: nn.Attention, query: np.ndarray, memory: np.ndarray, lengths: Any) -> Run:
    """The same with PyTorch's operations, weights and a mask; gradients of the same sum as in :func:`run`."""
    leaves = {"query": query, "memory": memory, **layer.state_dict()}
    t = {name: torch.tensor(array, requires_grad=True) for name, array in leaves.items()}
    if layer.kind == "dot":
        projected = t["query"] @ t["query.weight"].T
        scores = torch.einsum("tnm,snm->tns", projected, t["memory"]) / math.sqrt(memory.shape[2])
    else:
        projected = torch.nn.functional.linear(t["query"], t["query.weight"], t["query.bias"])
        inside = torch.tanh(projected[:, None] + (t["memory"] @ t["memory.weight"].T)[None])  # [T, S, N, A]
        scores = (inside @ t["score.weight"][0]).transpose(1, 2)
    mask = torch.arange(len(memory)) < torch.tensor(lengths)[:, None]
    weights = torch.softmax(scores.masked_fill(~mask, -math.inf), 2)
    context = torch.einsum("tns,snm->tnm", weights, t["memory"])
    rng = np.random.default_rng(1)
    outputs = (context, weights)
    above = [torch.tensor(rng.standard_normal(y.shape).astype(query.dtype)) for y in outputs]
    sum((y * g).sum() for y, g in zip(outputs, above, strict=True)).backward()
    gradients = {name: leaf.grad.numpy() for name, leaf in t.items()}
    return Run(context.detach().numpy(), weights.detach().numpy(), gradients)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_pytorch(torch: Any, kind: str, dtype: str, assert_close: Close) -> None:
    sizes = Sizes(3, 4, 3, 5, 18, 7, (4, 1, 3)) if DISABLED else Sizes(9, 12, 5, 21, 50, 34, (12, 1, 7, 12, 3))
    layer, (query, memory) = make(kind, sizes, dtype), draw(sizes, dtype)
    ours = run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory)
    compare(ours, by_torch(torch, layer, query, memory, sizes.lengths), dtype, assert_close)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["query", "memory"])
@pytest.mark.parametrize("what", [np.nan, np.inf, -np.inf, 1e4])
def test_what_is_not_finite_comes_through_as_in_pytorch(
    torch: Any, kind: str, dtype: str, where: str, what: float, assert_close: Close
) -> None:
    sizes = Sizes(3, 4, 2, 5, 18, 7, (4, 4))
    layer, (query, memory) = make(kind, sizes, dtype), draw(sizes, dtype)
    {"query": query, "memory": memory}[where][1, 0, 2] = what
    theirs = by_torch(torch, layer, query, memory, sizes.lengths)
    with np.errstate(all="ignore"):
        ours = run(layer, layer, query, memory)
        assert_close(ours.context, theirs.context, dtype, "context")
        assert_close(ours.weights, theirs.weights, dtype, "weights")
    assert np.isfinite(ours.context[:, 1]).all(), "the other sequence saw it"
    if np.isnan(what):
        for name, expected in theirs.gradients.items():
            np.testing.assert_array_equal(np.isnan(ours.gradients[name]), np.isnan(expected), err_msg=name)


# ------------------------------------------------------------------------------------ padding, layout, threads


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding", [0.0, 1e30, np.nan, np.inf])
def test_rows_past_the_length_are_not_read(kind: str, dtype: str, padding: float) -> None:
    sizes = CASES[3]
    layer, (query, memory) = make(kind, sizes, dtype), draw(sizes, dtype)
    plain = run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory)
    assert sizes.lengths is not None
    for n, length in enumerate(sizes.lengths):
        assert not plain.gradients["memory"][length:, n].any()
        memory[length:, n] = padding
    padded = run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory)
    identical(padded, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_is_each_sequence_alone(kind: str, assert_close: Close) -> None:
    sizes = Sizes(4, 5, 3, 3, 4, 6, (2, 5, 3))
    layer, (query, memory) = make(kind, sizes, "float64"), draw(sizes, "float64", 10)
    above = np.random.default_rng(11).standard_normal((4, 3, 4))

    def one(n: slice, rows: int, lengths: Any) -> list[np.ndarray]:
        q, m = Tensor(query[:, n], requires_grad=True), Tensor(memory[:rows, n], requires_grad=True)
        (layer(q, m, lengths)[0] * above[:, n]).sum().backward()
        return [gradient(q), gradient(m)]

    batch = one(slice(None), 5, sizes.lengths)
    together = {name: gradient(p).copy() for name, p in layer.named_parameters()}
    layer.zero_grad()
    assert sizes.lengths is not None
    for n, length in enumerate(sizes.lengths):
        d_query, d_memory = one(slice(n, n + 1), length, None)
        assert_close(batch[0][:, n], d_query[:, 0], "float64")
        assert_close(batch[1][:length, n], d_memory[:, 0], "float64")
        assert not batch[1][length:, n].any()
    for name, parameter in layer.named_parameters():
        assert_close(together[name], gradient(parameter), "float64", name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed"])
def test_arrays_that_are_not_contiguous(kind: str, layout: str) -> None:
    """Neither the inputs nor the gradients of the outputs."""

    def laid(x: np.ndarray) -> np.ndarray:
        if layout == "transposed":
            return x.T.copy().T
        if layout == "strided":
            wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan)
            wide[..., ::2] = x
            return wide[..., ::2]
        return np.flip(np.flip(x).copy())

    rng = np.random.default_rng(2)
    shapes = ((3, 4, 7), (5, 4, 7), (5, 4, 6), (7,))
    plain = [rng.standard_normal(shape) for shape in shapes[: 4 if kind == "additive" else 3]]
    above = [rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 4, 5))]

    def everything(arrays: list[np.ndarray], above: list[np.ndarray]) -> list[np.ndarray]:
        found = []
        for k in range(2):
            leaves = [Tensor(x, requires_grad=True) for x in arrays]
            score = leaves[3] if kind == "additive" else None
            outputs = attend(*leaves[:3], score, np.array([5, 0, 2, 4]), 0.6)
            outputs[k].backward(above[k])
            found += [outputs[k].numpy(), *(gradient(x) for x in leaves)]
        return found

    arrays, seeds = [laid(x) for x in plain], [laid(x) for x in above]
    assert not any(x.flags.c_contiguous for x in arrays[:3] + seeds)
    for ours, expected in zip(everything(arrays, seeds), everything(plain, above), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.needs_jit
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ragged", [False, True])
def test_threads_change_no_number(
    kind: str, dtype: str, ragged: bool, set_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # share out even the smallest job
    sizes = CASES[-1]._replace(lengths=CASES[-1].lengths if ragged else None)
    layer, (query, memory) = make(kind, sizes, dtype), draw(sizes, dtype)
    runs = []
    for count in (1, 2, 3):
        set_threads(count)
        runs.append(run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory))
    identical(runs[1], runs[0])
    identical(runs[2], runs[0])


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_written_before_it_is_read(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = CASES[3]
    layer, (query, memory) = make(kind, sizes, "float64"), draw(sizes, "float64")
    for through in THROUGH:
        expected = run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory, through)
        with monkeypatch.context() as patch:
            patch.setattr(kernel_memory, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
            identical(run(layer, lambda q, m: layer(q, m, sizes.lengths), query, memory, through), expected)


@pytest.mark.needs_jit
@pytest.mark.parametrize("kind", KINDS)
def test_no_array_over_queries_rows_and_width_is_made(kind: str, set_threads: Any) -> None:
    set_threads(1)
    sizes = Sizes(40, 40, 8, 64, 64, 64, None)
    layer, (query, memory) = make(kind, sizes, "float32"), draw(sizes, "float32")
    run(layer, layer, query, memory)  # compiles
    kernel_memory.release()
    tracemalloc.start()
    try:
        run(layer, layer, query, memory)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < query.itemsize * 40 * 40 * 8 * 64 / 2, f"{peak} bytes"


# ------------------------------------------------------------------------------------------------ step by step


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, (0, 5, 2)], ids=str)
def test_step_by_step_with_the_same_keys_is_all_at_once(
    kind: str, lengths: tuple[int, ...] | None, assert_close: Close
) -> None:
    sizes = Sizes(4, 5, 3, 2, 7, 6, lengths)
    layer, (query, memory) = make(kind, sizes, "float64"), draw(sizes, "float64")

    def stepwise(q: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        keys = layer.keys(m, lengths)
        steps = [layer(q[t], m, lengths, keys) for t in range(sizes.T)]
        return ops.stack([c for c, _ in steps]), ops.stack([w for _, w in steps])

    whole = run(layer, lambda q, m: layer(q, m, lengths), query, memory)
    compare(run(layer, stepwise, query, memory), whole, "float64", assert_close)


def test_keys_are_the_projected_memory_or_the_memory(assert_close: Close) -> None:
    sizes = Sizes(1, 5, 3, 2, 7, 6, (5, 0, 2))
    _, memory = draw(sizes, "float64")
    dot, additive = (make(kind, sizes, "float64") for kind in ("dot", "additive"))
    leaf = Tensor(memory)
    assert dot.keys(leaf, sizes.lengths) is leaf
    expected = memory @ additive.state_dict()["memory.weight"].T
    assert_close(additive.keys(leaf).numpy(), expected, "float64")
    ragged = additive.keys(leaf, sizes.lengths).numpy()
    for n, length in enumerate(sizes.lengths or ()):
        assert_close(ragged[:length, n], expected[:length, n], "float64")
        assert not ragged[length:, n].any()


def test_given_keys_are_what_is_compared() -> None:
    """All keys the same: every valid row weighs the same, whatever the memory."""
    sizes = Sizes(2, 4, 2, 3, 5, 6, (4, 2))
    query, memory = draw(sizes, "float64")
    for kind in KINDS:
        layer = make(kind, sizes, "float64")
        keys = Tensor(np.ones((4, 2, 6 if kind == "additive" else 5)))
        context, weights = layer(Tensor(query), Tensor(memory), sizes.lengths, keys)
        np.testing.assert_allclose(weights.numpy(), [[[0.25] * 4, [0.5, 0.5, 0, 0]]] * 2, rtol=1e-12)
        np.testing.assert_allclose(context.numpy()[0, 1], memory[:2, 1].mean(0), rtol=1e-12)


def test_parameters_keep_their_names_and_shapes() -> None:
    shapes = {name: p.shape for name, p in nn.Attention(3, 4, attention_size=6).named_parameters()}
    assert shapes == {
        "query.weight": (6, 3), "query.bias": (6,), "memory.weight": (6, 4), "score.weight": (1, 6),
    }  # fmt: skip
    assert nn.Attention(3, 4).state_dict()["score.weight"].shape == (1, 3)
    assert {n: p.shape for n, p in nn.Attention(3, 4, "dot").named_parameters()} == {"query.weight": (4, 3)}
    random.manual_seed(5)
    first = nn.Attention(3, 4).state_dict()
    random.manual_seed(5)
    again = nn.Attention(3, 4).state_dict()
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
