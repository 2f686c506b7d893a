"""Layers without a state, containers and state dicts.

Values and gradients are compared with PyTorch or plain NumPy; names, order and shapes of state dicts are PyTorch's;
loading either succeeds or changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minirnn.nn.functional as F
from minirnn import nn, random
from minirnn.autograd.tensor import Tensor, tensor
from minirnn.errors import CheckpointError, DTypeError

Close = Callable[..., None]

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def compare_modules(torch: Any, ours: nn.Module, theirs: Any, x: np.ndarray, dtype: str, assert_close: Close) -> None:
    """Output and every gradient, with our weights in PyTorch's module."""
    theirs.to(getattr(torch, dtype)).load_state_dict({n: torch.tensor(a) for n, a in ours.state_dict().items()})
    leaf, t_leaf = tensor(x, requires_grad=True, dtype=dtype), torch.tensor(x.astype(dtype), requires_grad=True)
    y, t_y = ours(leaf), theirs(t_leaf)
    assert_close(y.numpy(), t_y.detach().numpy(), dtype, "output")
    above = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    y.backward(above)
    t_y.backward(torch.tensor(above))
    assert_close(leaf.grad.numpy(), t_leaf.grad.numpy(), dtype, "gradient of the input")
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, parameter), (t_name, t_parameter) in pairs:
        assert name == t_name
        assert_close(parameter.grad.numpy(), t_parameter.grad.numpy(), dtype, name)


# ------------------------------------------------------------------------------------------------------- layers


@dtypes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 7), (0, 7)], ids=str)
def test_linear_equals_pytorch(torch: Any, dtype: str, bias: bool, shape: tuple[int, ...], assert_close: Close) -> None:
    x = np.random.default_rng(2).standard_normal(shape)
    compare_modules(torch, nn.Linear(7, 11, bias, dtype), torch.nn.Linear(7, 11, bias), x, dtype, assert_close)


def test_linear_by_hand_and_its_initial_weights() -> None:
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": [[1, 2], [3, 4]], "bias": [10, 20]})
    assert layer([[1.0, 1.0]]).tolist() == [[13, 27]]
    wide = nn.Linear(100, 200)
    assert np.abs(wide.weight.numpy()).max() <= 0.1
    assert wide.weight.numpy().std() == pytest.approx(0.1 / np.sqrt(3), rel=0.02)
    assert nn.Linear(3, 2, bias=False).bias is None


@dtypes
@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding_equals_pytorch(torch: Any, dtype: str, padding_idx: int | None, assert_close: Close) -> None:
    tokens = np.array([[0, 2, 2], [5, 1, 2]])
    layer = nn.Embedding(6, 3, padding_idx, dtype)
    theirs = torch.nn.Embedding(6, 3, padding_idx, dtype=getattr(torch, dtype))
    theirs.load_state_dict({"weight": torch.tensor(layer.state_dict()["weight"])})
    above = np.random.default_rng(3).standard_normal((2, 3, 3)).astype(dtype)
    y, t_y = layer(tokens), theirs(torch.tensor(tokens))
    y.backward(above)
    t_y.backward(torch.tensor(above))
    assert_close(y.numpy(), t_y.detach().numpy(), dtype)
    assert_close(layer.weight.grad.numpy(), theirs.weight.grad.numpy(), dtype)  # repeated tokens are summed
    if padding_idx is not None:
        assert not layer.weight.numpy()[padding_idx].any()
        assert not layer.weight.grad.numpy()[padding_idx].any()
        assert layer.padding_idx == padding_idx % 6


def test_embedding_from_pretrained_copies_and_freezes_rows() -> None:
    rows = np.arange(6.0).reshape(3, 2)
    frozen = nn.Embedding.from_pretrained(rows.astype(np.float32), padding_idx=1)
    assert frozen([2, 1]).tolist() == [[4, 5], [2, 3]]  # as in PyTorch, the padding row keeps what it was given
    assert not frozen.weight.requires_grad
    assert not frozen([0]).requires_grad
    trained = nn.Embedding.from_pretrained(rows, freeze=False)
    assert trained.weight.dtype == np.float64
    trained([0, 2, 2]).sum().backward()
    assert trained.weight.grad.numpy().tolist() == [[1, 1], [0, 0], [2, 2]]
    trained.weight.data[...] = 0
    assert rows[2].tolist() == [4, 5]  # a copy


