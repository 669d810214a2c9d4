"""Links of the pages: each names a file of the repository, and a heading in it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_PAGES = ("*.md", "docs/**/*.md", "services/*/*.md", "libs/*/*.md", "requirements/*.md")
_LINK = re.compile(r"\]\((?![a-z]+:)(?P<file>[^)#\s]*)(?:#(?P<heading>[^)\s]+))?\)")


def _headings(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of *page*."""
    anchors, in_block = set(), False
    for line in page.read_text().splitlines():
        if line.lstrip().startswith("```"):
            in_block = not in_block
        elif line.startswith("#") and not in_block:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip().lower())
            anchors.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return anchors


def _broken_links(page: Path) -> list[str]:
    broken = []
    for link in _LINK.finditer(page.read_text()):
        target = (page.parent / link["file"]).resolve() if link["file"] else page
        if not target.exists() or (link["heading"] and link["heading"] not in _headings(target)):
            broken.append(f"{page.name}: {link[0][2:-1]}")
    return broken


def test_links_between_pages_are_valid() -> None:
    """A reader who follows a link within the repository finds the page, and the heading that it names."""
    pages = [page for pattern in _PAGES for page in ROOT.glob(pattern)]
    assert len(pages) > 30
    assert [link for page in pages for link in _broken_links(page)] == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A link to a missing page or heading is reported, and one to a heading with code and a comma is not."""
    page = tmp_path / "page.md"
    page.write_text(
        "# JSON, with `curl`\n\n[a](#json-with-curl) [b](#json) [c](no.md) [d](https://site.example/x.md)\n"
    )
    assert _broken_links(page) == ["page.md: #json", "page.md: no.md"]
