"""Print the notes of a version from CHANGELOG.md: ``release_notes.py v1.4.0``.

Fails if the tag is not the version of pyproject.toml, or if the version has no dated section with content.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


class NotesError(Exception):
    """The version is not ready; the message says what is missing."""


def release_notes(tag: str, project: str, changelog: str) -> str:
    """Return the notes of *tag*; *project* and *changelog* are texts of the two files. Raises NotesError."""
    version = tomllib.loads(project)["project"]["version"]
    if tag != f"v{version}":
        raise NotesError(f"the tag is {tag}, but pyproject.toml has version {version}")
    heading = re.escape(f"## [{version}] - ") + r"\d{4}-\d\d-\d\d\n"
    section = re.search(rf"^{heading}(.*?)(?=^## |^\[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    if section is None:
        raise NotesError(f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`")
    if not section[1].strip():
        raise NotesError(f"the section of {version} in CHANGELOG.md is empty")
    return section[1].strip()


def main() -> int:
    """Print the notes; return the exit code."""
    (tag,) = sys.argv[1:]
    try:
        project, changelog = (_ROOT / "pyproject.toml").read_text(), (_ROOT / "CHANGELOG.md").read_text()
        print(release_notes(tag, project, changelog))
    except NotesError as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
