"""The fused RNN, LSTM and GRU equal PyTorch's: outputs, final states and every gradient.

A seeded generator draws configurations; PyTorch runs each with the same weights, copied by state dict. Sequences of
length 0, which PyTorch cannot pack, are left out there; here their outputs are zero, their state is unchanged, and
gradients pass through it unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from minirnn import nn, random
from minirnn.autograd.tensor import tensor
from minirnn.nn.state import pack_state, unpack_state

torch = pytest.importorskip("torch", reason="PyTorch is the oracle; install minirnn[peers]")

SMALL = bool(os.environ.get("NUMBA_DISABLE_JIT"))
CELLS = ("rnn-tanh", "rnn-relu", "lstm", "lstm-proj", "gru")
SIZES = (1, 2, 3, 5, 7) if SMALL else (1, 2, 3, 5, 7, 11, 15, 17, 23, 31, 33, 37, 47, 65)
STEPS = (1, 2, 3, 5) if SMALL else (1, 2, 3, 5, 9, 16, 29, 41, 60)
COUNT, TOKEN_COUNT = 320, 80


@dataclass(frozen=True)
class Config:
    """One drawn configuration; its name is the test's."""

    seed: int
    cell: str
    dtype: str
    layers: int
    bidirectional: bool
    bias: bool
    layout: str  # "TNI", "NTI" or, unbatched, "TI"
    state: bool
    lengths: tuple[int, ...] | None
    through: str  # what the loss sees: "all", "y" or "final"
    T: int
    N: int
    I: int
    H: int
    P: int
    vocabulary: int = 0  # rows of the embedding table; 0: dense input

    def __str__(self) -> str:
        flags = ["uni", "bi"][self.bidirectional] + ["-nobias", ""][self.bias] + ["", "-h0"][self.state]
        ragged = "" if self.lengths is None else f"-len{'.'.join(map(str, self.lengths))}"
        sizes = f"T{self.T}-N{self.N}-I{self.I}-H{self.H}" + (f"-P{self.P}" if self.P else "")
        tokens = f"-V{self.vocabulary}" if self.vocabulary else ""
        return (
            f"seed{self.seed}-{self.cell}-{self.dtype}-L{self.layers}-{flags}-{self.layout}-{sizes}{tokens}{ragged}"
            f"-{self.through}"
        )


def draw(seed: int, tokens: bool = False) -> Config:
    """The configuration of ``seed``: cells and dtypes take turns, the rest is drawn."""
    rng = np.random.default_rng([1994, seed, int(tokens)])
    cell, dtype = CELLS[seed % 5], ("float64", "float32")[seed // 5 % 2]
    T, N = int(rng.choice(STEPS)), int(rng.integers(1, 4 if SMALL else 10))
    H, layers = int(rng.choice(SIZES)), int(rng.integers(1, 4))
    if (cell, dtype) == ("rnn-relu", "float32"):  # few steps and units, so that none is within rounding of relu's kink
        T, N, H, layers = min(T, 9), min(N, 4), min(H, 33), min(layers, 2)
    if cell == "lstm-proj":
        H = max(H, 2)
    layout = str(rng.choice(["TNI", "NTI", "TNI", "NTI", "TI"]))
    N = 1 if layout == "TI" else N
    lengths = None
    if layout != "TI" and rng.random() < 0.6:
        drawn = rng.integers(0, T + 1, N)
        drawn[rng.random(N) < 0.15] = 0
        drawn[rng.integers(N)] = rng.integers(1, T + 1)  # PyTorch needs at least one row
        lengths = tuple(int(n) for n in drawn)
    vocabulary = 0
    if tokens:  # fewer tokens than rows (all are projected), or more of them
        rows = T * N if lengths is None else sum(lengths)
        vocabulary = max(1, rows // 2) if seed % 2 else rows + int(rng.integers(0, 5))
    bidirectional, bias, state = (bool(rng.integers(most)) for most in (2, 4, 2))
    through, I = str(rng.choice(["all", "all", "y", "final"])), int(rng.choice(SIZES))
    P = int(rng.integers(1, H)) if cell == "lstm-proj" else 0
    flags = (layers, bidirectional, bias, layout, state, lengths, through)
    return Config(seed, cell, dtype, *flags, T, N, I, H, P, vocabulary)


def build(c: Config) -> tuple[Any, Any]:
    """Our layer and PyTorch's with the same weights."""
    options: dict[str, Any] = {"num_layers": c.layers, "bias": c.bias, "bidirectional": c.bidirectional}
    options["batch_first"] = c.layout == "NTI"
    kind = {"rnn": "RNN", "lst": "LSTM", "gru": "GRU"}[c.cell[:3]]
    if kind == "RNN":
        options["nonlinearity"] = c.cell[4:]
    if kind == "LSTM":
        options["proj_size"] = c.P
    random.manual_seed(c.seed)
    ours = getattr(nn, kind)(c.I, c.H, dtype=c.dtype, **options)
    theirs = getattr(torch.nn, kind)(c.I, c.H, dtype=getattr(torch, c.dtype), **options)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in ours.state_dict().items()})
    return ours, theirs


