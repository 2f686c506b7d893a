"""Gradients against central differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from minirnn.autograd.tape import no_grad
from minirnn.autograd.tensor import Tensor
from minirnn.errors import DTypeError, GradientError


def gradcheck(
    fn: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Tensor | Sequence[Tensor],
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
) -> bool:
    """Compare every gradient of ``fn`` with (f(x + eps) - f(x - eps)) / (2 eps); return True or raise.

    Every element of every output is checked against every element of every input that requires a gradient.

    Args:
        fn: takes ``inputs``, returns a tensor or a sequence of tensors; must give the same values each time.
        inputs: tensors; those that require a gradient are checked, and must be float64 leaves.
        eps, atol, rtol: the step, and tolerances: |analytic - numeric| <= atol + rtol |numeric|.

    Raises:
        DTypeError: a checked input is not float64.
        GradientError: a gradient is wrong (the message says which, where, and both values), there is nothing to check,
            or a checked input was itself computed from others.

    >>> import minirnn as mr
    >>> mr.gradcheck(mr.tanh, mr.tensor([0.5, -1.0], requires_grad=True, dtype="float64"))
    True
    """
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [(n, t) for n, t in enumerate(given) if t.requires_grad]
    if not checked:
        raise GradientError("gradcheck: no input has requires_grad=True")
    for n, t in checked:
        if t.dtype != np.float64:
            raise DTypeError(f"gradcheck: input {n} is {t.dtype}; differences need float64")
        if t.node is not None:
            raise GradientError(
                f"gradcheck: expected leaf tensors, but input {n} was computed by {t.node.name} and would get no "
                "gradient; pass input.detach().requires_grad_()"
            )

    def outputs() -> list[Tensor]:
        result = fn(*given)
        return [result] if isinstance(result, Tensor) else [r for r in result if isinstance(r, Tensor)]

    def values() -> list[np.ndarray]:
        with no_grad():
            return [np.array(r.numpy(), dtype=np.float64) for r in outputs()]

    shapes = [r.shape for r in outputs()]
    numeric = [[np.zeros((*shape, *t.shape)) for _, t in checked] for shape in shapes]
    for k, (_, t) in enumerate(checked):
        for at in np.ndindex(t.shape):
            original = t.data[at].item()
            t.data[at] = original + eps
            above = values()
            t.data[at] = original - eps
            below = values()
            t.data[at] = original
            for o, (high, low) in enumerate(zip(above, below, strict=True)):
                numeric[o][k][(..., *at)] = (high - low) / (2 * eps)

    for o, shape in enumerate(shapes):
        for out_at in np.ndindex(shape):
            for t in given:
                t.grad = None
            result = outputs()[o]
            if result.requires_grad:  # else every gradient is 0, and the differences must be
                seed = np.zeros(shape)
                seed[out_at] = 1
                result.backward(seed)
            for k, (n, t) in enumerate(checked):
                analytic = np.zeros(t.shape) if t.grad is None else t.grad.numpy()
                expected = numeric[o][k][out_at]
                wrong = ~np.isclose(analytic, expected, rtol, atol, equal_nan=True)
                if wrong.any():
                    at = tuple(int(i) for i in np.argwhere(wrong)[0])
                    raise GradientError(
                        f"gradcheck: d output {o}{list(out_at)} / d input {n}{list(at)} is "
                        f"{analytic[at]} by backward and {expected[at]} by differences"
                    )
    for t in given:
        t.grad = None
    return True
