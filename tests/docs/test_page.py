"""The pages of the documentation, and the sessions that run their commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.page import DOCS, Block, matches, read_blocks, read_commands
from tests.docs.session import Session, open_session

#: How many blocks of each page no test can run; the page states the reason of each.
_SKIPPED = {"operations.md": 4}

_PAGE = """# Title

```sh
echo one
```

## Second

```console exit=3 needs="bash"
$ echo two \\
> three
two three
$ exit 3
```

```ini file="a/.env"
NAME=value
```

```sh skip="needs a cluster"
kubectl apply
```
"""


def _blocks(tmp_path: Path, text: str) -> list[Block]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return read_blocks(page)


def test_blocks_have_their_place_section_and_attributes(tmp_path: Path) -> None:
    """A block knows its line, its heading, and whether it is run."""
    first, second, file, skipped = _blocks(tmp_path, _PAGE)
    assert (first.place, first.section, first.text) == ("page.md:3", "Title", "echo one\n")
    assert second.attributes == {"exit": "3", "needs": "bash"}
    assert (second.section, second.is_run) == ("Second", True)
    assert [file.is_run, file.is_skipped] == [False, False]
    assert [skipped.is_run, skipped.is_skipped] == [False, True]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\nls\n", "page.md:1: the block does not end"),
        ("```sh runs=once\nls\n```\n", "page.md:1: unknown attributes: runs"),
        ("```sh skip\nls\n```\n", "page.md:1: skip needs a reason"),
    ],
)
def test_a_block_that_is_not_understood_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    """A typo in the marks of a block is an error, so that no block is silently left out."""
    with pytest.raises(ValueError, match=problem):
        _blocks(tmp_path, text)


def test_commands_have_their_continuation_lines_and_output(tmp_path: Path) -> None:
    """A command continues on lines with `> `; what is below it is its output."""
    first, second = read_commands(_blocks(tmp_path, _PAGE)[1])
    assert (first.script, first.output) == ("echo two \\\nthree", ("two three",))
    assert (second.script, second.output) == ("exit 3", ())


@pytest.mark.parametrize(
    ("output", "pattern", "expected"),
    [
        ("a\nb\n", ("a", "b"), True),
        ("a\nb\n", ("a",), False),
        ("", (), True),
        ("a\n", (), False),
        ("ready in 2.51 s\n", ("ready in … s",), True),
        ("ready in 2.51 min\n", ("ready in … s",), False),
        ("a\nb\nc\n", ("a", "…", "c"), True),
        ("a\nc\n", ("a", "…", "c"), True),
        ("a\nb\n", ("a", "…", "c"), False),
        ("(a+b)  \n", ("(a+b)",), True),
        ("no end of line", ("no end of line",), True),
    ],
)
def test_output_is_compared_with_a_pattern(output: str, pattern: tuple[str, ...], expected: bool) -> None:
    """An ellipsis is any text in a line, or any number of lines."""
    assert expected == matches(output, pattern)


def test_a_session_is_one_terminal(tmp_path: Path) -> None:
    """Exported variables, the working directory and files outlive a block."""
    page = """
```sh
export PLACE=/srv/data
mkdir folder && cd folder
```
```ini file=".env"
NAME=1
```
```console exit=1
$ echo $PLACE
/srv/data
$ cat ../.env; basename $PWD
NAME=1
folder
$ false
```
"""
    with open_session(tmp_path / "home", {"/srv/data": "/tmp/other"}) as session:
        session.run(_blocks(tmp_path, page))
        assert session.run_script("echo $PLACE") == (0, "/tmp/other\n")


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("```sh\nfalse\n```\n", r"page\.md:1: exit code 1, not 0"),
        ("```sh exit=1\ntrue\n```\n", r"page\.md:1: exit code 0, not 1"),
        ("```sh\nfalse | true\n```\n", r"page\.md:1: exit code 1, not 0"),
        ("```console\n$ echo a\nb\n```\n", r"page\.md:1: another output"),
        ('```sh background until="ready"\necho no\n```\n', r"page\.md:1: it ended"),
    ],
)
def test_a_command_that_does_otherwise_fails_the_test(tmp_path: Path, block: str, problem: str) -> None:
    """The failure names the page and the line."""
    with open_session(tmp_path / "home") as session, pytest.raises(pytest.fail.Exception, match=problem):
        session.run(_blocks(tmp_path, block))


def test_a_block_whose_programs_are_missing_is_named(tmp_path: Path) -> None:
    """A fresh machine skips what it cannot run, and says what is missing."""
    session = Session(tmp_path / "home")
    session.run(_blocks(tmp_path, '```sh needs="no-such-program"\nfalse\n```\n'))
    assert session.lacking == ["page.md:1 (no-such-program)"]


@pytest.mark.parametrize("page", _SKIPPED)
def test_few_commands_are_not_run(page: str) -> None:
    """The commands that no test runs are counted: one more is a decision, not an accident."""
    assert _SKIPPED[page] == sum(block.is_skipped for block in read_blocks(DOCS / page))
