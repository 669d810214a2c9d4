"""The reference of the command line, its man page, its help texts and its completion in shells."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests import cli_reference, debian_packages

from reelhaul.cli.commands import reelhaul

ROOT = Path(__file__).resolve().parents[2]


def test_reference_is_fresh():
    """docs/cli.md has the commands as they are; else run make cli."""
    assert cli_reference.DOCUMENT.read_text() == cli_reference.document()


def test_man_page_is_fresh():
    """The man page has the commands as they are; else run make cli."""
    assert cli_reference.MAN_PAGE.read_text() == cli_reference.man_page()


def test_man_page_is_in_the_wheel():
    """The wheel installs the man page where man looks for it."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    source = str(cli_reference.MAN_PAGE.relative_to(ROOT))
    assert build["targets"]["wheel"]["shared-data"] == {source: "share/man/man1/reelhaul.1"}


def test_man_page_has_no_warnings():
    """groff renders the man page without a warning."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is missing: the man page is not rendered")
    command = [groff, "-man", "-Tutf8", "-Kutf8", "-ww", str(cli_reference.MAN_PAGE)]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True)
    assert rendered.stderr == ""
    # Bold letters are printed twice, one over the other.
    assert "--on-exists" in re.sub(".\b", "", rendered.stdout)


@pytest.mark.parametrize("each", list(cli_reference.commands()), ids=lambda each: each.path)
def test_help_texts_are_complete(each):
    """Every command has a sentence that says what it does, every option a text, and no list cuts one."""
    assert each.paragraphs[0].rstrip(")").endswith((".", ":"))
    undescribed = [
        parameter.opts
        for parameter in each.click.params
        if parameter.param_type_name == "option" and not parameter.help
    ]
    assert undescribed == []
    result = CliRunner().invoke(reelhaul, [*each.path.split()[1:], "--help"], terminal_width=80)
    assert result.exit_code == 0
    assert [line for line in result.output.splitlines()[1:] if line.endswith("...")] == []


@pytest.fixture(scope="module")
def shells() -> dict[str, Path]:
    """The shells of this machine, and those of Debian packages, by name."""
    found = {name: Path(path) for name in ("bash", "zsh", "fish") if (path := shutil.which(name))}
    missing = {"zsh", "fish"} - found.keys()
    if missing:
        try:
            folder = debian_packages.unpack(*sorted(missing))
        except debian_packages.Missing as error:
            print(f"without {' and '.join(sorted(missing))}: {error}")
        else:
            for name in missing:
                places = (folder / "usr/bin" / name, folder / "bin" / name)
                found[name] = next(place for place in places if place.exists())
    return found


# What each shell does when Tab is pressed after these words: the functions that it calls, and their result.
_PRESS_TAB = {
    "bash": """
        source {script}
        COMP_WORDS=({words}) COMP_CWORD=$(({count} - 1))
        _reelhaul_completion reelhaul
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    "zsh": """
        compdef() {{ true }}
        module_path=({root}/usr/lib/*/zsh/*(N) $module_path)
        compadd() {{ local array=$@[-1]; print -l -- "${{(@P)array}}" }}
        _describe() {{ local array=$3; print -l -- "${{(@P)array}}" }}
        source {script}
        words=({words}) CURRENT={count}
        _reelhaul_completion
    """,
    "fish": """
        source {script}
        complete --do-complete '{line}'
    """,
}


_WITHOUT_CONFIGURATION = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("reelhaul sch", ["schedules"]),
        ("reelhaul jobs pa", ["pause"]),
        ("reelhaul download --on-e", ["--on-exists"]),
        ("reelhaul download --quality 7", ["720p"]),
    ],
)
def test_completion(shells, tmp_path, shell, line, offers):
    """The script of `reelhaul completion` lets the shell complete commands, options and their words."""
    if shell not in shells:
        pytest.skip(f"no {shell} on this machine and none from Debian: its completion is untested")
    script = tmp_path / "script"
    script.write_text(CliRunner().invoke(reelhaul, ["completion", shell]).stdout)
    root = shells[shell].parents[2 if shells[shell].parent.parent.name == "usr" else 1]
    text = _PRESS_TAB[shell].format(script=script, words=line, count=len(line.split()), line=line, root=root)
    environment = debian_packages.environment(root) | {"HOME": str(tmp_path)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    result = subprocess.run(
        [str(shells[shell]), *_WITHOUT_CONFIGURATION[shell], "-c", text],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    offered = [each.split("\t")[0].split(":")[0].strip() for each in result.stdout.splitlines()]
    assert [each for each in offered if each] == offers, result.stderr