@dtypes
@pytest.mark.parametrize("shape", [(7,), (3, 7), (1,)], ids=str)
@pytest.mark.parametrize("options", [{}, {"eps": 0.1}, {"bias": False}, {"elementwise_affine": False}], ids=str)
def test_layer_norm_equals_pytorch(
    torch: Any, dtype: str, shape: tuple[int, ...], options: dict[str, Any], assert_close: Close
) -> None:
    rng, ours = np.random.default_rng(4), nn.LayerNorm(shape, dtype=dtype, **options)
    for parameter in ours.parameters():
        parameter.data[...] = rng.standard_normal(shape)
    x = rng.standard_normal((5, 3, 7)) * 2 + 3 if shape != (1,) else rng.standard_normal((5, 1))
    if shape == (1,):  # one element minus its mean is 0
        expected = np.broadcast_to(ours.bias.numpy() if ours.bias else 0, x.shape)
        assert ours(x.astype(dtype)).tolist() == expected.tolist()
        return
    compare_modules(torch, ours, torch.nn.LayerNorm(shape, **options), x, dtype, assert_close)


def test_layer_norm_gives_mean_0_and_variance_1() -> None:
    y = nn.LayerNorm(50, dtype="float64")(np.random.default_rng(5).standard_normal((4, 50)) * 9 - 4).numpy()
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-12)
    np.testing.assert_allclose(y.var(1), 1, atol=1e-5)
    assert nn.LayerNorm(np.int64(3))(np.ones((2, 3), np.float32)).shape == (2, 3)


@dtypes
@pytest.mark.parametrize("name", ["Tanh", "Sigmoid", "ReLU"])
def test_activations_equal_pytorch(torch: Any, dtype: str, name: str, assert_close: Close) -> None:
    x = np.random.default_rng(6).standard_normal((4, 5)) * 3
    compare_modules(torch, getattr(nn, name)(), getattr(torch.nn, name)(), x, dtype, assert_close)


# ------------------------------------------------------------------------------------------------------ dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@dtypes
def test_dropout_zeroes_a_fraction_and_scales_the_rest(p: float, dtype: str) -> None:
    n = 40_000
    x = tensor(np.ones(n), requires_grad=True, dtype=dtype)
    y = nn.Dropout(p)(x)
    kept = y.numpy() != 0
    assert abs(kept.mean() - (1 - p)) < 5 * np.sqrt(p * (1 - p) / n)
    np.testing.assert_allclose(y.numpy()[kept], 1 / (1 - p), rtol=1e-3)
    assert abs(y.numpy().mean() - 1) < 5 * np.sqrt(p / (1 - p) / n)
    neighbours = np.corrcoef(kept[1:], kept[:-1])[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(n)  # each element is dropped independently
    above = np.random.default_rng(7).standard_normal(n).astype(dtype)
    y.backward(above)
    np.testing.assert_array_equal(x.grad.numpy(), above * y.numpy())  # the same mask forward and backward, as x is 1


def test_dropout_with_p_0_or_1_and_in_evaluation() -> None:
    x = tensor([[1.0, -2.0], [np.inf, 4.0]], requires_grad=True)
    assert nn.Dropout(0)(x) is x
    layer = nn.Dropout(0.7).eval()
    np.testing.assert_array_equal(layer(x).numpy(), x.numpy())
    finite = tensor([1.0, -2.0, 3.0], requires_grad=True)
    nothing = nn.Dropout(1.0)(finite)
    assert nothing.tolist() == [0, 0, 0]
    nothing.sum().backward()
    assert finite.grad.numpy().tolist() == [0, 0, 0]


def test_dropout_follows_the_seed() -> None:
    layer, x, masks = nn.Dropout(0.5), np.ones(1000, np.float32), []
    for seed in (1, 1, 2):
        random.manual_seed(seed)
        masks.append([layer(x).numpy(), layer(x).numpy()])
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0][0] != masks[0][1]).mean() > 0.3  # a fresh mask each time
    assert (masks[0][0] != masks[2][0]).mean() > 0.3


# --------------------------------------------------------------------------------------------------- containers


class Net(nn.Module):
    """A parameter of its own, layers, containers, and one layer used twice."""

    def __init__(self) -> None:
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter(np.ones(4, np.float32))
        self.body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Sequential(nn.Tanh(), nn.Dropout(0.5)))
        self.heads = nn.ModuleList(nn.Linear(4, 2), nn.Linear(4, 1))
        self.tied = self.first

    def forward(self, x: Any) -> Tensor:
        return self.heads[0](self.body(self.first(x) * self.scale))


NET_NAMES = ["scale", "first.weight", "first.bias", "body.0.weight"]
NET_NAMES += ["heads.0.weight", "heads.0.bias", "heads.1.weight", "heads.1.bias"]


