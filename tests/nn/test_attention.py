"""Attention as one fused operation equals its equations, sequence by sequence, in values and in every gradient.

The readable version is here, in primitive operations and without a mask: each sequence is cut to its length.
PyTorch, with a mask, is the outside oracle; finite differences in float64 need neither.
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

KINDS = ("additive", "dot")
DTYPES = ("float32", "float64")
OUTPUTS = ("context", "weights", "both")
Close = Callable[..., None]

kinds = pytest.mark.parametrize("kind", KINDS)


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


RAGGED = Sizes(3, 5, 4, 2, 7, 3, (0, 5, 2, 0))
LARGE = Sizes(3, 2, 2, 3, 70, 35, (1, 2)) if DISABLED else Sizes(13, 11, 6, 37, 70, 67, (11, 0, 4, 7, 1, 8))
CASES = [
    Sizes(1, 1, 1, 1, 1, 1, None),
    Sizes(1, 5, 3, 3, 4, 6, (5, 1, 3)),
    Sizes(4, 5, 3, 3, 4, 6, None),
    RAGGED,
    Sizes(2, 3, 2, 3, 4, 5, (0, 0)),
    Sizes(7, 3, 2, 5, 33, 17, (3, 2)),
    Sizes(0, 3, 2, 3, 4, 5, (3, 1)),
    Sizes(2, 40, 2, 3, 66, 5, (40, 33)),  # more rows than a panel is wide
    LARGE,
]


def draw(kind: str, sizes: Sizes, dtype: Any, seed: int = 0) -> tuple[nn.Attention, np.ndarray, np.ndarray]:
    """A layer, query [T, N, Q] and memory [S, N, M]."""
    rng = np.random.default_rng(seed)
    layer = nn.Attention(sizes.Q, sizes.M, kind, sizes.A, dtype)
    shapes = (sizes.T, sizes.N, sizes.Q), (sizes.S, sizes.N, sizes.M)
    return layer, *(rng.standard_normal(shape).astype(dtype) for shape in shapes)


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
    """The outputs, and the gradients of query, memory and every parameter by name."""

    context: np.ndarray
    weights: np.ndarray
    gradients: dict[str, np.ndarray]


def run(
    layer: nn.Attention,
    query: np.ndarray,
    memory: np.ndarray,
    lengths: Any = None,
    through: str = "both",
    forward: Callable[..., tuple[Tensor, Tensor]] | None = None,
) -> Run:
    """Run ``forward(query, memory, lengths)``, by default the layer; backpropagate a weighted sum of its outputs."""
    layer.zero_grad()
    leaves = Tensor(query, requires_grad=True), Tensor(memory, requires_grad=True)
    outputs = dict(zip(("context", "weights"), (forward or layer)(*leaves, lengths), strict=True))
    rng = np.random.default_rng(1)
    above = {name: rng.standard_normal(y.shape).astype(y.dtype) for name, y in outputs.items()}
    chosen = [name for name in outputs if through in (name, "both")]
    sum(((outputs[name] * above[name]).sum() for name in chosen), start=tensor(0.0, dtype=query.dtype)).backward()
    named = {"query": leaves[0], "memory": leaves[1], **dict(layer.named_parameters())}
    # the readable version gives no gradient to what it does not use; the fused one gives zeros
    gradients = {n: np.zeros(t.shape) if t.grad is None else t.grad.numpy().copy() for n, t in named.items()}
    return Run(outputs["context"].numpy(), outputs["weights"].numpy(), gradients)


def run_primitive(layer: nn.Attention, *arguments: Any) -> Run:
    return run(layer, *arguments, forward=lambda q, m, lengths: primitive(layer, q, m, lengths))


def compare(ours: Run, theirs: Run, dtype: str, assert_close: Close) -> None:
    assert_close(ours.context, theirs.context, dtype, "context")
    assert_close(ours.weights, theirs.weights, dtype, "weights")
    assert ours.gradients.keys() == theirs.gradients.keys()
    for name, expected in theirs.gradients.items():
        if expected.size:
            assert_close(ours.gradients[name], expected, dtype, f"gradient of {name}")


def assert_identical(a: Run, b: Run) -> None:
    np.testing.assert_array_equal(a.context, b.context)
    np.testing.assert_array_equal(a.weights, b.weights)
    for name in a.gradients:
        np.testing.assert_array_equal(a.gradients[name], b.gradients[name], err_msg=name)


# ------------------------------------------------------------------------------------------- fused and readable


@kinds
@pytest.mark.parametrize("through", OUTPUTS)
@pytest.mark.parametrize("sizes", CASES, ids=str)
def test_fused_equals_primitive(kind: str, dtype: np.dtype, through: str, sizes: Sizes, assert_close: Close) -> None:
    arguments = *draw(kind, sizes, dtype), sizes.lengths, through
    fused = run(*arguments)
    compare(fused, run_primitive(*arguments), dtype.name, assert_close)
    assert fused.context.dtype == fused.weights.dtype == dtype


@given(data=st.data())
def test_fused_equals_primitive_for_any_sizes(data: st.DataObject, assert_close: Close) -> None:
    widths = st.sampled_from([1, 2, 5, 16, 31] if DISABLED else [1, 3, 15, 16, 17, 31, 32, 33, 64, 65, 100])
    steps, extent, batch = (data.draw(st.integers(1, most), name) for name, most in (("T", 9), ("S", 9), ("N", 5)))
    lengths = data.draw(st.lists(st.integers(0, extent), min_size=batch, max_size=batch), "lengths")
    sizes = Sizes(steps, extent, batch, *(data.draw(widths, name) for name in "QMA"), tuple(lengths))
    kind, dtype = data.draw(st.sampled_from(KINDS)), data.draw(st.sampled_from(DTYPES))
    arguments = *draw(kind, sizes, dtype, seed=steps), sizes.lengths
    compare(run(*arguments), run_primitive(*arguments), dtype, assert_close)


@kinds
@pytest.mark.parametrize("lengths", [None, (5, 1, 3)], ids=str)
def test_values_equal_the_equations_in_numpy(kind: str, lengths: tuple[int, ...] | None, assert_close: Close) -> None:
    """Sequence by sequence, row by row; one step."""
    layer, query, memory = draw(kind, Sizes(1, 5, 3, 3, 4, 6, lengths), "float64", 8)
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


@kinds
@pytest.mark.parametrize("lengths", [None, []])
def test_empty_batch_gives_empty_results(kind: str, dtype: np.dtype, lengths: list[int] | None) -> None:
    result = run(*draw(kind, Sizes(2, 3, 0, 3, 4, 5, None), dtype), lengths)
    assert (result.context.shape, result.weights.shape) == ((2, 0, 4), (2, 0, 3))
    for name, array in result.gradients.items():
        assert not array.any(), name


@kinds
def test_weights_are_a_distribution_over_the_valid_rows(kind: str, dtype: np.dtype) -> None:
    layer, query, memory = draw(kind, LARGE, dtype)
    context, weights = (y.numpy() for y in layer(Tensor(query), Tensor(memory), LARGE.lengths))
    for n, length in enumerate(LARGE.lengths):
        assert not weights[:, n, length:].any()
        assert (weights[:, n, :length] > 0).all()
        if length:
            np.testing.assert_allclose(weights[:, n].sum(1), 1, rtol=1e-6)
        else:
            assert not context[:, n].any()


# ------------------------------------------------------------------------------------------- finite differences


@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize("lengths", [(4, 4), (0, 3), (1, 4)], ids=str)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_match_finite_differences(additive: bool, lengths: tuple[int, ...], steps: int) -> None:
    rng = np.random.default_rng(9)
    shapes = ((steps, 2, 3), (4, 2, 3), (4, 2, 2), (3,))
    leaves = [Tensor(rng.standard_normal(shape), requires_grad=True) for shape in shapes[: 4 if additive else 3]]

    def fn(query: Tensor, keys: Tensor, values: Tensor, score: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return attend(query, keys, values, score, np.array(lengths), 0.6)

    assert gradcheck(fn, leaves, atol=1e-8, rtol=1e-6)


@kinds
@pytest.mark.parametrize("lengths", [None, [4, 1]], ids=str)
def test_gradients_of_the_layer_match_finite_differences(kind: str, lengths: list[int] | None) -> None:
    rng = np.random.default_rng(9)
    layer = nn.Attention(2, 3, kind, dtype="float64")
    query = tensor(rng.standard_normal((2, 2)), requires_grad=True, dtype="float64")
    memory = tensor(rng.standard_normal((4, 2, 3)), requires_grad=True, dtype="float64")
    assert gradcheck(lambda q, m, *_: layer(q, m, lengths), [query, memory, *layer.parameters()], atol=1e-7, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------- PyTorch


def run_torch(torch: Any, layer: nn.Attention, query: np.ndarray, memory: np.ndarray, lengths: Any) -> Run:
    """The same with PyTorch's operations, the layer's weights and a mask; gradients of the same sum as in `run`."""
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


@kinds
def test_attention_equals_pytorch(torch: Any, kind: str, dtype: np.dtype, assert_close: Close) -> None:
    sizes = Sizes(3, 4, 3, 5, 18, 7, (4, 1, 3)) if DISABLED else Sizes(9, 12, 5, 21, 50, 34, (12, 1, 7, 12, 3))
    arguments = *draw(kind, sizes, dtype), sizes.lengths
    compare(run(*arguments), run_torch(torch, *arguments), dtype.name, assert_close)


@kinds
@pytest.mark.parametrize("where", ["query", "memory"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e4])
def test_extreme_and_nonfinite_inputs_give_what_pytorch_gives(
    torch: Any, kind: str, dtype: np.dtype, where: str, value: float, assert_close: Close
) -> None:
    layer, query, memory = draw(kind, Sizes(3, 4, 2, 5, 18, 7, (4, 4)), dtype)
    {"query": query, "memory": memory}[where][1, 0, 2] = value
    theirs = run_torch(torch, layer, query, memory, (4, 4))
    with np.errstate(all="ignore"):
        ours = run(layer, query, memory)
        assert_close(ours.context, theirs.context, dtype.name, "context")
        assert_close(ours.weights, theirs.weights, dtype.name, "weights")
    assert np.isfinite(ours.context[:, 1]).all(), "the other sequence has changed"
    if np.isnan(value):
        for name, expected in theirs.gradients.items():
            np.testing.assert_array_equal(np.isnan(ours.gradients[name]), np.isnan(expected), err_msg=name)


# ------------------------------------------------------------------------------------ padding, layout, threads


@kinds
@pytest.mark.parametrize("padding", [0.0, 1e30, np.nan, np.inf])
def test_rows_past_the_length_are_not_read(kind: str, dtype: np.dtype, padding: float) -> None:
    layer, query, memory = draw(kind, RAGGED, dtype)
    plain = run(layer, query, memory, RAGGED.lengths)
    for n, length in enumerate(RAGGED.lengths):
        assert not plain.gradients["memory"][length:, n].any()
        memory[length:, n] = padding
    assert_identical(run(layer, query, memory, RAGGED.lengths), plain)


@kinds
def test_padded_batch_equals_each_sequence_alone(kind: str, assert_close: Close) -> None:
    lengths = (2, 5, 3)
    layer, query, memory = draw(kind, Sizes(4, 5, 3, 3, 4, 6, lengths), "float64", 10)
    above = np.random.default_rng(11).standard_normal((4, 3, 4))

    def input_gradients(n: slice, rows: int, lengths: Any) -> list[np.ndarray]:
        q, m = Tensor(query[:, n], requires_grad=True), Tensor(memory[:rows, n], requires_grad=True)
        (layer(q, m, lengths)[0] * above[:, n]).sum().backward()
        return [q.grad.numpy(), m.grad.numpy()]

    batch = input_gradients(slice(None), 5, lengths)
    together = {name: p.grad.numpy().copy() for name, p in layer.named_parameters()}
    layer.zero_grad()
    for n, length in enumerate(lengths):
        d_query, d_memory = input_gradients(slice(n, n + 1), length, None)
        assert_close(batch[0][:, n], d_query[:, 0], "float64")
        assert_close(batch[1][:length, n], d_memory[:, 0], "float64")
        assert not batch[1][length:, n].any()
    for name, parameter in layer.named_parameters():
        assert_close(together[name], parameter.grad.numpy(), "float64", name)


def noncontiguous(x: np.ndarray, layout: str) -> np.ndarray:
    if layout == "transposed":
        return x.T.copy().T
    if layout == "strided":
        wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan)
        wide[..., ::2] = x
        return wide[..., ::2]
    return np.flip(np.flip(x).copy())


@kinds
@pytest.mark.parametrize("layout", ["transposed", "strided", "reversed"])
def test_inputs_and_gradients_need_not_be_contiguous(kind: str, layout: str) -> None:
    rng = np.random.default_rng(2)
    shapes = ((3, 4, 7), (5, 4, 7), (5, 4, 6), (7,))
    arrays = [rng.standard_normal(shape) for shape in shapes[: 4 if kind == "additive" else 3]]
    above = [rng.standard_normal((3, 4, 6)), rng.standard_normal((3, 4, 5))]

    def values_and_gradients(arrays: list[np.ndarray], above: list[np.ndarray]) -> list[np.ndarray]:
        found = []
        for k in range(2):
            leaves = [Tensor(x, requires_grad=True) for x in arrays]
            score = leaves[3] if kind == "additive" else None
            outputs = attend(*leaves[:3], score, np.array([5, 0, 2, 4]), 0.6)
            outputs[k].backward(above[k])
            found += [outputs[k].numpy(), *(x.grad.numpy() for x in leaves)]
        return found

    strided, seeds = [noncontiguous(x, layout) for x in arrays], [noncontiguous(x, layout) for x in above]
    assert not any(x.flags.c_contiguous for x in strided[:3] + seeds)
    ours = values_and_gradients(strided, seeds)
    for one, expected in zip(ours, values_and_gradients(arrays, above), strict=True):
        np.testing.assert_array_equal(one, expected)


@pytest.mark.needs_jit
@kinds
@pytest.mark.parametrize("lengths", [None, LARGE.lengths])
def test_number_of_threads_changes_nothing(
    kind: str, dtype: np.dtype, lengths: Any, set_threads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "MIN_WORK", 1)  # use all threads even for the smallest work
    arguments = *draw(kind, LARGE, dtype), lengths
    runs = []
    for count in (1, 2, 3):
        set_threads(count)
        runs.append(run(*arguments))
    assert_identical(runs[1], runs[0])
    assert_identical(runs[2], runs[0])


@kinds
@pytest.mark.parametrize("through", OUTPUTS)
def test_memory_is_written_before_it_is_read(kind: str, through: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = *draw(kind, RAGGED, "float64"), RAGGED.lengths, through
    expected = run(*arguments)
    monkeypatch.setattr(kernel_memory, "empty", lambda shape, dtype: np.full(shape, np.nan, dtype))
    assert_identical(run(*arguments), expected)


@pytest.mark.needs_jit
@kinds
def test_no_array_over_queries_rows_and_width_is_allocated(kind: str, set_threads: Any) -> None:
    set_threads(1)
    arguments = draw(kind, Sizes(40, 40, 8, 64, 64, 64, None), "float32")
    run(*arguments)  # compiles
    kernel_memory.release()
    tracemalloc.start()
    try:
        run(*arguments)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * 40 * 40 * 8 * 64 / 2, f"{peak} bytes"


# ------------------------------------------------------------------------------------------------ step by step


@kinds
@pytest.mark.parametrize("lengths", [None, (0, 5, 2)], ids=str)
def test_single_steps_with_the_same_keys_equal_the_whole_sequence(
    kind: str, lengths: tuple[int, ...] | None, assert_close: Close
) -> None:
    layer, query, memory = draw(kind, Sizes(4, 5, 3, 2, 7, 6, lengths), "float64")

    def stepwise(q: Tensor, m: Tensor, lengths: Any) -> tuple[Tensor, Tensor]:
        keys = layer.keys(m, lengths)
        steps = [layer(q[t], m, lengths, keys) for t in range(4)]
        return ops.stack([c for c, _ in steps]), ops.stack([w for _, w in steps])

    whole = run(layer, query, memory, lengths)
    compare(run(layer, query, memory, lengths, forward=stepwise), whole, "float64", assert_close)


def test_keys_are_the_projected_memory_or_the_memory(assert_close: Close) -> None:
    sizes = Sizes(1, 5, 3, 2, 7, 6, (5, 0, 2))
    dot, _, memory = draw("dot", sizes, "float64")
    additive = draw("additive", sizes, "float64")[0]
    leaf = Tensor(memory)
    assert dot.keys(leaf, sizes.lengths) is leaf
    expected = memory @ additive.state_dict()["memory.weight"].T
    assert_close(additive.keys(leaf).numpy(), expected, "float64")
    ragged = additive.keys(leaf, sizes.lengths).numpy()
    for n, length in enumerate(sizes.lengths):
        assert_close(ragged[:length, n], expected[:length, n], "float64")
        assert not ragged[length:, n].any()


@kinds
def test_given_keys_are_compared_instead_of_the_memory(kind: str) -> None:
    """Where all keys are the same, every valid row has the same weight, whatever the memory."""
    layer, query, memory = draw(kind, Sizes(2, 4, 2, 3, 5, 6, (4, 2)), "float64")
    keys = Tensor(np.ones((4, 2, 6 if kind == "additive" else 5)))
    context, weights = layer(Tensor(query), Tensor(memory), (4, 2), keys)
    np.testing.assert_allclose(weights.numpy(), [[[0.25] * 4, [0.5, 0.5, 0, 0]]] * 2, rtol=1e-12)
    np.testing.assert_allclose(context.numpy()[0, 1], memory[:2, 1].mean(0), rtol=1e-12)


def test_parameters_keep_their_names_and_shapes_and_follow_the_seed() -> None:
    shapes = {name: p.shape for name, p in nn.Attention(3, 4, attention_size=6).named_parameters()}
    expected = {"query.weight": (6, 3), "query.bias": (6,), "memory.weight": (6, 4), "score.weight": (1, 6)}
    assert shapes == expected
    assert nn.Attention(3, 4).state_dict()["score.weight"].shape == (1, 3)
    assert {n: p.shape for n, p in nn.Attention(3, 4, "dot").named_parameters()} == {"query.weight": (4, 3)}
    states = []
    for _ in range(2):
        random.manual_seed(5)
        states.append(nn.Attention(3, 4).state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])
