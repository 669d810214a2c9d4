"""Hooks of mkdocs: the pages of this repository, which are written for GitHub, as pages of the site.

Pages outside of docs/ that others link to are part of the site too. Links to other files become their paths.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_SERVICES = ("gateway", "jobs", "fetcher", "storage")
#: Pages outside of docs/, by their path in the repository, and their paths in the site.
EXTRA_PAGES = {
    **{name: name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSES.md", "SECURITY.md")},
    **{f"services/{name}/README.md": f"services/{name}.md" for name in _SERVICES},
    "libs/reelhaul_transcoding/README.md": "libs/reelhaul_transcoding.md",
    "examples/README.md": "examples.md",
    "requirements/README.md": "requirements.md",
}
_SOURCES = {page: source for source, page in EXTRA_PAGES.items()}
_TARGET = r"\((?![a-z]+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)"
_LINK = re.compile(rf"(?P<mark>!?)\[(?P<text>[^\]]*)\]{_TARGET}")
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+)(?P<info>[^`]*)$")
_LIST_ITEM = re.compile(r"^(?:[-*]|\d+\.) ")


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """Add the pages outside of docs/ to those of the site."""
    from mkdocs.structure.files import File

    for source, page in EXTRA_PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of *page* as Python-Markdown and the links of the site need it."""
    return convert(markdown, _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))


def convert(markdown: str, source: str) -> str:
    """Return *markdown* of the file *source* of the repository for the site.

    Fences lose what tells tests how to run them, lines of lists are indented by four spaces, and links
    lead to pages of the site.
    """
    lines, fence, shift, in_list = list[str](), "", "", False
    for line in markdown.splitlines():
        if fence:
            lines.append(shift + line if line else line)
            if line.strip() == fence:
                fence = ""
            continue
        if line and not line.startswith(" "):
            in_list = _LIST_ITEM.match(line) is not None
        indent = len(line) - len(line.lstrip(" "))
        shift = " " * (4 - indent) if in_list and 2 <= indent < 4 else ""
        if (match := _FENCE.match(line)) is not None:
            fence = match["fence"]
            language = (match["info"].split() or ["text"])[0]
            lines.append(f"{shift}{match['indent']}{fence}{language}")
        else:
            lines.append(shift + _LINK.sub(lambda link: _convert_link(link, source), line))
    return "\n".join(lines) + "\n"


def _convert_link(link: re.Match[str], source: str) -> str:
    """Return *link* with its target in the site; without a target there, its text and the path."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
    if (ROOT / path).is_dir() and (ROOT / path / "README.md").exists():
        path += "/README.md"
    target = EXTRA_PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
    if not target:
        name = f"`{path}`"
        names_itself = link["text"].strip("`") in (path, posixpath.basename(path))
        return name if names_itself else f"{link['text']} ({name})"
    here = posixpath.dirname(EXTRA_PAGES.get(source) or source.removeprefix("docs/"))
    relative = posixpath.relpath(target, here or ".")
    return f"{link['mark']}[{link['text']}]({relative}{link['anchor'] or ''})"
