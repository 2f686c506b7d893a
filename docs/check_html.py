"""Check built pages: nothing is loaded from the network, and links within the documentation lead somewhere.

python docs/check_html.py docs/_build/html
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"link": "href", "object": "data"} | dict.fromkeys(
    ("audio", "embed", "iframe", "img", "script", "source"), "src"
)
EXTERNAL = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
CSS_URL = re.compile(r"(?:url\(|@import\s+)[\"']?\s*([^\"')\s]+)")


class Page(HTMLParser):
    """What a page loads, what it links to, and the names of its places."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADED and (target := values.get(LOADED[tag])):
            self.loaded.append(target)
        if tag == "a" and (target := values.get("href")):
            self.links.append(target)
        if place := values.get("id"):
            self.ids.add(place)


def problems(root: Path) -> list[str]:
    """Everything that is wrong with the pages under ``root``."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(root.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        name = path.relative_to(root)
        found += [f"{name}: loads {target}" for target in page.loaded if EXTERNAL.match(target)]
        for target in {*page.links, *page.loaded}:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not file.exists():
                found.append(f"{name}: {target} does not exist")
            elif parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].ids:
                found.append(f"{name}: {target}: no such place in the page")
    for path in [*root.rglob("*.css"), *root.rglob("*.svg")]:
        urls = CSS_URL.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(root)}: loads {url}" for url in urls if EXTERNAL.match(url)]
    return found


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    found = problems(root)
    print("\n".join(found) or f"{sum(1 for _ in root.rglob('*.html'))} pages load nothing from the network")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
