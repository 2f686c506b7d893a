"""The catalog: what is listed is well formed, and a download is the published file or an error that says what to do."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from minirnn.data import catalog
from minirnn.data.catalog import Corpus, download, entries, find
from minirnn.data.sources import BUILT_IN
from minirnn.errors import DataError, OptionError

DATA = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    """``/good`` is DATA, ``/short`` and ``/long`` are not, ``/cut`` ends early, ``/away`` leads to plain http."""

    def do_GET(self) -> None:
        bodies = {"good": DATA, "short": DATA[:-1], "long": DATA + b"x", "other": DATA[::-1], "cut": DATA[:1000]}
        body = bodies.get(self.path.strip("/").removesuffix(".txt"))
        if self.path == "/away.txt":
            self.send_response(302)
            self.send_header("Location", "http://example.com/good.txt")
            self.end_headers()
        elif body is None:
            self.send_error(404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA) if self.path == "/cut.txt" else len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server on this machine whose files are the catalog."""
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"http://127.0.0.1:{http.server_port}"
        names = ("good", "short", "long", "other", "cut", "away", "missing")
        checksum = hashlib.sha256(DATA).hexdigest()
        listed = [Corpus(n, "char", n, "MIT", f"{address}/{n}.txt", len(DATA), checksum) for n in names]
        monkeypatch.setattr(catalog, "CORPORA", listed)
        yield address
        http.shutdown()
        thread.join()


def test_entries_are_unique_and_complete() -> None:
    assert len({corpus.name for corpus in entries()}) == len(entries())
    assert {corpus.name for corpus in entries() if corpus.built_in} == set(BUILT_IN)
    for corpus in entries():
        assert corpus.description
        assert corpus.license
        if not corpus.built_in:
            assert corpus.url.startswith("https://")
            assert corpus.size > 0
            assert len(bytes.fromhex(corpus.sha256)) == 32
    assert find("tinyshakespeare").filename == "tinyshakespeare.txt"
    assert find("airline-passengers").filename == "airline-passengers.csv"


def test_unknown_and_built_in_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"corpus: expected one of .*; did you mean 'tinyshakespeare'\?"):
        find("tinyshakespear")
    with pytest.raises(DataError, match="@python is built in and needs no download"):
        download("@python", tmp_path)


@pytest.mark.parametrize("there", [False, True])
def test_download_writes_the_published_file_once(server: str, tmp_path: Path, there: bool) -> None:
    calls: list[tuple[int, int]] = []
    path = tmp_path / "new" / "good.txt"
    if there:
        path.parent.mkdir()
        path.write_bytes(DATA)
    assert download("good", tmp_path / "new", lambda *call: calls.append(call)) == path
    assert path.read_bytes() == DATA
    assert [p.name for p in path.parent.iterdir()] == ["good.txt"]
    if there:
        assert not calls
    else:
        assert calls[-1] == (len(DATA), len(DATA))
        assert calls == sorted(calls)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "expected 256000 bytes, got 255999"),
        ("long", "expected 256000 bytes, got more"),
        ("cut", "expected 256000 bytes, got 1000"),
        ("other", "is not the file that was published as other"),
        ("missing", r"missing\.txt: the server answered 404 Not Found"),
        ("away", r"http://example\.com/good\.txt: expected an https address"),
    ],
)
def test_download_refuses_any_other_file(server: str, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        download(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_download_leaves_a_different_file_alone(server: str, tmp_path: Path) -> None:
    for mine in (b"my own work", DATA[::-1]):
        (tmp_path / "good.txt").write_bytes(mine)
        with pytest.raises(DataError, match=r"good\.txt exists and is not good as published; move it away or choose"):
            download("good", tmp_path)
        assert (tmp_path / "good.txt").read_bytes() == mine


def test_download_says_what_to_do_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        url = f"http://127.0.0.1:{http.server_port}/good.txt"  # closed when it is asked for
    monkeypatch.setattr(catalog, "CORPORA", [Corpus("good", "char", "", "MIT", url, 1, "0" * 64)])
    expected = rf"cannot reach 127\.0\.0\.1 \(.*\); download {url} by hand, or use @python, which needs no network"
    with pytest.raises(DataError, match=expected):
        download("good", tmp_path)
    monkeypatch.setattr(catalog, "CORPORA", [Corpus("good", "char", "", "MIT", "http://example.com/a", 1, "0" * 64)])
    with pytest.raises(DataError, match="expected an https address"):
        download("good", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        download("good", tmp_path / "file")
