"""Known corpora: what is built in, and public files with their address, size and checksum."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, build_opener

from minirnn.errors import DataError
from minirnn.validation import check_choice

_TIMEOUT, _BLOCK = 30.0, 1 << 16  # seconds without an answer, and bytes read at once
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Corpus:
    """A corpus of the catalog.

    Attributes:
        name, description, license: the name that :func:`find` takes; one line for a list; its publisher's terms.
        task: what it is for, in the words of the tasks: "char" (text) or "forecaster" (a CSV file).
        url, size, sha256: address, bytes and checksum (64 hexadecimal digits) of the file; None where the corpus is
            built in, so that its name can be given in place of a file.
    """

    name: str
    task: Literal["char", "forecaster"]
    description: str
    license: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None

    @property
    def built_in(self) -> bool:
        """Whether the corpus needs no download."""
        return self.url is None

    @property
    def filename(self) -> str:
        """Name of the file that :func:`download` writes."""
        return f"{self.name}{Path(self.url or '').suffix}"


_GITHUB = "https://raw.githubusercontent.com"
CORPORA = (
    Corpus("@python", "char", "source code of Python's standard library, a few megabytes", "PSF-2.0"),
    Corpus(
        "tinyshakespeare",
        "char",
        "plays of Shakespeare, 1.1 million characters, 65 different ones",
        "public domain",
        f"{_GITHUB}/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        1_115_394,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    Corpus(
        "names",
        "char",
        "32,033 first names, one per line (makemore)",
        "MIT",
        f"{_GITHUB}/karpathy/makemore/master/names.txt",
        228_145,
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    ),
    Corpus(
        "airline-passengers",
        "forecaster",
        "monthly airline passengers in thousands, 1949 to 1960 (Box & Jenkins, series G)",
        "no licence stated",
        f"{_GITHUB}/jbrownlee/Datasets/master/airline-passengers.csv",
        2_180,
        "8cb51be753a718d9be5d76d7e238cc224792754676adc21faa59e954b0201621",
    ),
    Corpus(
        "monthly-sunspots",
        "forecaster",
        "monthly sunspot numbers of Zurich, 1749 to 1983 (Andrews & Herzberg)",
        "no licence stated",
        f"{_GITHUB}/jbrownlee/Datasets/master/monthly-sunspots.csv",
        45_039,
        "c4ec8cc57d9f6fb6ecdb3e1f37f25b6f4badd5124c55931052b0cd2fc3bc71f3",
    ),
    Corpus(
        "daily-min-temperatures",
        "forecaster",
        "daily minimum temperatures of Melbourne in degrees Celsius, 1981 to 1990",
        "no licence stated",
        f"{_GITHUB}/jbrownlee/Datasets/master/daily-min-temperatures.csv",
        67_921,
        "8b9de63ed6789492bf497625e7f9beb96a63d367b4b0a21754006f749fa5e5da",
    ),
)
"""Every corpus of the catalog; files published under an address whose bytes the checksum pins."""


def entries() -> list[Corpus]:
    """All corpora of the catalog, the built-in ones first."""
    return list(CORPORA)


def find(name: str) -> Corpus:
    """Return the corpus called ``name``; raise :class:`OptionError` with the closest name if there is none."""
    check_choice("corpus", name, [corpus.name for corpus in CORPORA])
    return next(corpus for corpus in CORPORA if corpus.name == name)


def download(name: str, folder: str | Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Download the corpus called ``name`` into ``folder``, or find it there, and check its size and checksum.

    The file appears under its name only when it is complete and correct. A file that is already there is returned
    where it is the right one, and left alone otherwise.

    Args:
        name, folder: a name of the catalog; where the file goes, created where it does not exist.
        progress: called with the bytes received and the bytes in all after every block.

    Returns:
        Path of the file.

    Raises:
        OptionError: there is no corpus of that name.
        DataError: the corpus is built in; the server cannot be reached or refuses; the file is not the published
            one; a different file of its name is in ``folder``; the file cannot be written.
    """
    corpus = find(name)
    if corpus.url is None:
        raise DataError(f"{name} is built in and needs no download; give its name in place of a file")
    path = Path(folder) / corpus.filename
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists():
            if path.stat().st_size == corpus.size and _sha256(path.read_bytes()) == corpus.sha256:
                return path
            raise DataError(f"{path} exists and is not {name} as published; move it away or choose another folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = _fetch(corpus.url, corpus.size or 0, progress)
        if _sha256(data) != corpus.sha256:
            raise DataError(f"{corpus.url} is not the file that was published as {name} (its SHA-256 differs)")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from None
    return path


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        raise DataError(f"{url}: expected an https address")


class _SecureRedirects(HTTPRedirectHandler):
    """Refuses redirects to addresses without https."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(url: str, size: int, progress: Callable[[int, int], None] | None) -> bytes:
    """The ``size`` bytes at ``url``; the corpora are small enough for memory."""
    _check_scheme(url)
    data = bytearray()
    try:
        with build_opener(_SecureRedirects).open(url, timeout=_TIMEOUT) as answer:
            while len(data) <= size and (block := answer.read(_BLOCK)):
                data += block
                if progress is not None:
                    progress(len(data), size)
    except HTTPError as error:
        raise DataError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:  # URLError is an OSError
        reason = getattr(error, "reason", None) or error
        hint = f"download {url} by hand, or use @python, which needs no network"
        raise DataError(f"cannot reach {urlsplit(url).hostname} ({reason}); {hint}") from None
    if len(data) != size:
        raise DataError(f"{url}: expected {size} bytes, got {'more' if len(data) > size else len(data)}")
    return bytes(data)
