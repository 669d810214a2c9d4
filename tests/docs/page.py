"""Pages of the documentation: their fenced code blocks, and what the blocks say about how to run them.

A block is run if its language is ``sh`` or ``console``. Words after the language say more:

``skip="reason"``    is not run; tests count such blocks
``exit=1``           exit code of the command; 0 if it is missing
``needs="curl jq"``  programs beside Reelhaul's and the shell's; without them the block is skipped
``background``       keeps running until it ends or the page does
``until="text"``     with ``background``: its output contains the text once the next block can run
``once``             with ``background``: the first page of a session that has it starts it, for all
``file=".env"``      is not run but written into this file, whatever its language

``sh`` is a script, which must succeed. In ``console`` each line that begins with ``$ `` is a command, and
lines that begin with ``> `` continue it; below it is its output, where ``…`` stands for any text in a line,
and a line with nothing else for any number of lines.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

_SHELLS = ("sh", "console")
_ATTRIBUTES = frozenset({"skip", "exit", "needs", "background", "until", "once", "file"})
_FENCE = re.compile(r"^(?P<fence>```+)(?P<info>[^`]*)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block."""

    #: Where it is, for messages: ``operations.md:12``.
    place: str
    #: The heading above it.
    section: str
    language: str
    text: str
    attributes: Mapping[str, str]

    @property
    def is_run(self) -> bool:
        """Whether it has commands that a test runs."""
        return self.language in _SHELLS and not {"skip", "file"} & self.attributes.keys()

    @property
    def is_skipped(self) -> bool:
        """Whether it has commands that no test can run."""
        return self.language in _SHELLS and "skip" in self.attributes


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of *page* in their order. Raises ValueError for one that is not understood."""
    blocks, section, lines = [], "", iter(enumerate(page.read_text().splitlines(), start=1))
    for number, line in lines:
        if line.startswith("#"):
            section = line.lstrip("#").strip()
        elif (match := _FENCE.match(line)) is not None:
            text = []
            for _, inner in lines:
                if inner == match["fence"]:
                    break
                text.append(inner)
            else:
                raise ValueError(f"{page.name}:{number}: the block does not end")
            place = f"{page.name}:{number}"
            language, attributes = _parse_info(match["info"], place)
            blocks.append(Block(place, section, language, "\n".join(text) + "\n", attributes))
    return blocks


def _parse_info(info: str, place: str) -> tuple[str, dict[str, str]]:
    """Return the language and the attributes of a fence."""
    language, *words = shlex.split(info) or [""]
    attributes = dict(word.partition("=")[::2] for word in words)
    if unknown := attributes.keys() - _ATTRIBUTES:
        raise ValueError(f"{place}: unknown attributes: {', '.join(sorted(unknown))}")
    if "skip" in attributes and not attributes["skip"]:
        raise ValueError(f"{place}: skip needs a reason")
    return language, attributes


def inline_commands(page: Path) -> list[str]:
    """Return the code spans of *page* that begin with ``reelhaul``, in the order of their first use."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return list(dict.fromkeys(re.findall(r"`(reelhaul [^`]+)`", text)))


@dataclass(frozen=True, slots=True)
class Command:
    """A command of a ``console`` block."""

    script: str
    #: The lines of its output, with ``…`` for what varies.
    output: tuple[str, ...]


def read_commands(block: Block) -> list[Command]:
    """Return the commands of *block*, which is ``console``."""
    commands: list[tuple[list[str], list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            commands.append(([line[2:]], []))
        elif not commands:
            raise ValueError(f"{block.place}: the first line does not begin with `$ `")
        elif line.startswith("> ") and not commands[-1][1]:
            commands[-1][0].append(line[2:])
        else:
            commands[-1][1].append(line)
    return [Command("\n".join(script), tuple(output)) for script, output in commands]


def matches(output: str, pattern: tuple[str, ...]) -> bool:
    """Return whether *output* is that of *pattern*; spaces at the end of lines do not count."""
    expression = "".join(
        r"(?:.*\n)*?"
        if line.strip() == "…"
        else r".*?".join(map(re.escape, line.rstrip().split("…"))) + r" *\n"
        for line in pattern
    )
    text = output if output.endswith("\n") or not output else output + "\n"
    return re.fullmatch(expression, text) is not None