def test_parameters_are_in_pytorchs_order_and_each_occurs_once() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NET_NAMES
    assert [id(p) for p in net.parameters()] == [id(p) for _, p in net.named_parameters()]
    assert net.num_parameters() == 4 + 12 + 4 + 16 + 8 + 2 + 4 + 1
    assert list(net.state_dict()) == [*NET_NAMES, "tied.weight", "tied.bias"]  # all names, as in PyTorch
    assert [name for name, _ in net.named_parameters("net")] == ["net." + name for name in NET_NAMES]
    names = "Net Linear Sequential Linear Sequential Tanh Dropout ModuleList Linear Linear"
    assert " ".join(type(module).__name__ for module in net.modules()) == names


def test_sequential_runs_in_order_and_module_list_is_not_callable() -> None:
    double, shift = nn.Linear(1, 1), nn.Linear(1, 1)
    double.load_state_dict({"weight": [[2]], "bias": [0]})
    shift.load_state_dict({"weight": [[1]], "bias": [3]})
    net = nn.Sequential(double, shift)
    assert net([[5.0]]).tolist() == [[13]]
    assert nn.Sequential(shift, double)([[5.0]]).tolist() == [[16]]
    assert (len(net), net[0], net[-1]) == (2, double, shift)
    assert list(net) == [double, shift]
    assert nn.Sequential()(7) == 7
    held = nn.ModuleList(double, shift)
    assert list(held.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    with pytest.raises(TypeError, match="ModuleList"):
        held([[5.0]])


def test_train_and_eval_reach_every_module() -> None:
    net = Net()
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(net(x).numpy(), net(x).numpy())
    assert net.train() is net
    assert all(module.training for module in net.modules())
    assert not np.array_equal(net(x).numpy(), net(x).numpy())
    net.body.eval()
    assert net.training
    assert not net.body[1].training


def test_deep_copy_shares_no_parameters() -> None:
    net = Net()
    before, twin = net.state_dict(), copy.deepcopy(net)
    assert [name for name, _ in twin.named_parameters()] == NET_NAMES, "tied parameters stay tied"
    for parameter in twin.parameters():
        parameter.data[...] = 7
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    layer = nn.Linear(2, 3)
    x = np.ones((1, 2), np.float32)
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(other(x).numpy(), layer(x).numpy())
    other(x).sum().backward()
    assert layer.weight.grad is None


def test_zero_grad_sets_gradients_to_none() -> None:
    net = Net()
    net(np.ones((2, 3), np.float32)).sum().backward()
    assert net.first.weight.grad is not None
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_gradients_of_two_backward_passes_accumulate() -> None:
    layer, x = nn.Linear(3, 2), np.ones((4, 3), np.float32)
    for _ in range(2):
        layer(x).sum().backward()
    assert layer.weight.grad.numpy().tolist() == [[8, 8, 8], [8, 8, 8]]


def test_to_another_dtype_and_back() -> None:
    net = Net()
    before = net.state_dict()
    net(np.ones((2, 3), np.float32)).sum().backward()
    assert net.to("float64") is net
    assert {p.dtype for p in net.parameters()} == {np.dtype("float64")}
    assert all(p.grad is None for p in net.parameters())
    assert net(np.ones((2, 3))).dtype == np.float64
    net.to("float32")
    for name, array in net.state_dict().items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, before[name])
    assert net.tied is net.first
    lstm = nn.LSTM(2, 3).to("float64")
    assert lstm(np.ones((4, 1, 2)))[0].dtype == np.float64
    for bad in ("int64", "bool", "float16"):
        with pytest.raises(DTypeError):
            net.to(bad)
    assert {p.dtype for p in net.parameters()} == {np.dtype("float32")}


def test_repr_shows_what_is_inside() -> None:
    text = repr(Net())
    assert text.startswith("Net(\n  (first): Linear(in_features=3, out_features=4, bias=True)\n  (body): Sequential(\n")
    for line in ("    (1): Sequential(", "      (1): Dropout(p=0.5)", "  (heads): ModuleList("):
        assert line in text.splitlines(), text
    lstm = nn.LSTM(3, 5, 2, batch_first=True, dropout=0.25, bidirectional=True, proj_size=2, bias=False)
    assert repr(lstm) == (
        "LSTM(3, 5, num_layers=2, bias=False, batch_first=True, dropout=0.25, bidirectional=True, proj_size=2)"
    )
    assert repr(nn.GRU(3, 5)) == "GRU(3, 5)"
    assert repr(nn.RNN(3, 5, nonlinearity="relu")) == "RNN(3, 5, nonlinearity='relu')"
    assert repr(nn.Embedding(4, 2, padding_idx=-1)) == "Embedding(4, 2, padding_idx=3)"
    assert repr(nn.LayerNorm((2, 3))) == "LayerNorm([2, 3], eps=1e-05)"
    assert repr(nn.GRUCell(3, 5)) == "GRUCell(3, 5)"


# --------------------------------------------------------------------------------------------------- state dicts


