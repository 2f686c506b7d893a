"""``mr.operation``: values, gradients, what the function is given, and what is wrong with what it returns."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

import minirnn as mr
from minirnn.errors import AnomalyError, DeviceError, DTypeError, GradientError, MinirnnError, OptionError, ShapeError


def leaf(*values: Any, dtype: Any = "float64") -> mr.Tensor:
    return mr.tensor(list(values), requires_grad=True, dtype=dtype)


def values_of(x: mr.Tensor | None) -> np.ndarray:
    assert x is not None
    return x.numpy()


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
    assert values_of(x.grad).dtype == dtype
    np.testing.assert_allclose(values_of(x.grad), s * (1 + x.numpy() * (1 - s)), rtol=1e-6)


@pytest.mark.parametrize(
    "function", [swish, lambda x: swish(x, 2.0), lambda x: swish(x, beta=0.5), cube, lambda x: cube(x.reshape(3, 1).T)]
)
def test_gradcheck_of_one_argument(function: Any) -> None:
    assert mr.gradcheck(function, [leaf(0.3, -1.2, 2.0)])


@pytest.mark.parametrize("function", [outer, sum_and_product])
def test_gradcheck_of_two_arguments(function: Any) -> None:
    assert mr.gradcheck(function, [leaf(0.3, -1.2, 2.0), leaf(0.7, 0.1, -0.4)])


def test_gradcheck_finds_a_wrong_gradient() -> None:
    @mr.operation
    def doubled(x: Any) -> Any:
        return 2 * x, lambda g: g

    with pytest.raises(GradientError, match="by backward"):
        mr.gradcheck(doubled, [leaf(1.0)])


def test_numba_kernels_get_contiguous_arrays_of_the_tensors_type(dtype: np.dtype) -> None:
    x = mr.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True, dtype=dtype)
    y = cube(x.T)
    np.testing.assert_array_equal(y.numpy(), (x.numpy() ** 3).T)
    (y * y).sum().backward()
    np.testing.assert_allclose(values_of(x.grad), 6 * x.numpy() ** 5, rtol=1e-6)

    @mr.operation
    def checked(x: Any) -> Any:
        assert x.flags.c_contiguous

        def gradients(g: Any) -> Any:
            assert g.flags.c_contiguous
            return g

        return x + 0, gradients

    checked(x.T).T.sum().backward()


def test_one_output_of_several_is_used_the_others_have_gradients_of_zeros() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    total, product = sum_and_product(a, b)
    product.sum().backward()
    np.testing.assert_array_equal(values_of(a.grad), [3.0, 4.0])
    np.testing.assert_array_equal(values_of(b.grad), [1.0, 2.0])
    total, product = sum_and_product(a, b)
    (total * 10).sum().backward()
    np.testing.assert_array_equal(values_of(a.grad), [13.0, 14.0])


def test_none_is_no_gradient() -> None:
    @mr.operation
    def first(a: Any, b: Any) -> Any:
        return a * 1, lambda g: (g, None)

    a, b = leaf(1.0), leaf(2.0)
    first(a, b).backward()
    assert values_of(a.grad).tolist() == [1.0]
    assert b.grad is None


def test_one_array_as_several_gradients_is_not_shared() -> None:
    @mr.operation
    def add(a: Any, b: Any) -> Any:
        return a + b, lambda g: (g, g)

    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = add(a, b)
    (add(y, y) + y).sum().backward()
    assert values_of(a.grad).tolist() == values_of(b.grad).tolist() == [3.0, 3.0]
    a.grad.data[:] = 0  # type: ignore[union-attr]
    assert values_of(b.grad).tolist() == [3.0, 3.0]


def test_gradient_that_is_a_view_of_an_argument_is_copied() -> None:
    @mr.operation
    def half_square(x: Any) -> Any:
        return np.sum(x * x) / 2, lambda g: x

    x = leaf(1.0, 2.0)
    half_square(x).backward()
    half_square(x).backward()
    assert values_of(x.grad).tolist() == [2.0, 4.0]
    assert x.numpy().tolist() == [1.0, 2.0]


def test_broadcast_view_and_other_float_type_are_accepted_as_gradients() -> None:
    @mr.operation
    def total(x: Any) -> Any:
        return x.sum(), lambda g: np.broadcast_to(g.astype(np.float64), x.shape)

    x = leaf(1.0, 2.0, dtype="float32")
    y = total(x)
    assert y.shape == ()
    (y * y).backward()
    assert values_of(x.grad).tolist() == [6.0, 6.0]
    assert values_of(x.grad).dtype == np.float32


def test_integer_outputs_have_no_gradient() -> None:
    @mr.operation
    def largest(x: Any) -> Any:
        at = x.argmax()

        def gradients(g: Any, g_at: Any) -> Any:
            assert not g_at.any()
            dx = np.zeros_like(x)
            dx[at] = g
            return dx

        return (x[at], at), gradients

    x = leaf(1.0, 5.0, 2.0)
    with mr.detect_anomaly():
        value, at = largest(x)
        value.backward()
    assert value.item() == 5
    assert not at.requires_grad
    assert x[at].item() == 5
    assert values_of(x.grad).tolist() == [0.0, 1.0, 0.0]


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
    assert values_of(x.grad).tolist() == [3.0, 3.0]


def test_gradients_are_of_the_tensor_arguments_alone() -> None:
    @mr.operation
    def power(x: Any, exponent: int, scale: Any) -> Any:
        y = x**exponent
        return scale * y, lambda g: (g * scale * exponent * x ** (exponent - 1), np.sum(g * y))

    assert mr.gradcheck(
        lambda x, scale: power(x, 3, scale), [leaf(1.5, 0.5), mr.tensor(2.0, requires_grad=True, dtype="float64")]
    )
    x = leaf(1.0, 2.0)
    power(x, 2, mr.tensor(3.0, dtype="float64")).sum().backward()  # the gradient of a constant is ignored
    assert values_of(x.grad).tolist() == [6.0, 12.0]


def test_integer_tensors_are_arguments_without_a_gradient() -> None:
    @mr.operation
    def rows(table: Any, index: Any) -> Any:
        def gradients(g: Any) -> Any:
            d = np.zeros_like(table)
            np.add.at(d, index, g)
            return d, None

        return table[index], gradients

    table = mr.tensor(np.eye(3), requires_grad=True, dtype="float64")
    rows(table, mr.tensor([2, 2, 0])).sum().backward()
    assert values_of(table.grad)[:, 0].tolist() == [1.0, 0.0, 2.0]


def test_without_tensors_the_result_is_a_tensor() -> None:
    y = swish(np.array([0.0, 1.0]))
    assert isinstance(y, mr.Tensor)
    assert not y.requires_grad


def test_nothing_is_recorded_without_need() -> None:
    assert not swish(mr.tensor([1.0])).requires_grad
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
    x = leaf(0.3, -1.2)
    swish(cube(x)).sum().backward()
    expected = values_of(x.grad).copy()
    x.grad = None
    mr.recompute(lambda x: swish(cube(x)), x).sum().backward()
    np.testing.assert_array_equal(values_of(x.grad), expected)


def test_detect_anomaly_names_the_operation() -> None:
    @mr.operation
    def root(x: Any) -> Any:
        with np.errstate(all="ignore"):
            return np.sqrt(x), lambda g: g / (2 * np.sqrt(x)) * 0

    with mr.detect_anomaly():
        with pytest.raises(AnomalyError, match="root made a NaN"):
            root(leaf(-1.0))
        y = root(leaf(0.0))
        with pytest.raises(AnomalyError, match="the gradient of root made a NaN"):
            y.backward()


def test_on_every_device(device: str) -> None:
    @mr.operation
    def square(x: Any) -> Any:
        return x * x, lambda g: g * x * 2

    x = mr.tensor([1.0, -2.0], requires_grad=True, device=device)
    y = square(x)
    assert y.device == device
    y.sum().backward()
    assert values_of(x.grad).tolist() == [2.0, -4.0]


# ------------------------------------------------------------------------------------------------ what can be wrong


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (np.ones(2), OptionError, r"wrong: expected \(result, gradients\), an array and a function, got ndarray"),
        (None, OptionError, r"wrong: expected \(result, gradients\), an array and a function, got None"),
        ((np.ones(2), np.ones(2)), OptionError, r"got \(ndarray, ndarray\)"),
        ((2.0, lambda g: g), DTypeError, "wrong: the result: expected an array on 'cpu', got float"),
        (([1.0], lambda g: g), DTypeError, "expected an array on 'cpu', got list"),
        ((mr.tensor([1.0]), lambda g: g), DTypeError, "expected an array on 'cpu', got Tensor"),
        (((np.ones(2), None), lambda g: g), DTypeError, "expected an array on 'cpu', got None"),
        ((np.ones(2, complex), lambda g: g), DTypeError, "wrong: the result: dtype complex128 is not supported"),
        ((np.array(["a"]), lambda g: g), DTypeError, "wrong: the result: dtype <U1 is not supported"),
    ],
)
def test_wrong_result(result: Any, error: type[MinirnnError], message: str) -> None:
    @mr.operation
    def wrong(x: Any) -> Any:
        return result

    with pytest.raises(error, match=message):
        wrong(leaf(1.0))


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
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
    ],
)
def test_wrong_gradients(made: Any, error: type[MinirnnError], message: str) -> None:
    @mr.operation
    def wrong(a: Any, b: Any) -> Any:
        return a + b, lambda g: made

    y = wrong(leaf(1.0, 2.0, 3.0), leaf(1.0, 2.0, 3.0))
    with pytest.raises(error, match=message):
        y.sum().backward()


def test_tensor_by_keyword_is_an_error_not_a_lost_gradient() -> None:
    with pytest.raises(OptionError, match="swish: beta is a tensor given by keyword; tensor arguments are positional"):
        swish(leaf(1.0), beta=leaf(1.0))


def test_tensors_on_two_devices(gpu: str) -> None:
    with pytest.raises(DeviceError, match="sum_and_product: inputs on cpu and cuda"):
        sum_and_product(mr.tensor([1.0]), mr.tensor([1.0], device=gpu))
