"""Gradient flow: against numbers worked out by hand, finite differences and backpropagation through all steps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from support import SMALL

import minirnn as mr
from minirnn.errors import OptionError, ShapeError
from minirnn.gradient_flow import GradientFlow, gradient_flow, model_flows
from minirnn.nn.state import unpack_state


@mr.cell
def linear(a, /, h):
    """A linear recurrent network."""
    return a


def linear_layer(w: np.ndarray) -> mr.nn.Recurrent:
    layer = mr.nn.Recurrent(linear, 1, len(w), bias=False, dtype="float64")
    layer.weight_hh_l0.data[...] = w
    return layer


@pytest.mark.parametrize(("w", "memory"), [(0.9, 10), (-0.5, 2), (0.99, None), (1.2, None), (0.0, 0)])
def test_linear_network_of_one_unit(w: float, memory: int | None) -> None:
    """d loss_T / d h_t = v w^(T-t)."""
    flow = gradient_flow(linear_layer(np.array([[w]])), np.ones((20, 3, 1)), -2 * np.ones((3, 1)))
    np.testing.assert_allclose(flow.norms, 2 * abs(w) ** np.arange(21), rtol=1e-12)
    np.testing.assert_allclose(flow.relative, abs(w) ** np.arange(21), rtol=1e-12)
    assert flow.memory_length == memory
    assert not memory or memory == math.ceil(-1 / math.log(abs(w)))
    assert flow.factor == pytest.approx(abs(w), rel=1e-12)


def test_linear_network_of_several_units() -> None:
    """The product of transposed Jacobians, here powers of one matrix; the norm is the mean over the sequences."""
    rng = np.random.default_rng(0)
    w, v = rng.normal(size=(4, 4)), rng.normal(size=(3, 4))
    flow = gradient_flow(linear_layer(w), rng.normal(size=(9, 3, 1)), v)
    expected = [np.linalg.norm(v @ np.linalg.matrix_power(w, k), axis=1).mean() for k in range(10)]
    np.testing.assert_allclose(flow.norms, expected, rtol=1e-10)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm", "indrnn", "slstm"])
@pytest.mark.parametrize("layers", [[3], [3, 3], [3, 4]])
def test_agrees_with_finite_differences(cell: str, layers: list[int]) -> None:
    """d loss_T / d of every number of the state after t steps, in float64."""
    mr.manual_seed(3)
    layer = mr.nn.Recurrent(cell, 2, layers, len(layers), dtype="float64", zoneout=0.1)
    rng = np.random.default_rng(1)
    x, v, T, t = rng.normal(size=(6, 2, 2)), rng.normal(size=(2, layers[-1])), 6, 3
    flow = gradient_flow(layer, x, v)
    layer.eval()
    with mr.no_grad():
        state = unpack_state(layer(x[:t])[1])

    def leaves(member: Any) -> list[mr.Tensor]:
        return [member] if isinstance(member, mr.Tensor) else list(member)

    def loss() -> np.ndarray:
        with mr.no_grad():
            return (layer(x[t:], state if len(state) > 1 else state[0])[0].numpy()[-1] * v).sum(1)

    squares, eps = np.zeros(2), 1e-6
    for leaf in (leaf for member in state for leaf in leaves(member)):
        for index in np.ndindex(*leaf.shape):
            before = leaf.data[index]
            both = []
            for sign in (1, -1):
                leaf.data[index] = before + sign * eps
                both.append(loss())
            leaf.data[index] = before
            squares += ((both[0] - both[1]) / (2 * eps)) ** 2  # of the other sequence it is zero
    assert flow.norms[T - t] == pytest.approx(np.sqrt(squares).mean(), rel=1e-6)


def test_weight_norm_is_that_of_backpropagation_through_all_steps() -> None:
    mr.manual_seed(0)
    layer = mr.nn.Recurrent("gru", 3, 5, num_layers=2, dtype="float64")
    x, v = np.random.default_rng(0).normal(size=(11, 4, 3)), np.random.default_rng(1).normal(size=(4, 5))
    flow = gradient_flow(layer, x, v)
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert layer.training
    ((layer(x)[0][-1] * v).sum() / 4).backward()
    assert flow.weight_norm == pytest.approx(mr.optim.clip_grad_norm_(layer.parameters(), 1.0), rel=1e-12)


def test_open_gates_keep_the_gradient_and_large_weights_let_it_explode() -> None:
    steps = 20 if SMALL else 100
    mr.manual_seed(0)
    net = mr.nn.LSTM(16, 16, dtype="float64")
    x = np.random.default_rng(0).normal(size=(steps, 4, 16))
    closed = gradient_flow(net, x)
    net.bias_ih_l0.data[16:32] = 6
    opened = gradient_flow(net, x)
    assert closed.memory_length is not None
    assert closed.memory_length < 10 < (opened.memory_length or steps)
    exploding = model_flows(mr.models.ManyToOne(16, 32, 2, cell="rnn"), steps, scale=6)["body"]
    assert exploding.norms[-1] > 100 * exploding.norms[0]
    assert exploding.memory_length is None


def test_a_gradient_that_overflows_is_infinite() -> None:
    flow = gradient_flow(linear_layer(np.array([[1e40]])), np.zeros((12, 1, 1)), np.ones((1, 1)))
    np.testing.assert_allclose(flow.norms[:8], 1e40 ** np.arange(8.0))
    tiny = gradient_flow(linear_layer(np.array([[1e-40]])), np.zeros((7, 1, 1)), np.ones((1, 1)))
    np.testing.assert_allclose(tiny.norms, 1e-40 ** np.arange(8.0))
    assert np.isinf(flow.norms[9:]).all()
    assert (flow.memory_length, flow.weight_norm) == (None, math.inf)
    with pytest.raises(OptionError, match="states overflow within 12 steps"):
        gradient_flow(linear_layer(np.array([[1e40]])), np.ones((12, 1, 1)))


def test_character_models_are_measured_by_their_own_loss() -> None:
    """Of the last step alone: d loss / d y_T is W^T (p - one-hot)."""
    mr.manual_seed(0)
    lm = mr.models.CharLM(7, 6, num_layers=2)
    flow = model_flows(lm, 1, batch_size=3, seed=5)[""]
    rng = np.random.default_rng(5)
    first = rng.integers(7, size=(1, 3))
    target = lm.generate(first, 1, seed=int(rng.integers(1 << 30)))[0]
    y = lm.rnn(lm.embedding(first))[0]
    y = mr.tensor(y.numpy(), requires_grad=True)
    mr.nn.functional.cross_entropy(lm.head(y[0]), target, reduction="sum").backward()
    assert flow.norms[0] == pytest.approx(np.linalg.norm(y.grad.numpy()[0], axis=1).mean(), rel=1e-5)


def test_bodies_of_models_by_name() -> None:
    mr.manual_seed(0)
    flows = model_flows(mr.models.EncoderDecoder(9, 8, 4), 5, batch_size=2)
    assert list(flows) == ["encoder", "decoder"]
    assert all(isinstance(flow, GradientFlow) and flow.norms.shape == (6,) for flow in flows.values())
    two = mr.models.ManyToMany(3, 4, 2, num_layers=2, bidirectional=True)
    one = mr.models.ManyToMany(3, 4, 2)
    one.body.rnn.load_state_dict({name: two.state_dict()[f"body.rnn.{name}"] for name in one.body.rnn.state_dict()})
    np.testing.assert_array_equal(model_flows(two, 9)["body"].norms, model_flows(one, 9)["body"].norms)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(OptionError, match="recurrent layers, got OneToOne"):
        model_flows(mr.models.OneToOne(3, 4, 2))
    with pytest.raises(OptionError, match="one direction"):
        gradient_flow(mr.nn.GRU(3, 4, bidirectional=True), np.zeros((2, 1, 3)))
    for shape in ((2, 3), (0, 1, 3), (2, 0, 3)):
        with pytest.raises(ShapeError, match=r"expected x \[T, N, 3\]"):
            gradient_flow(mr.nn.GRU(3, 4), np.zeros(shape, np.float32))
    with pytest.raises(ShapeError, match=r"direction \[1, 4\], got \[4\]"):
        gradient_flow(mr.nn.GRU(3, 4), np.zeros((2, 1, 3), np.float32), np.ones(4))
