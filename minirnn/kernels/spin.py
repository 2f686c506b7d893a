"""Waiting without sleeping: a thread that is about to be needed again looks at a word of memory for a while.

Waking a sleeping thread costs tens of microseconds, as much as many a kernel. The look itself runs without the
GIL, so whoever will write the word is not held up.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from minirnn.kernels.jit import DISABLED, jit


@intrinsic
def _load(typing_context: Any, words: Any, index: Any) -> Any:
    """words[index] as it is in memory now, never from a register."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.gep(data, [args[1]])
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(words, types.intp), generate


@jit
def wait_while(words: Any, index: int, value: int, looks: int) -> bool:
    """Look up to ``looks`` times whether words[index] (int64) is still ``value``; False where it never changed."""
    for _ in range(looks):  # noqa: SIM110 - any() would be a generator
        if _load(words, index) != value:
            return True
    return False


if DISABLED:  # plain Python threads sleep

    def _sleep(words: Any, index: int, value: int, looks: int) -> bool:
        return False

    wait_while = _sleep
