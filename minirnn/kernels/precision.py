"""The number format in which float32 matrices are multiplied: float32, or bfloat16 with float32 sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minirnn.errors import OptionError
from minirnn.validation import check_choice

PRECISIONS = ("fp32", "bf16")

_current: ContextVar[str] = ContextVar("matmul_precision", default="fp32")


def check_precision(precision: str, device: str) -> str:
    """Return ``precision`` where ``device`` has such products.

    Raises:
        OptionError: it has not, or there is no such precision.
    """
    if check_choice("precision", precision, PRECISIONS) == "bf16":
        from minirnn.kernels.jit import DISABLED
        from minirnn.kernels.tile import cpu_features

        if device != "cpu":
            raise OptionError(f"precision: bf16 is for the CPU, got device {device}; use fp32")
        if not (DISABLED or "avx512bf16" in cpu_features()):
            raise OptionError(
                "precision: bf16 needs a CPU that multiplies bfloat16 (avx512_bf16); use fp32 on this one"
            )
    return precision


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Multiply float32 matrices in another precision inside the block: mixed-precision training.

    With ``"bf16"``, both operands of a product are rounded to bfloat16 (8 bits of significand, the range of float32),
    and its sums are float32; weights, states, gradients and everything elementwise remain float32. It applies to
    recurrent layers, linear layers and matrix products of a certain size, on the CPU and in the calling thread, in the
    forward as in the backward pass: call both inside the block. float64, attention, single steps and sampling are not
    affected. ``"fp32"``, the default, multiplies as exactly as float32 can.

    Like ``torch.set_float32_matmul_precision("medium")``, and ``jax.default_matmul_precision("bfloat16")``. Source:
    Kalamkar et al. 2019, "A Study of BFLOAT16 for Deep Learning Training".

    Raises:
        OptionError: the precision is unknown, or this CPU does not multiply bfloat16.

    >>> import minirnn as mr
    >>> with mr.matmul_precision("fp32"):
    ...     (mr.ones(2, 3) @ mr.ones(3, 1)).tolist()
    [[3.0], [3.0]]
    """
    token = _current.set(check_precision(precision, "cpu"))
    try:
        yield
    finally:
        _current.reset(token)


def uses_bfloat16(dtype: np.dtype) -> bool:
    """Whether matrices of ``dtype`` are to be multiplied as bfloat16."""
    return _current.get() == "bf16" and dtype == np.float32
