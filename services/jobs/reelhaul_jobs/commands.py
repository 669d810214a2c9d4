"""``reelhaul first-key``: the operator's command, on a machine with access to the database of jobs.

It imports what it needs when it runs, so that the command line starts quickly.
"""

from __future__ import annotations

import click


@click.command("first-key")
@click.option(
    "--store", is_flag=True, help="Also write it into the data folder, where the command line finds it."
)
def first_key(store: bool) -> None:
    """Print a new FULL_ACCESS key, created in the database of jobs, which need not run.

    For the first key of services that run apart (`reelhaul up` creates one by itself), and when all keys are
    lost. It reads REELHAUL_JOBS_DATABASE_URL as jobs does.
    """
    import asyncio
    import os

    from reelhaul_jobs.app import create_full_access_key
    from reelhaul_runtime.exit_codes import REFUSED
    from reelhaul_runtime.private_files import UMASK, describe_data_dir
    from reelhaul_runtime.service import check_setting_names
    from reelhaul_runtime.settings import ERRORS, describe_errors

    os.umask(UMASK)
    try:
        check_setting_names()
        click.echo(asyncio.run(create_full_access_key(store=store)))
    except ERRORS as error:
        for line in describe_errors(error):
            click.echo(f"reelhaul: {line}", err=True)
        raise SystemExit(REFUSED) from None
    except OSError as error:
        raise click.ClickException(describe_data_dir(error)) from None
