"""Waiting without sleeping, by a thread that is about to be needed again.

Waking a sleeping thread takes tens of microseconds, as long as many a kernel. The loop runs without the GIL, so it does
not hold up the thread that will write.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from minirnn.kernels.jit import DISABLED, jit


@intrinsic
def _load_atomic(typing_context: Any, words: Any, index: Any) -> Any:
    """words[index] as it is in memory now, never from a register."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(words, types.intp), generate


@jit
def spin_while_equal(words: np.ndarray, index: int, value: int, spins: int) -> bool:
    """Read ``words[index]`` (int64) up to ``spins`` times; True as soon as it is not ``value``, else False."""
    for _ in range(spins):  # noqa: SIM110 - any() would be a generator
        if _load_atomic(words, index) != value:
            return True
    return False


if DISABLED:  # plain Python threads sleep

    def _sleep(words: np.ndarray, index: int, value: int, spins: int) -> bool:
        return False

    spin_while_equal = _sleep
