"""What a program has of its own model; here only the names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

CELLS: dict[str, Callable[..., Any]] = {}
SIZES: dict[str, list[list[int]]] = {}
DTYPE = "float32"
WEIGHTS: dict[str, Any] = {}
RECORD: dict[str, np.ndarray] = {}
BOUND = 0.0
END = 0

CHARACTERS = ""
LABELS: list[str] = []
NUMBERS: dict[str, int] = {}
SOURCE_NUMBERS: dict[str, int] = {}
CHARACTER_NUMBERS: dict[str, int] = {}
TOKENS: list[str] = []
MAX_LENGTH = MAX_WORD_LENGTH = 0

COLUMNS: list[str] = []
MEAN: list[float] = []
STD: list[float] = []
SPREAD: list[float] = []
TARGET_MEAN = TARGET_STD = 0.0
SEQ_LENGTH = HORIZON = SEASON = FIRST_ROW = 0

STARTS: list[list[int]] = []
SHAPES: list[tuple[list[int], int]] = []
FREQUENCY = 0.0
