"""``mr.operation``: values, gradients, what the function is given, and errors in what it returns."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import AnomalyError, DeviceError, DTypeError, GradientError, MinirnnError, OptionError, ShapeError


def leaf(*values: float, dtype: Any = "float64") -> mr.Tensor:
    return mr.tensor(list(values), requires_grad=True, dtype=dtype)


def gradient(x: mr.Tensor) -> Any:
    assert x.grad is not None
    return x.grad.tolist()


@mr.operation
def swish(x: Any, beta: float = 1.0) -> Any:
    """x sigmoid(beta x)."""
    s = 1 / (1 + np.exp(-beta * x))
    return x * s, lambda g: g * s * (1 + beta * x * (1 - s))


@mr.operation
def outer(a: Any, b: Any) -> Any:
    return np.outer(a, b), lambda g: (g @ b, g.T @ a)


@mr.operation
def sum_and_product(a: Any, b: Any) -> Any:
    return (a + b, a * b), lambda g_sum, g_product: (g_sum + g_product * b, g_sum + g_product * a)


@numba.njit
def _cubes(x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for k in range(x.size):
        out.flat[k] = x.flat[k] ** 3
    return out


@numba.njit
def _cubes_backward(g: np.ndarray, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    for k in range(x.size):
        out.flat[k] = 3 * x.flat[k] ** 2 * g.flat[k]
    return out


@mr.operation
def cube(x: Any) -> Any:
    return _cubes(x), lambda g: _cubes_backward(g, x)


# --------------------------------------------------------------------------------------------- values and gradients


def test_value_dtype_and_gradient(dtype: np.dtype) -> None:
    x = leaf(-1.0, 0.0, 2.0, dtype=dtype)
    y = swish(x)
    assert y.dtype == dtype
    s = 1 / (1 + np.exp(-x.numpy()))
    np.testing.assert_allclose(y.numpy(), x.numpy() * s, rtol=1e-6)
    y.sum().backward()
    assert np.asarray(x.grad).dtype == dtype
    np.testing.assert_allclose(np.asarray(x.grad), s * (1 + x.numpy() * (1 - s)), rtol=1e-6)


@pytest.mark.parametrize(
    "function", [swish, lambda x: swish(x, 2.0), lambda x: swish(x, beta=0.5), cube, lambda x: cube(x.reshape(3, 1).T)]
)
def test_gradcheck_of_one_argument(function: Any) -> None:
    assert mr.gradcheck(function, [leaf(0.3, -1.2, 2.0)])


@pytest.mark.parametrize("function", [outer, sum_and_product])
def test_gradcheck_of_two_arguments(function: Any) -> None:
    assert mr.gradcheck(function, [leaf(0.3, -1.2, 2.0), leaf(0.7, 0.1, -0.4)])


def test_gradcheck_finds_a_wrong_gradient() -> None:
    doubled = mr.operation(lambda x: (2 * x, lambda g: g))
    with pytest.raises(GradientError, match="by backward"):
        mr.gradcheck(doubled, [leaf(1.0)])


def test_kernels_get_contiguous_arrays_of_the_type_of_the_tensor(dtype: np.dtype) -> None:
    x = mr.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, dtype=dtype)
    y = cube(x.T)
    np.testing.assert_array_equal(y.numpy(), (x.numpy() ** 3).T)
    (y * y).sum().backward()
    np.testing.assert_allclose(np.asarray(x.grad), 6 * x.numpy() ** 5, rtol=1e-6)
    flags: list[bool] = []

    @mr.operation
    def checked(x: Any) -> Any:
        flags.append(x.flags.c_contiguous)
        return x + 0, lambda g: flags.append(g.flags.c_contiguous) or g  # type: ignore[func-returns-value]

    checked(x.T).T.sum().backward()
    assert flags == [True, True]


def test_unused_outputs_have_gradients_of_zeros() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    sum_and_product(a, b)[1].sum().backward()
    assert (gradient(a), gradient(b)) == ([3, 4], [1, 2])
    (sum_and_product(a, b)[0] * 10).sum().backward()
    assert gradient(a) == [13, 14]


def test_none_is_no_gradient() -> None:
    first = mr.operation(lambda a, b: (a * 1, lambda g: (g, None)))
    a, b = leaf(1.0), leaf(2.0)
    first(a, b).backward()
    assert gradient(a) == [1]
    assert b.grad is None


def test_one_array_as_several_gradients_is_copied() -> None:
    add = mr.operation(lambda a, b: (a + b, lambda g: (g, g)))
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = add(a, b)
    (add(y, y) + y).sum().backward()
    assert gradient(a) == gradient(b) == [3, 3]
    a.grad.data[:] = 0  # type: ignore[union-attr]
    assert gradient(b) == [3, 3]


def test_gradient_that_is_an_argument_is_copied() -> None:
    half_square = mr.operation(lambda x: (np.sum(x * x) / 2, lambda g: x))
    x = leaf(1.0, 2.0)
    for expected in ([1, 2], [2, 4]):
        half_square(x).backward()
        assert gradient(x) == expected
    assert x.numpy().tolist() == [1, 2]


def test_broadcast_view_of_another_float_type_is_accepted_as_gradient() -> None:
    total = mr.operation(lambda x: (x.sum(), lambda g: np.broadcast_to(g.astype(np.float64), x.shape)))
    x = leaf(1.0, 2.0, dtype="float32")
    y = total(x)
    assert y.shape == ()
    (y * y).backward()
    assert gradient(x) == [6, 6]
    assert np.asarray(x.grad).dtype == np.float32


def test_integer_outputs_have_no_gradient() -> None:
    @mr.operation
    def largest(x: Any) -> Any:
        at = x.argmax()

        def gradients(g: Any, g_at: Any) -> Any:
            assert not g_at.any()
            return g * (np.arange(x.size) == at)

        return (x[at], at), gradients

    x = leaf(1.0, 5.0, 2.0)
    with mr.detect_anomaly():
        value, at = largest(x)
        value.backward()
    assert value.item() == 5
    assert not at.requires_grad
    assert x[at].item() == 5
    assert gradient(x) == [0, 1, 0]


# -------------------------------------------------------------------------------------------------------- arguments


def test_other_arguments_pass_as_they_are() -> None:
    seen: list[Any] = []

    @mr.operation
    def scaled(x: Any, *others: Any, **named: Any) -> Any:
        seen.extend([*others, named])
        return x * others[1], lambda g: (g * others[1],)

    array, listed = np.ones(2, np.int8), [1, "two"]
    x = leaf(1.0, 2.0)
    scaled(x, array, 3, None, listed, flag=True).sum().backward()
    assert seen[0] is array
    assert seen[1:3] == [3, None]
    assert seen[3] is listed
    assert seen[4] == {"flag": True}
    assert gradient(x) == [3, 3]


def test_gradients_are_of_the_tensor_arguments_only() -> None:
    @mr.operation
    def power(x: Any, exponent: int, scale: Any) -> Any:
        y = x**exponent
        return scale * y, lambda g: (g * scale * exponent * x ** (exponent - 1), np.sum(g * y))

    scale = mr.tensor(2.0, requires_grad=True, dtype="float64")
    assert mr.gradcheck(lambda x, scale: power(x, 3, scale), [leaf(1.5, 0.5), scale])
    x = leaf(1.0, 2.0)
    power(x, 2, mr.tensor(3.0, dtype="float64")).sum().backward()  # the gradient of a constant is ignored
    assert gradient(x) == [6, 12]


def test_integer_tensors_are_arguments_without_a_gradient() -> None:
    @mr.operation
    def rows(table: Any, index: Any) -> Any:
        return table[index], lambda g: (np.eye(len(table))[:, index] @ g, None)

    table = mr.tensor(np.eye(3), requires_grad=True, dtype="float64")
    rows(table, mr.tensor([2, 2, 0])).sum().backward()
    assert np.asarray(table.grad)[:, 0].tolist() == [1, 0, 2]


def test_nothing_is_recorded_without_need() -> None:
    assert isinstance(swish(np.array([0.0, 1.0])), mr.Tensor), "without tensors the result is a tensor"
    for x in (np.array([0.0, 1.0]), mr.tensor([1.0])):
        assert not swish(x).requires_grad
    with mr.no_grad():
        assert not swish(leaf(1.0)).requires_grad


def test_name_and_docstring_are_kept() -> None:
    assert swish.__name__ == "swish"
    assert swish.__doc__ == "x sigmoid(beta x)."
    assert "made by swish" in repr(swish(leaf(1.0)))


# ------------------------------------------------------------------------------------------ inside other mechanisms


def test_inside_a_module_that_is_trained() -> None:
    class Net(mr.nn.Module):
        def __init__(self) -> None:
            self.inner, self.outer = mr.nn.Linear(1, 16), mr.nn.Linear(16, 1)

        def forward(self, x: Any) -> mr.Tensor:
            return self.outer(swish(self.inner(x)))

    net = Net()
    x = np.linspace(-2, 2, 50, dtype=np.float32)[:, None]
    optimizer = mr.optim.Adam(net.parameters(), lr=0.05)
    losses = []
    for _ in range(100):
        loss = mr.nn.functional.mse_loss(net(x), x * x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


def test_under_recompute() -> None:
    x, y = leaf(0.3, -1.2), leaf(0.3, -1.2)
    swish(cube(x)).sum().backward()
    mr.recompute(lambda y: swish(cube(y)), y).sum().backward()
    assert gradient(x) == gradient(y)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_detect_anomaly_names_the_operation() -> None:
    @mr.operation
    def root(x: Any) -> Any:
        return np.sqrt(x), lambda g: g / (2 * np.sqrt(x)) * 0

    with mr.detect_anomaly():
        with pytest.raises(AnomalyError, match="root made a NaN"):
            root(leaf(-1.0))
        y = root(leaf(0.0))
        with pytest.raises(AnomalyError, match="the gradient of root made a NaN"):
            y.backward()


def test_on_every_device(device: str) -> None:
    square = mr.operation(lambda x: (x * x, lambda g: g * x * 2))
    x = mr.tensor([1.0, -2.0], requires_grad=True, device=device)
    y = square(x)
    assert y.device == device
    y.sum().backward()
    assert gradient(x) == [2, -4]


# ----------------------------------------------------------------------------------------------------------- errors


def identity(g: Any) -> Any:
    return g


RESULTS: list[tuple[Any, type[MinirnnError], str]] = [
    (np.ones(2), OptionError, r"wrong: expected \(result, gradients\), an array and a function, got ndarray"),
    (None, OptionError, r"wrong: expected \(result, gradients\), an array and a function, got None"),
    ((np.ones(2), np.ones(2)), OptionError, r"got \(ndarray, ndarray\)"),
    ((2.0, identity), DTypeError, "wrong: the result: expected an array on 'cpu', got float"),
    (([1.0], identity), DTypeError, "expected an array on 'cpu', got list"),
    ((mr.tensor([1.0]), identity), DTypeError, "expected an array on 'cpu', got Tensor"),
    (((np.ones(2), None), identity), DTypeError, "expected an array on 'cpu', got None"),
    ((np.ones(2, complex), identity), DTypeError, "wrong: the result: dtype complex128 is not supported"),
    ((np.array(["a"]), identity), DTypeError, "wrong: the result: dtype <U1 is not supported"),
]
GRADIENTS: list[tuple[Any, type[MinirnnError], str]] = [
    (np.ones(3), ShapeError, "wrong: expected 2 gradients, one per tensor argument, got 1"),
    ((), ShapeError, "expected 2 gradients, one per tensor argument, got 0"),
    ((None, None, None), ShapeError, "expected 2 gradients, one per tensor argument, got 3"),
    (
        (None, np.ones((1, 3))),
        ShapeError,
        r"wrong: the gradient of tensor argument 1: expected shape \[3\], got \[1, 3\]",
    ),
    ((np.ones(()), None), ShapeError, r"the gradient of tensor argument 0: expected shape \[3\], got \[\]"),
    ((0, None), DTypeError, "wrong: the gradient of tensor argument 0: expected an array on 'cpu', got int"),
    ((mr.zeros(3), None), DTypeError, "expected an array on 'cpu', got Tensor"),
    ((np.ones(3, complex), None), DTypeError, "argument 0: dtype complex128 is not supported"),
]


@pytest.mark.parametrize(("result", "error", "message"), RESULTS)
def test_wrong_result(result: Any, error: type[MinirnnError], message: str) -> None:
    @mr.operation
    def wrong(x: Any) -> Any:
        return result

    with pytest.raises(error, match=message):
        wrong(leaf(1.0))


@pytest.mark.parametrize(("returned", "error", "message"), GRADIENTS)
def test_wrong_gradients(returned: Any, error: type[MinirnnError], message: str) -> None:
    @mr.operation
    def wrong(a: Any, b: Any) -> Any:
        return a + b, lambda g: returned

    y = wrong(leaf(1.0, 2.0, 3.0), leaf(1.0, 2.0, 3.0))
    with pytest.raises(error, match=message):
        y.sum().backward()


def test_tensor_by_keyword_is_an_error_not_a_lost_gradient() -> None:
    with pytest.raises(OptionError, match="swish: beta is a tensor given by keyword; tensor arguments are positional"):
        swish(leaf(1.0), beta=leaf(1.0))


def test_tensors_on_two_devices(gpu: str) -> None:
    with pytest.raises(DeviceError, match="sum_and_product: inputs on cpu and cuda"):
        sum_and_product(mr.tensor([1.0]), mr.tensor([1.0], device=gpu))