def check(c: Config, assert_close: Callable[..., None], device: str = "cpu") -> None:
    """Run both, compare everything."""
    rng = np.random.default_rng([c.seed, 7])
    ours, theirs = build(c)
    ours.to(device)
    N_axis = 0 if c.layout == "NTI" else 1
    batch = {"TNI": (c.T, c.N), "NTI": (c.N, c.T), "TI": (c.T,)}[c.layout]
    count, width = c.layers * (2 if c.bidirectional else 1), c.P or c.H
    state_batch = () if c.layout == "TI" else (c.N,)
    kept = np.arange(c.N) if c.lengths is None else np.flatnonzero(c.lengths)
    dropped = np.setdiff1d(np.arange(c.N), kept)

    def real(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(c.dtype)

    def rows(array: np.ndarray, which: np.ndarray, axis: int) -> np.ndarray:
        return array if c.layout == "TI" else array.take(which, axis)

    # Weights are within 1/sqrt(H), so wide inputs are made small: where every unit is at +-1, 1 - h^2 is rounding.
    scale = np.asarray(min(1.0, (c.H / c.I) ** 0.5), c.dtype)
    table = real(c.vocabulary, c.I) * scale if c.vocabulary else None
    x = real(*batch, c.I) * scale if table is None else rng.integers(0, c.vocabulary, batch)
    sizes = (width, c.H) if c.cell.startswith("lstm") else (width,)
    states = [real(count, *state_batch, size) for size in sizes] if c.state else []
    seeds = [real(*batch, width * (2 if c.bidirectional else 1))] + [real(count, *state_batch, n) for n in sizes]
    if c.through != "all":
        seeds = [seeds[0], *(None for _ in sizes)] if c.through == "y" else [None, *seeds[1:]]

    leaf = tensor(x if table is None else table, True, c.dtype, device)
    h_0 = [tensor(s, True, c.dtype, device) for s in states]
    given = (leaf, {}) if table is None else (x, {"embedding": leaf})
    y, final = ours(given[0], pack_state(h_0), lengths=c.lengths, **given[1])
    outputs = [y, *unpack_state(final)]
    sum((o * s).sum() for o, s in zip(outputs, seeds, strict=True) if s is not None).backward()

    # PyTorch's, without sequences of length 0
    t_leaf = torch.tensor(rows(x, kept, N_axis) if table is None else table, requires_grad=True)
    t_h_0 = [torch.tensor(rows(s, kept, 1), requires_grad=True) for s in states]
    t_x = t_leaf if table is None else torch.nn.functional.embedding(torch.tensor(rows(x, kept, N_axis)), t_leaf)
    if c.lengths is not None:
        t_lengths = torch.tensor([n for n in c.lengths if n])
        t_x = torch.nn.utils.rnn.pack_padded_sequence(t_x, t_lengths, c.layout == "NTI", enforce_sorted=False)
    t_y, t_final = theirs(t_x, pack_state(t_h_0))
    if c.lengths is not None:
        t_y, _ = torch.nn.utils.rnn.pad_packed_sequence(t_y, c.layout == "NTI", total_length=c.T)
    t_outputs = [t_y, *unpack_state(t_final)]
    axes = [N_axis, 1, 1]
    triples = [each for each in zip(t_outputs, seeds, axes, strict=False) if each[1] is not None]
    sum((o * torch.tensor(rows(s, kept, axis))).sum() for o, s, axis in triples).backward()

    for name, output, t_output, axis in zip(("y", "h_n", "c_n"), outputs, t_outputs, axes, strict=False):
        assert output.dtype == np.dtype(c.dtype)
        assert_close(rows(output.numpy(), kept, axis), t_output.detach().numpy(), c.dtype, name)
    input_grad = leaf.grad.numpy()
    if table is None:
        assert not rows(input_grad, dropped, N_axis).any() or c.layout == "TI"
        input_grad = rows(input_grad, kept, N_axis)
    assert_close(input_grad, t_leaf.grad.numpy(), c.dtype, "gradient of the input")
    for name, leaf_0, t_leaf_0 in zip(("h_0", "c_0"), h_0, t_h_0, strict=False):
        assert_close(rows(gradient(leaf_0), kept, 1), gradient(t_leaf_0), c.dtype, f"gradient of {name}")
    t_parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close(gradient(parameter), gradient(t_parameters[name]), c.dtype, f"gradient of {name}")

    if len(dropped):  # sequences of length 0
        assert not rows(y.numpy(), dropped, N_axis).any()
        for n, output in enumerate(outputs[1:]):
            before = states[n] if states else np.zeros(output.shape, c.dtype)
            np.testing.assert_array_equal(rows(output.numpy(), dropped, 1), rows(before, dropped, 1))
        for leaf_0, seed in zip(h_0, seeds[1:], strict=False):
            expected = np.zeros(leaf_0.shape) if seed is None else seed
            np.testing.assert_array_equal(rows(gradient(leaf_0), dropped, 1), rows(expected, dropped, 1))


def gradient(leaf: Any) -> np.ndarray:
    """The gradient of a tensor of ours or of PyTorch's; zeros where it has none."""
    return np.zeros(tuple(leaf.shape)) if leaf.grad is None else leaf.grad.numpy()


def drawn(count: int, tokens: bool = False) -> list[Any]:
    """Configurations; all but the first quarter are for CI alone."""
    return [
        pytest.param(draw(n, tokens), marks=pytest.mark.slow if n >= count // 4 else (), id=str(draw(n, tokens)))
        for n in range(count)
    ]


@pytest.mark.parametrize("config", drawn(COUNT))
def test_layer_equals_pytorch(config: Config, assert_close: Callable[..., None]) -> None:
    check(config, assert_close)


@pytest.mark.parametrize("config", drawn(TOKEN_COUNT, tokens=True))
def test_layer_on_tokens_equals_pytorch_embedding_and_layer(config: Config, assert_close: Callable[..., None]) -> None:
    check(config, assert_close)


def small(config: Config) -> Config:
    """The same configuration with small sizes, for the CUDA simulator."""
    limits = {"layers": 2, "I": 5, "H": 5, "P": 3, "vocabulary": 11}
    sizes = {name: min(getattr(config, name), limit) for name, limit in limits.items()}
    lengths = None if config.lengths is None else (2, 0, 3)
    return replace(config, T=3, N=1 if config.layout == "TI" else 3, lengths=lengths, **sizes)


@pytest.mark.parametrize("config", [small(draw(n, n % 2 == 1)) for n in range(0, 39, 3)], ids=str)
def test_layer_on_a_gpu_equals_pytorch(config: Config, assert_close: Callable[..., None], gpu: str) -> None:
    check(config, assert_close, gpu)


def test_drawn_configurations_cover_every_option() -> None:
    dense, tokens = [draw(n) for n in range(COUNT)], [draw(n, tokens=True) for n in range(TOKEN_COUNT)]
    assert len(dense) >= 300
    for cell in CELLS:
        mine = [c for c in dense if c.cell == cell]
        for field in ("dtype", "bidirectional", "bias", "state"):
            assert len({getattr(c, field) for c in mine}) == 2, (cell, field)
        for field in ("layers", "layout", "through"):
            if (cell, field) != ("rnn-relu", "layers"):
                assert len({getattr(c, field) for c in mine}) == 3, (cell, field)
        assert any(c.lengths and 0 in c.lengths for c in mine), cell
        assert any(c.lengths and list(c.lengths) != sorted(c.lengths, reverse=True) for c in mine), cell
    assert {c.vocabulary < (c.T * c.N if c.lengths is None else sum(c.lengths)) for c in tokens} == {True, False}


kinds = pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])


