"""docs/expectations.md: what serves an expectation is linked, and what tests it exists."""

from __future__ import annotations

import re

from tests.docs.page import DOCS

_PAGE = DOCS / "expectations.md"
_TEST = re.compile(r"`(tests/[\w/.]+)(?:::(\w+))?`")


def _rows() -> list[tuple[str, str, str]]:
    """Return expectation, what serves it, and what tests it, of each row."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \|(?: (.+?))? \|$", _PAGE.read_text(), re.MULTILINE)
    return [row for row in rows if row[2] != "tested in" and not row[0].startswith("---")]


def test_every_expectation_is_answered() -> None:
    """Each row links what serves it and names its tests, or says that it is not there."""
    rows = _rows()
    assert len(rows) > 45
    assert [row[0] for row in rows if not (row[2] or row[1] == "not there")] == []
    assert [row[0] for row in rows if row[2] and not ("](" in row[1] or _TEST.search(row[2]))] == []


def test_named_tests_exist() -> None:
    """Each test that the page names is a file of this repository, and a test in it."""
    named = _TEST.findall(_PAGE.read_text())
    assert len(named) > 80
    missing = []
    for path, test in named:
        file = DOCS.parent / path
        if not file.exists() or (test and f"def {test}(" not in file.read_text()):
            missing.append(f"{path}::{test}")
    assert missing == []
