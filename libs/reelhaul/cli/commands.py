"""The command ``reelhaul`` itself: finds its commands by name, and tells failures without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import Any

import click

# Loaded when asked for: `reelhaul up` starts faster without an HTTP client.
_OWN = {
    "download": "reelhaul.cli.download:download",
    "jobs": "reelhaul.cli.jobs:jobs",
    "probe": "reelhaul.cli.probe:probe",
}
# Commands of installed servers; nothing here imports them.
_GROUP = "reelhaul.commands"

#: Exit codes beside 0: what was asked for did not come about; it was asked for wrongly; Ctrl-C.
FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names: the client's own, then those of installed servers."""
        return sorted({*_OWN, *entry_points(group=_GROUP).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if there is no such."""
        if cmd_name in _OWN:
            module, _, name = _OWN[cmd_name].partition(":")
            command: click.Command = getattr(import_module(module), name)
            return command
        found = entry_points(group=_GROUP, name=cmd_name)
        if not found:
            return None
        try:
            loaded: click.Command = next(iter(found)).load()
        except ImportError as error:
            return _not_installed(cmd_name, error)
        return loaded

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit; as click's own, but with our exit codes."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        sys.exit(self._exit_code(args, prog_name, complete_var, extra))

    def _exit_code(
        self,
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        extra: dict[str, Any],
    ) -> int:
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.Exit as done:
            return done.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read us has seen enough; nothing more may be flushed into the pipe.
            sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115 - open until the end
            return FAILED
        except Exception as error:
            click.echo(f"error: this is a bug of reelhaul: {type(error).__name__}: {error}", err=True)
            return FAILED
        return code if isinstance(code, int) else 0


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("reelhaul"), prog_name="reelhaul")
def reelhaul() -> None:
    """Download videos: durable jobs, honest progress, verified files."""


def _not_installed(name: str, error: ImportError) -> click.Command:
    """A command in place of one whose server is not installed; it says how to get it."""

    def tell(args: tuple[str, ...]) -> None:
        raise click.UsageError(f"{name} needs the servers ({error}): pip install 'reelhaul[all]'")

    return click.Command(
        name,
        callback=tell,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        short_help="(not installed: pip install 'reelhaul[all]')",
    )
