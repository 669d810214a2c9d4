"""Server commands: ``up``, ``doctor``, ``serve``, ``health``, ``migrate``, ``backup`` and ``restore``.

Each imports what it needs only when it runs, because the command line loads all of them at start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from reelhaul_runtime.backup.archive import Progress

#: Exit code of a backup that is complete but for files that were damaged before.
_DAMAGED = 3


@click.command()
@click.option(
    "--status", is_flag=True, help="Show the suite that runs on this data folder: state, memory, what to do."
)
@click.option("--json", "as_json", is_flag=True, help="With --status: print one JSON object.")
def up(status: bool, as_json: bool) -> None:
    """Run the whole suite on this machine; Ctrl-C drains it, a second Ctrl-C kills it.

    --status exits with 0 if everything serves, 1 if something does not or is degraded, 3 if no suite runs.
    """
    if as_json and not status:
        raise click.UsageError("--json requires --status")
    if status:
        from reelhaul_runtime.up.status import main as print_status

        raise SystemExit(print_status(as_json=as_json))
    from reelhaul_runtime.up.preloader_process import open_preloader

    # First of all: it takes longest.
    with open_preloader() as preloader:
        from reelhaul_runtime.up.startup import main as start_suite

        raise SystemExit(start_suite(preloader))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Check settings, machine, database, broker, storage, engine and egress, and say what to do.

    It works while the suite runs and while it is stopped, and changes nothing. Exits with 1 if there is a
    problem, else with 0.
    """
    from reelhaul_runtime.doctor.command import main as run_checks

    raise SystemExit(run_checks(as_json=as_json))


@click.command()
@click.argument("services", metavar="SERVICE…", nargs=-1, required=True)
def serve(services: tuple[str, ...]) -> None:
    """Run one or more services in this process, with settings from REELHAUL_*."""
    from reelhaul_runtime.serve import main as run_services

    raise SystemExit(run_services(services))


@click.command()
@click.argument("name", metavar="SERVICE")
@click.option("--timeout", type=click.FloatRange(0.1, 60), default=4.0, show_default=True, help="Seconds.")
def health(name: str, timeout: float) -> None:
    """Check whether SERVICE (gateway, jobs, fetcher or storage) is ready in this container or machine.

    Exits with 1 if it is not. For the health checks of container engines: it takes little CPU.
    """
    from reelhaul_runtime import health_check

    if name not in health_check.NAMES:
        raise click.BadParameter(f"must be one of {', '.join(health_check.NAMES)}", param_hint="SERVICE")
    try:
        health_check.check(name, timeout)
    except health_check.NotReady as error:
        click.echo(f"{name}: {error}", err=True)
        raise SystemExit(1) from None
    click.echo(f"{name}: ready")


@click.command()
@click.argument("services", metavar="[SERVICE…]", nargs=-1)
def migrate(services: tuple[str, ...]) -> None:
    """Migrate the databases of SERVICE… (default: all) to this build's schema."""
    from reelhaul_runtime.serve import migrate as migrate_services

    raise SystemExit(migrate_services(services))


@click.command()
@click.argument("target", metavar="FILE_OR_FOLDER", type=click.Path(path_type=Path))
@click.option(
    "--with-artifacts/--without-artifacts",
    default=True,
    help="Whether the backup contains the downloaded files. Default: it does.",
)
def backup(target: Path, with_artifacts: bool) -> None:
    """Back up the suite of this data folder, which may run, into a new tar FILE, or one in FOLDER.

    The file contains secrets of the suite. Settings and the keys in them are not in it: keep .env yourself.
    Exits with 3 if the backup is complete, but files in it were damaged before.
    """
    from reelhaul_runtime.backup.create import choose_target, create

    with _operation("Backing up") as (data_dir, progress):
        path = choose_target(target)
        summary = create(data_dir, path, with_artifacts=with_artifacts, progress=progress)
    click.echo(f"{path}: {summary.bytes} bytes, {summary.stored_files} artifact files")
    if summary.damaged:
        text = f"warning: {summary.damaged} artifact files are damaged or missing; they will not be restored"
        click.echo(text, err=True)
        raise SystemExit(_DAMAGED)


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore(source: Path) -> None:
    """Restore the backup FILE into the data folder, which must be empty or missing.

    Jobs that ran when the backup was created run again. Start the suite with `reelhaul up` afterwards.
    """
    from reelhaul_runtime.backup.restore import restore as restore_backup

    with _operation("Restoring") as (data_dir, progress):
        summary = restore_backup(source, data_dir, progress=progress)
    manifest = summary.manifest
    click.echo(f"{data_dir}: restored the backup of {manifest.time}, {summary.stored_files} artifact files")
    if summary.damaged:
        click.echo(f"warning: {summary.damaged} artifact files were damaged before the backup", err=True)


@contextmanager
def _operation(description: str) -> Iterator[tuple[Path, Progress]]:
    """Yield the data folder and what shows the progress; report errors without a traceback."""
    import os

    from reelhaul_runtime import private_files, service
    from reelhaul_runtime.backup.archive import BackupError
    from reelhaul_runtime.exit_codes import REFUSED
    from reelhaul_runtime.progress_bar import show_progress
    from reelhaul_runtime.settings import ERRORS, SuiteSettings, describe_errors

    os.umask(private_files.UMASK)
    try:
        service.check_setting_names()
        data_dir = SuiteSettings().data_dir.absolute()
        with show_progress(description) as progress:
            yield data_dir, progress
    except ERRORS as error:
        for line in describe_errors(error):
            click.echo(f"reelhaul: {line}", err=True)
        raise SystemExit(REFUSED) from None
    except BackupError as error:
        click.echo(f"reelhaul: {error}", err=True)
        raise SystemExit(1) from None
