"""``minirnn draw``: prints what ``minirnn.draw`` returns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from support import invoke, refusal

import minirnn as mr
from minirnn import tasks
from minirnn.runs import BEST


def test_drawings_of_a_run(trained: Callable[[str], Path]) -> None:
    run = trained("translator")
    model = tasks.load(run / BEST).model
    assert invoke("draw", str(run)).stdout == mr.draw(model) + "\n"
    assert invoke("draw", str(run / BEST), "--unfold", "2", "--dot").stdout == mr.draw(model, 2, "dot") + "\n"
    assert "no checkpoint" in refusal("draw", ".")
