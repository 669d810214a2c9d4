"""``reelhaul log-level``: changes what the processes of the suite log, for a time."""

from __future__ import annotations

import click

from reelhaul.cli.commands import FAILED
from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import as_json_value, emit_json, printable
from reelhaul.cli.parameters import Seconds

_ALL, _RESET = "all", "reset"
_SERVICES = (_ALL, "gateway", "jobs", "fetcher", "storage")
_LEVELS = ("debug", "info", "warning", "error", _RESET)


@click.command("log-level")
@click.argument("service", type=click.Choice(_SERVICES))
@click.argument("level", type=click.Choice(_LEVELS, case_sensitive=False))
@click.option("--logger", default="", help="Only this logger and those below it, e.g. reelhaul_jobs.service.")
@click.option("--for", "seconds", type=Seconds(), default="10m", show_default=True, help="At most 24h.")
@client_command
def log_level(service: str, level: str, logger: str, seconds: int, connect: Connect, as_json: bool) -> None:
    """Log from LEVEL on, in all processes of SERVICE; reset: as the settings say, at once.

    A process that starts again has the level of its settings. Needs a key of level full-access. The logger
    reelhaul_runtime.rpc.bodies logs requests and responses at debug.
    """
    chosen = "UNSPECIFIED" if level == _RESET else level.upper()
    with connect() as client:
        response = client.set_log_level(
            "" if service == _ALL else service, f"LOG_LEVEL_{chosen}", logger=logger, seconds=seconds
        )
    if as_json:
        emit_json(as_json_value(response))
    for process in response.processes:
        if not as_json:
            result = process.error or ("reset" if level == _RESET else f"{level} for {seconds} s")
            click.echo(printable(f"{process.service} {process.address}: {result}"), err=bool(process.error))
    if any(process.error for process in response.processes):
        raise SystemExit(FAILED)
