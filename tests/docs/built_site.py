"""Checks of the built site: ``python -m tests.docs.built_site dist/site``.

It needs nothing of other servers, and each link within it leads to a page and a heading that exist.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes by which a page loads something at once.
_LOADING = {
    "script": "src",
    "img": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "iframe": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
    "image": "href",
    "use": "href",
}
_CSS_URL = re.compile(r"""(?:url\(|@import\s+)\s*["']?((?:https?:)?//[^"')\s]+)""")


@dataclass
class Page:
    """The links of a page, and the anchors that links may name."""

    loads: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self._page = page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if (name := _LOADING.get(tag)) and name in values:
            self._page.loads.append(values[name])
        if tag == "a" and "href" in values:
            self._page.links.append(values["href"])
        self._page.loads += _CSS_URL.findall(values.get("style", ""))
        self._page.anchors |= {values[name] for name in ("id", "name") if name in values}


def read_page(text: str) -> Page:
    """Return what the page *text* loads, links to, and offers as anchors."""
    page = Page()
    _Reader(page).feed(text)
    page.loads += _CSS_URL.findall(text)
    return page


def find_problems(site: Path) -> list[str]:
    """Return what is wrong with the pages, styles and pictures in *site*, one line each."""
    pages = {path: read_page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    problems = [
        f"{path.relative_to(site)}: loads {target}"
        for path, page in pages.items()
        for target in page.loads
        if _is_external(target)
    ]
    for path in [*site.rglob("*.css"), *site.rglob("*.svg")]:
        problems += [f"{path.relative_to(site)}: loads {url}" for url in _CSS_URL.findall(path.read_text())]
    for path, page in pages.items():
        # The page for missing ones has absolute links, because it is shown at any path.
        if path.name != "404.html":
            problems += [
                f"{path.relative_to(site)}: leads nowhere: {target}"
                for target in [*page.links, *page.loads]
                if not _is_external(target) and not _leads_somewhere(path, target, pages)
            ]
    return problems


def _is_external(target: str) -> bool:
    url = urlsplit(target)
    return bool(url.netloc) or url.scheme not in ("", "data")


def _leads_somewhere(path: Path, target: str, pages: dict[Path, Page]) -> bool:
    url = urlsplit(target)
    if url.scheme == "data":
        return True
    file = (path.parent / unquote(url.path)).resolve() if url.path else path
    if file.is_dir():
        file /= "index.html"
    if not file.exists():
        return False
    return not url.fragment or file not in pages or unquote(url.fragment) in pages[file].anchors


def main() -> int:
    """Print the problems of the site that is named; return the exit code."""
    site = Path(sys.argv[1]).resolve()
    problems = find_problems(site)
    for problem in problems:
        print(problem, file=sys.stderr)
    count = len(list(site.rglob("*.html")))
    print(f"{count} pages, {len(problems)} problems" if problems else f"docs ok pages={count}")
    return 1 if problems or not count else 0


if __name__ == "__main__":
    sys.exit(main())
