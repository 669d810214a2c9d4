"""Server commands: ``up``, ``serve`` and ``migrate``.

Each imports what it needs only when it runs, because the command line loads all of them at start.
"""

from __future__ import annotations

import click


@click.command()
@click.option("--status", is_flag=True, help="Show the suite that runs on this data folder, and its memory.")
@click.option("--json", "as_json", is_flag=True, help="With --status: print one JSON object.")
def up(status: bool, as_json: bool) -> None:
    """Run the whole suite on this machine; Ctrl-C drains it, a second Ctrl-C kills it.

    --status exits with 0 if everything serves, 1 if something does not, 3 if no suite runs.
    """
    if as_json and not status:
        raise click.UsageError("--json requires --status")
    if status:
        from reelhaul_runtime.up.status import main as print_status

        raise SystemExit(print_status(as_json=as_json))
    from reelhaul_runtime.up.suite import main as run_suite

    raise SystemExit(run_suite())


@click.command()
@click.argument("services", metavar="SERVICE…", nargs=-1, required=True)
def serve(services: tuple[str, ...]) -> None:
    """Run one or more services in this process, with settings from REELHAUL_*."""
    from reelhaul_runtime.serve import main as run_services

    raise SystemExit(run_services(services))


@click.command()
@click.argument("services", metavar="[SERVICE…]", nargs=-1)
def migrate(services: tuple[str, ...]) -> None:
    """Migrate the databases of SERVICE… (default: all) to this build's schema."""
    from reelhaul_runtime.serve import migrate as migrate_services

    raise SystemExit(migrate_services(services))
