"""The recorded outputs, computed again."""

from __future__ import annotations

import numpy as np

from minirnn.export.numpy_program.data import BOUND, RECORD
from minirnn.export.numpy_program.many_to_many import replay


def example() -> str:  # if bare
    """Some output."""
    return f"the recorded input gives {replay(RECORD).ravel()[:5]} ..."


def self_test() -> bool:
    """Print the largest difference from the outputs that minirnn recorded; return whether it is within the bound."""
    expected = RECORD["output"]
    difference = float(np.abs(replay(RECORD) - expected).max() / max(1.0, np.abs(expected).max()))
    print(f"largest difference from the recorded outputs: {difference:.1e}, at most {BOUND:g} expected")
    return difference <= BOUND
