"""The fenced code blocks of Markdown pages, as ``tests/test_docs.py`` and ``docs/make_pictures.py`` run them.

The word after the opening fence is the language. What follows it says what is done with the block:

- ``file=NAME``: its text is saved as NAME before later blocks run.
- ``not-run: REASON``: it is not run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```(\w*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block; ``line`` is the number of lines before its code."""

    language: str
    code: str
    line: int
    file: str | None = None
    not_run: str | None = None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for match in _BLOCK.finditer(text):
        language, info, code = match.groups()
        kind, _, value = info.partition("=" if info.startswith("file=") else ":")
        blocks.append(
            Block(
                language,
                code,
                text[: match.start(3)].count("\n"),
                file=value if kind == "file" else None,
                not_run=value.strip() if kind == "not-run" else None,
            )
        )
    return blocks
