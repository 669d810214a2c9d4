"""The commands of the server side: ``up``, ``serve`` and ``migrate``.

Each imports what it needs only when it runs: the command line starts for all of them.
"""

from __future__ import annotations

import click


@click.command()
@click.option(
    "--status", is_flag=True, help="Show the suite that runs on this data folder, and what it costs."
)
@click.option("--json", "as_json", is_flag=True, help="With --status: one JSON object.")
def up(status: bool, as_json: bool) -> None:
    """Run the whole suite on this machine; Ctrl-C drains it, a second Ctrl-C kills it.

    --status exits with 0 if all of it serves, 1 if some of it does not, 3 if no suite runs.
    """
    if as_json and not status:
        raise click.UsageError("--json goes with --status")
    if status:
        from reelhaul_runtime.up import status as reporting

        raise SystemExit(reporting.main(as_json=as_json))
    from reelhaul_runtime.up import suite

    raise SystemExit(suite.main())


@click.command()
@click.argument("services", metavar="SERVICE…", nargs=-1, required=True)
def serve(services: tuple[str, ...]) -> None:
    """Run one or more services in this process, with settings from REELHAUL_*."""
    from reelhaul_runtime import serve as serving

    raise SystemExit(serving.main(services))


@click.command()
@click.argument("services", metavar="[SERVICE…]", nargs=-1)
def migrate(services: tuple[str, ...]) -> None:
    """Bring the databases of SERVICE… (default: all) to this build's schema."""
    from reelhaul_runtime import serve as serving

    raise SystemExit(serving.migrate(services))
