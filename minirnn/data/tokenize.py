"""Split sentences into tokens, and join tokens to sentences."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from minirnn.errors import DataError
from minirnn.validation import check_choice

GLUE = "\uffed"  # halfwidth black square
"""On the side of a token where no space stood."""

RULES = ("space", "char", "word")


@dataclass(frozen=True)
class Tokenizer:
    """Splits text into tokens by one of three rules, "space", "char" or "word", and joins tokens to text.

    Text is first normalized: lower case where ``lower`` is set, Unicode normal form C, runs of white space as one
    space, none at the ends. For every text ``join(split(text)) == normalize(text)``.

    ``space``: tokens are separated by spaces.

    ``char``: every character is a token, spaces too.

    ``word``: words and symbols.

    - A word is a run of letters, numbers and underscores (Python's ``\\w``) with the combining marks and joiners
      that follow them (the word characters of UTS #18, annex C).
    - A word followed directly by an apostrophe (``'`` or U+2019) and another word keeps the apostrophe:
      ``J'ai`` gives ``J'`` ``ai``; the next word is written without a space.
    - Any other run of characters without a space is one symbol, marked with ``￭`` (U+FFED) on each side where it
      touches a word: ``No, 3.14 (or so)!`` gives ``No`` ``￭,`` ``3`` ``￭.￭`` ``14`` ``(￭`` ``or`` ``so`` ``￭)!``.
    - A ``￭`` in the text itself counts as a space.

    Raises:
        OptionError: there is no such rule.

    >>> Tokenizer().split("It's 3.14!")
    ["It'", 's', '3', '￭.￭', '14', '￭!']
    """

    rule: str = "word"
    lower: bool = False

    def __post_init__(self) -> None:
        check_choice("tokenizer: rule", self.rule, RULES)

    def normalize(self, text: str) -> str:
        """The text as :meth:`split` sees it."""
        text = unicodedata.normalize("NFC", text.lower() if self.lower else text)
        if self.rule == "word":
            text = text.replace(GLUE, " ")
        return " ".join(text.split())

    def split(self, text: str) -> list[str]:
        """The tokens of ``text``."""
        text = self.normalize(text)
        if self.rule == "space":
            return text.split()
        if self.rule == "char":
            return list(text)
        return [_marked(match) if match["symbol"] else match[0] for match in _word_pattern().finditer(text)]

    def join(self, tokens: Iterable[str]) -> str:
        """The text of ``tokens``, which need not come from :meth:`split`."""
        if self.rule == "space":
            return " ".join(tokens)
        if self.rule == "char":
            return "".join(tokens)
        return "".join(join_words(tokens))

    def to_config(self) -> dict[str, str | bool]:
        """A description for JSON."""
        return {"rule": self.rule, "lower": self.lower}

    @classmethod
    def from_config(cls, config: object) -> Self:
        """Return the tokenizer that ``to_config`` described; a :class:`DataError` if it describes none."""
        rule, lower = (config.get("rule"), config.get("lower")) if isinstance(config, dict) else (None, None)
        if rule not in RULES or not isinstance(lower, bool):
            raise DataError(f"tokenizer: expected a rule ({', '.join(RULES)}) and lower, a bool, got {config!r}")
        return cls(rule, lower)


def join_words(tokens: Iterable[str], before: str = "\n") -> Iterator[str]:
    """The text of each of consecutive ``tokens`` of the rule ``word``, with the space before it where there is one.

    Args:
        tokens: a line break may be one of them.
        before: the token before them.
    """
    for token in tokens:
        touches = before.endswith((GLUE, "\n")) or _ELIDED.match(before)
        yield " " * (not touches and not token.startswith((GLUE, "\n"))) + token.strip(GLUE)
        before = token


_ELIDED = re.compile(r"\w.*['\u2019]\Z", re.DOTALL)  # a word with its apostrophe; symbols hold no \w


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """Words and symbols; built at the first use, for finding the combining marks takes a moment."""
    characters = map(chr, range(sys.maxunicode + 1))
    extending = "".join(c for c in characters if unicodedata.category(c)[0] == "M") + "\u200c\u200d"
    return re.compile(rf"\w[\w{extending}]*(?:['\u2019](?=\w))?|(?P<symbol>[^\w\s]+)")


def _marked(symbol: re.Match[str]) -> str:
    """A symbol with the mark on each side where it touches a word."""
    text, start, stop = symbol.string, symbol.start(), symbol.end()
    left = GLUE if start > 0 and text[start - 1] != " " else ""
    right = GLUE if stop < len(text) and text[stop] != " " else ""
    return left + symbol[0] + right
