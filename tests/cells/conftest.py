"""Kernels as plain Python, for tests of many small cells: compiling each would take seconds."""

from __future__ import annotations

import pytest
from cell_paths import interpreted

from minirnn.kernels.cpu.kernel import Kernel


@pytest.fixture
def plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Generated kernels are run, not compiled, while the test lasts."""
    monkeypatch.setattr(Kernel, "compiled", property(interpreted))
