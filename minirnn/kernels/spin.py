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

LINE = 8
"""Words (int64) of a cache line: what different threads write should lie in different ones."""


@intrinsic
def load_atomic(typing_context: Any, words: Any, index: Any) -> Any:
    """words[index] as it is in memory now, never from a register."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.load_atomic(builder.gep(data, [args[1]]), "acquire", 8)

    return types.int64(words, types.intp), generate


@intrinsic
def store_atomic(typing_context: Any, words: Any, index: Any, value: Any) -> Any:
    """words[index] = value, after all that was written before: a thread that loads it sees that too."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        builder.store_atomic(args[2], builder.gep(data, [args[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(words, types.intp, types.int64), generate


@jit
def spin_while_equal(words: np.ndarray, index: int, value: int, spins: int) -> bool:
    """Read ``words[index]`` (int64) up to ``spins`` times; True as soon as it is not ``value``, else False."""
    for _ in range(spins):  # noqa: SIM110 - any() would be a generator
        if load_atomic(words, index) != value:
            return True
    return False


@jit(inline=True)
def spin_until(words, index, value, spins):  # type: ignore[no-untyped-def]
    """Read ``words[index]`` (int64) up to ``spins`` times; True as soon as it is at least ``value``, else False."""
    for _ in range(spins):  # noqa: SIM110 - as above
        if load_atomic(words, index) >= value:
            return True
    return False


if DISABLED:  # plain Python threads sleep

    def _sleep(words: np.ndarray, index: int, value: int, spins: int) -> bool:
        return False

    spin_while_equal = _sleep
