"""docs/operations.md: every command in it runs, in the order of the page."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from tests.docs.page import DOCS, inline_commands, read_blocks
from tests.docs.session import open_session, run_page
from tests.sites.site import Site

from reelhaul.cli.commands import reelhaul

_PAGE = DOCS / "operations.md"


@pytest.mark.timeout(600)
def test_every_command_of_the_operations_page_runs(site: Site, tmp_path: Path) -> None:
    """Whoever types the commands of the page, in its order, sees what it says."""
    replacements = {
        "https://videos.example/watch": site.url("/watch/demo"),
        "/srv/": f"{tmp_path}/",
    }
    with open_session(tmp_path / "home", replacements) as session:
        run_page(_PAGE, session)
        run_already = "".join(block.text for block in read_blocks(_PAGE) if block.is_run)
        for command in _first_commands():
            if command in run_already:
                continue
            code, output = session.run_script(command)
            assert code == 0, f"{command}: {output}"


def test_the_page_names_commands_that_exist() -> None:
    """Each command in the text exists, with its options."""
    commands = inline_commands(_PAGE)
    assert len(commands) > 15
    for text in commands:
        _, *words = text.split()
        _check_command(reelhaul, words, text)


def _first_commands() -> list[str]:
    """Return the first commands of the table of symptoms."""
    rows = _PAGE.read_text().partition("| symptom |")[2]
    return list(dict.fromkeys(re.findall(r"^\| [^|]+ \| `([^`]+)` \|", rows, re.MULTILINE)))


def _check_command(command: click.Command, words: list[str], text: str) -> None:
    """Fail unless *words* name a command below *command*, and options that it has."""
    context = click.Context(command)
    if isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(context, words[0])
        assert below is not None, f"{text}: there is no command {words[0]}"
        _check_command(below, words[1:], text)
        return
    known = {option for parameter in command.get_params(context) for option in parameter.opts}
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options <= known, f"{text}: there is no option {options - known}"