@kinds
@pytest.mark.parametrize("lengths", [None, [0, 0]])
def test_without_steps_the_state_and_its_gradient_are_unchanged(kind: str, lengths: list[int] | None) -> None:
    layer = getattr(nn, kind)(3, 5, num_layers=2, bidirectional=True)
    x = tensor(np.ones((0 if lengths is None else 4, 2, 3)), requires_grad=True)
    rng = np.random.default_rng(3)
    h_0 = [tensor(rng.standard_normal((4, 2, 5)), requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]
    y, final = layer(x, pack_state(h_0), lengths=lengths)
    assert y.shape == (*x.shape[:2], 10)
    assert not y.numpy().any()
    seeds = [rng.standard_normal((4, 2, 5)).astype(np.float32) for _ in h_0]
    (y.sum() + sum((f * s).sum() for f, s in zip(unpack_state(final), seeds, strict=True))).backward()
    for before, after, seed in zip(h_0, unpack_state(final), seeds, strict=True):
        np.testing.assert_array_equal(after.numpy(), before.numpy())
        np.testing.assert_array_equal(gradient(before), seed)
    assert not gradient(x).any()
    assert all(not gradient(p).any() for p in layer.parameters())


@kinds
def test_empty_batch_gives_empty_results(kind: str) -> None:
    y, final = getattr(nn, kind)(3, 5, bidirectional=True)(np.zeros((4, 0, 3), np.float32))
    assert y.shape == (4, 0, 10)
    assert all(member.shape == (2, 0, 5) for member in unpack_state(final))


@pytest.mark.parametrize("index", [np.int32, np.uint8])
def test_tokens_may_be_of_any_integer_dtype(index: type) -> None:
    layer, table = nn.LSTM(3, 5), tensor(np.random.default_rng(5).standard_normal((4, 3)), requires_grad=True)
    tokens = np.random.default_rng(4).integers(0, 4, (6, 3))
    results = []
    for ids in (tokens, tokens.astype(index)):
        table.grad = None
        y, _ = layer(ids, embedding=table, lengths=[2, 6, 3])
        (y * y).sum().backward()
        results.append((y.numpy(), gradient(table).copy()))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@kinds
def test_padding_is_not_read(kind: str) -> None:
    """NaN there changes nothing."""
    layer, lengths = getattr(nn, kind)(3, 5, num_layers=2, bidirectional=True), [2, 5, 0, 3]
    clean = np.random.default_rng(8).standard_normal((5, 4, 3)).astype(np.float32)
    dirty = np.where((np.arange(5)[:, None] < lengths)[..., None], clean, np.float32("nan"))
    results = []
    for x in (clean, dirty):
        layer.zero_grad()
        leaf = tensor(x, requires_grad=True)
        y, final = layer(leaf, lengths=lengths)
        ((y * y).sum() + sum((f * f).sum() for f in unpack_state(final))).backward()
        gradients = [gradient(leaf), *map(gradient, layer.parameters())]
        results.append([y.numpy(), *(f.numpy() for f in unpack_state(final)), *gradients])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
