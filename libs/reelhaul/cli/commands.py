"""The command group ``reelhaul``: finds its commands by name and reports errors without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points, version
from typing import Any

import click

# Imported when used: `reelhaul up` starts faster without an HTTP client.
_CLIENT_COMMANDS = {
    "completion": "reelhaul.cli.completion:completion",
    "config": "reelhaul.cli.config:config",
    "download": "reelhaul.cli.download:download",
    "export": "reelhaul.cli.export:export",
    "formats": "reelhaul.cli.probe:formats",
    "jobs": "reelhaul.cli.jobs:jobs",
    "keys": "reelhaul.cli.keys:keys",
    "log-level": "reelhaul.cli.log_level:log_level",
    "open": "reelhaul.cli.open:open_",
    "probe": "reelhaul.cli.probe:probe",
    "schedules": "reelhaul.cli.schedules:schedules",
    "stats": "reelhaul.cli.stats:stats",
    "tenants": "reelhaul.cli.tenants:tenants",
    "webhooks": "reelhaul.cli.webhooks:webhooks",
}
# Entry points of the commands of installed servers, which this package does not import.
_SERVER_COMMANDS = "reelhaul.commands"

_MAX_SENTENCE = 1000

#: Exit codes: the command failed; its arguments or request are invalid; Ctrl-C.
FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Group(click.Group):
    """A group whose list of commands has the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; click would cut their sentences at the width of the terminal."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, command.get_short_help_str(_MAX_SENTENCE))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Commands(Group):
    """A group that imports its commands when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the client's commands and of those of installed servers."""
        return sorted({*_CLIENT_COMMANDS, *entry_points(group=_SERVER_COMMANDS).names})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command; None if there is none with this name."""
        if cmd_name in _CLIENT_COMMANDS:
            module, _, name = _CLIENT_COMMANDS[cmd_name].partition(":")
            command: click.Command = getattr(import_module(module), name)
            return command
        matching = entry_points(group=_SERVER_COMMANDS, name=cmd_name)
        if not matching:
            return None
        try:
            server_command: click.Command = next(iter(matching)).load()
        except ImportError as error:
            return _not_installed(cmd_name, error)
        return server_command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and exit, as click does, but with the exit codes of this module."""
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
        except click.exceptions.Exit as exit_:
            return exit_.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (click.Abort, KeyboardInterrupt):
            return INTERRUPTED
        except BrokenPipeError:
            # The reader has closed the pipe: nothing more may be flushed into it.
            sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115 - open until exit
            return FAILED
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0].startswith("reelhaul"):
                return _report_bug(error)
            click.echo(f"error: {_install_advice(error)}", err=True)
            return USAGE
        except Exception as error:
            return _report_bug(error)
        return code if isinstance(code, int) else 0


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("reelhaul"), prog_name="reelhaul")
def reelhaul() -> None:
    """Download videos: durable jobs, accurate progress, verified files."""


def _report_bug(error: Exception) -> int:
    click.echo(f"error: this is a bug in reelhaul: {type(error).__name__}: {error}", err=True)
    return FAILED


def _install_advice(error: ImportError) -> str:
    return f"this command requires the server packages ({error}): pip install 'reelhaul[all]'"


def _not_installed(name: str, error: ImportError) -> click.Command:
    """Return a placeholder for a command whose server is not installed; it says how to install it."""

    def fail(args: tuple[str, ...]) -> None:
        raise click.UsageError(f"{name}: {_install_advice(error)}")

    return click.Command(
        name,
        callback=fail,
        params=[click.Argument(["args"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        short_help="(not installed: pip install 'reelhaul[all]')",
    )
