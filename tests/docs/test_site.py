"""The documentation site: its pages, their conversion from GitHub's Markdown, the checks of what is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.docs.built_site import find_problems
from tests.docs.page import DOCS
from tests.docs.reference import PAGES
from tests.docs.site_hooks import EXTRA_PAGES, ROOT, convert

from reelhaul.remedies import REMEDIES
from reelhaul.type.v1.error_reason_pb2 import ErrorReason

#: Folders whose pages the navigation has by their README.
_BY_INDEX = ("runbooks", "decisions")


@pytest.mark.parametrize("name", PAGES)
def test_generated_references_are_up_to_date(name: str) -> None:
    """A reference says what the protos, the routes and the reasons of this build say."""
    assert (DOCS / name).read_text() == PAGES[name](), f"run make references and commit docs/{name}"


def test_every_reason_has_a_remedy() -> None:
    """Whoever meets an error finds what to do about it."""
    assert REMEDIES.keys() == {name for name, number in ErrorReason.items() if number}


def test_every_page_is_in_the_navigation() -> None:
    """A page that nobody can reach from the navigation is a mistake: add it to mkdocs.yml."""
    # As text: the file has a tag of Python that safe loaders refuse.
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2].partition("\nnot_in_nav:")[0]
    listed = re.findall(r"[\w/.-]+\.md", navigation)
    assert len(listed) == len(set(listed))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    reachable = {
        page for page in pages if not (page.startswith(_BY_INDEX) and not page.endswith("README.md"))
    }
    assert reachable - set(listed) == set()
    assert set(listed) - pages <= set(EXTRA_PAGES.values())


def test_pages_outside_of_the_folder_exist() -> None:
    """The site takes pages of the repository that exist."""
    assert [source for source in EXTRA_PAGES if not (ROOT / source).exists()] == []


@pytest.mark.parametrize(
    ("text", "source", "expected"),
    [
        ("[a](storage.md#links)", "docs/webhooks.md", "[a](storage.md#links)"),
        ("[a](../CHANGELOG.md)", "docs/operations.md", "[a](CHANGELOG.md)"),
        ("[a](docs/storage.md#links)", "CONTRIBUTING.md", "[a](storage.md#links)"),
        ("[a](runbooks)", "docs/operations.md", "[a](runbooks/README.md)"),
        ("[a](../storage.md)", "docs/how-to/keys.md", "[a](../storage.md)"),
        ("[the file](../compose.yaml)", "docs/containers.md", "the file (`compose.yaml`)"),
        ("[compose.yaml](../compose.yaml)", "docs/containers.md", "`compose.yaml`"),
        ("[a](https://site.example/x) [b](#c)", "docs/storage.md", "[a](https://site.example/x) [b](#c)"),
    ],
)
def test_links_lead_to_pages_of_the_site(text: str, source: str, expected: str) -> None:
    """A link of the repository is one of the site, or the path of a file that the site does not have."""
    assert f"{expected}\n" == convert(text, source)


def test_fences_and_lists_are_converted() -> None:
    """Fences lose what tells tests how to run them, and lists are indented as Python-Markdown needs it."""
    text = (
        '1. one\n   ```sh skip="needs a cluster"\n   [a](../x)\n\n   ```\n\n   two\n- a\n  b\n\n'
        '```ini file=".env"\nA=1\n```\n'
    )
    assert convert(text, "docs/x.md") == (
        "1. one\n    ```sh\n    [a](../x)\n\n    ```\n\n    two\n- a\n    b\n\n```ini\nA=1\n```\n"
    )


def test_built_pages_are_checked(tmp_path: Path) -> None:
    """What loads from another server is reported, and a link that leads nowhere; links elsewhere are not."""
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#no">b</a><a href="c.html">c</a><a href="#top">top</a>'
        '<script src="https://cdn.example/x.js"></script><a href="https://site.example/">elsewhere</a>'
        "<style>@import 'https://fonts.example/f.css';</style>"
    )
    (tmp_path / "b.html").write_text('<img src="a.html">')
    (tmp_path / "s.css").write_text("a{background:url(//cdn.example/p.png)}")
    assert find_problems(tmp_path) == [
        "a.html: loads https://cdn.example/x.js",
        "a.html: loads https://fonts.example/f.css",
        "s.css: loads //cdn.example/p.png",
        "a.html: leads nowhere: b.html#no",
        "a.html: leads nowhere: c.html",
    ]