@pytest.mark.parametrize(("kind", "proj_size"), [("RNN", 0), ("LSTM", 0), ("LSTM", 2), ("GRU", 0)])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_names_order_shapes_and_initial_weights_are_pytorchs(
    torch: Any, kind: str, proj_size: int, layers: int, bias: bool, bidirectional: bool
) -> None:
    options = {"num_layers": layers, "bias": bias, "bidirectional": bidirectional}
    options |= {"proj_size": proj_size} if proj_size else {}
    ours, theirs = getattr(nn, kind)(3, 5, **options), getattr(torch.nn, kind)(3, 5, **options)
    shapes, t_shapes = ([(n, tuple(a.shape)) for n, a in layer.state_dict().items()] for layer in (ours, theirs))
    assert shapes == t_shapes
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    bound = 1 / np.sqrt(5)
    values = np.concatenate([a.ravel() for a in ours.state_dict().values()])
    assert np.abs(values).max() <= bound
    assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.25)
    ours.load_state_dict(theirs.state_dict())  # PyTorch's tensors, as they are
    for name, array in theirs.state_dict().items():
        np.testing.assert_array_equal(ours.state_dict()[name], array.numpy())


def test_state_dict_is_a_copy_and_loads_in_place() -> None:
    net, other = Net().eval(), Net().eval()
    x, state = np.ones((2, 3), np.float32), net.state_dict()
    assert not np.array_equal(net(x).numpy(), other(x).numpy())
    kept = other.first.weight
    other.load_state_dict(state)
    assert other.first.weight is kept  # in place: an optimizer refers to it
    np.testing.assert_array_equal(net(x).numpy(), other(x).numpy())
    state["scale"][...] = 99
    assert net.scale.tolist() == other.scale.tolist() == [1, 1, 1, 1]
    other.load_state_dict({name: array.astype(np.float64) for name, array in net.state_dict().items()})
    assert other.scale.dtype == np.float32


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("heads.1.bias", None, r"missing heads\.1\.bias"),
        ("extra", np.ones(2), "unexpected extra"),
        ("body.0.weight", np.ones((4, 5)), r"body\.0\.weight.*\[4, 5\].*\[4, 4\]"),
        ("first.weight", np.ones((3, 4)), r"first\.weight.*\[3, 4\].*\[4, 3\]"),  # transposed
        ("heads.1.bias", np.array(["a"]), r"heads\.1\.bias holds <U1, expected numbers"),
        ("heads.1.bias", np.array([1j]), r"heads\.1\.bias holds complex128, expected numbers"),
    ],
)
def test_loading_a_state_dict_that_does_not_fit_changes_nothing(name: str, value: Any, message: str) -> None:
    net = Net()
    before, state = net.state_dict(), {name: array + 1 for name, array in net.state_dict().items()}
    state[name] = value
    if value is None:
        del state[name]
    with pytest.raises(CheckpointError, match=f"load_state_dict of Net.*{message}"):
        net.load_state_dict(state)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_loading_with_strict_off_loads_the_names_that_exist() -> None:
    net = Net()
    before = net.state_dict()
    keys = net.load_state_dict({"scale": [5, 6, 7, 8], "unheard.of": [1]}, strict=False)
    assert keys.missing_keys == [name for name in before if name != "scale"]
    assert keys.unexpected_keys == ["unheard.of"]
    assert net.load_state_dict(net.state_dict()) == ([], [])
    assert net.scale.tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(net.state_dict()["first.weight"], before["first.weight"])
    with pytest.raises(CheckpointError, match="scale"):
        net.load_state_dict({"scale": [1, 2]}, strict=False)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "Linear", "Embedding"])
def test_initial_weights_follow_the_seed(kind: str) -> None:
    states = []
    for seed in (3, 3, 4):
        random.manual_seed(seed)
        states.append(getattr(nn, kind)(4, 5).state_dict())
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])
        assert not np.array_equal(array, states[2][name])
        assert array.dtype == np.float32


def test_functional_dropout_and_embedding_equal_the_modules() -> None:
    x = np.ones(100, np.float32)
    random.manual_seed(1)
    a = F.dropout(x, 0.4)
    random.manual_seed(1)
    np.testing.assert_array_equal(a.numpy(), nn.Dropout(0.4)(x).numpy())
    assert F.dropout(x, 0.4, training=False).tolist() == x.tolist()
    layer = nn.Embedding(5, 2)
    np.testing.assert_array_equal(F.embedding([1, 4], layer.weight).numpy(), layer([1, 4]).numpy())


def test_evaluating_restores_the_mode_of_every_module() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    net[1].eval()
    with pytest.raises(ZeroDivisionError), net.evaluating():  # noqa: PT012
        assert not any(module.training for module in net.modules())
        assert (tensor([1.0], requires_grad=True) * 2).node is None
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == [True, True, False, False]
