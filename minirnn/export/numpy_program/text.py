"""Tokens of a text, as :class:`minirnn.data.tokenize.Tokenizer` makes them."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterable

GLUE = "\uffed"  # on the side of a symbol where it touches a word


def normalize(text: str) -> str:
    """Normal form C, one space between words."""
    text = text.lower()  # if lower
    text = unicodedata.normalize("NFC", text)
    text = text.replace(GLUE, " ")  # if word
    return " ".join(text.split())


def split(text: str) -> list[str]:
    """The tokens of a text."""
    text = normalize(text)
    return text.split()  # if space
    return list(text)  # if char
    return [marked(match) if match["symbol"] else match[0] for match in pattern().finditer(text)]  # if word


@functools.cache
def pattern() -> re.Pattern[str]:
    """Words with their combining marks and an apostrophe before another word; and runs of symbols."""
    marks = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c)[0] == "M")
    return re.compile(rf"\w[\w{marks}\u200c\u200d]*(?:['\u2019](?=\w))?|(?P<symbol>[^\w\s]+)")


def marked(symbol: re.Match[str]) -> str:
    """A symbol with the mark on each side where it touches a word."""
    text, start, stop = symbol.string, symbol.start(), symbol.end()
    left = GLUE if start > 0 and text[start - 1] != " " else ""
    right = GLUE if stop < len(text) and text[stop] != " " else ""
    return left + symbol[0] + right


def join(tokens: Iterable[str]) -> str:
    """The text of tokens."""
    return " ".join(tokens)  # if space
    return "".join(tokens)  # if char
    parts, touches = list[str](), True  # if word
    for token in tokens:  # if word
        if not touches and not token.startswith(GLUE):  # if word
            parts.append(" ")  # if word
        parts.append(token.strip(GLUE))  # if word
        elided = re.match(r"\w.*['\u2019]\Z", token, re.DOTALL)  # if word
        touches = token.endswith(GLUE) or elided is not None  # if word
    return "".join(parts)  # if word
