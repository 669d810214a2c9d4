"""``reelhaul storage``: the operator's commands, on a machine with storage installed.

Each command imports what it needs when it runs, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reelhaul.cli.commands import Group

if TYPE_CHECKING:
    from reelhaul_storage.service.blob_move import MoveProgress
    from reelhaul_storage.settings import Settings

#: Exit code of a move that is complete but for artifacts that were damaged before.
_DAMAGED = 3


@click.group(cls=Group)
def storage() -> None:
    """Manage storage."""


@storage.command()
@click.option("--to", "target", required=True, metavar="URL", help="file:///folder or s3://bucket/prefix?…")
@click.option("--verify", is_flag=True, help="Read in the target what is copied and what is there already.")
@click.option("--delete-source", is_flag=True, help="Delete the bytes at the old location afterwards.")
def migrate(target: str, verify: bool, delete_source: bool) -> None:
    """Move all artifacts to another folder or bucket while the service runs.

    The service uses the new location as soon as everything is there; set REELHAUL_STORAGE_URL to it then.
    If the command is interrupted, run it again. Exits with 3 if damaged artifacts were left behind.
    """
    import asyncio

    from reelhaul_runtime.errors import ReelhaulError
    from reelhaul_runtime.settings import ERRORS, describe_errors

    try:
        progress = asyncio.run(_move(_read_settings(target), target, verify, delete_source))
    except ERRORS as error:
        raise click.UsageError("\n".join(describe_errors(error))) from None
    except (ReelhaulError, ExceptionGroup) as error:
        text = f"the move is not complete: {_first(error)}; run the command again to continue"
        raise click.ClickException(text) from error
    click.echo(f"moved: {progress.copied} blobs copied, {progress.skipped} were there")
    click.echo(f"set REELHAUL_STORAGE_URL={target}: the service does not start with the old value")
    if progress.damaged:
        text = f"warning: {len(progress.damaged)} blobs are missing or damaged and were not copied"
        click.echo(text, err=True)
        raise SystemExit(_DAMAGED)


async def _move(settings: Settings, target_url: str, verify: bool, delete_source: bool) -> MoveProgress:
    import asyncio
    from datetime import timedelta

    from reelhaul_runtime.progress_bar import show_progress
    from reelhaul_runtime.settings import InvalidSetting
    from reelhaul_runtime.sql import migrations
    from reelhaul_storage.app import open_blob_store, utc_now
    from reelhaul_storage.catalog.store import SqlCatalog
    from reelhaul_storage.service.blob_move import BlobMove, is_same_store
    from reelhaul_storage.service.movable_blobs import REFRESH_SECONDS
    from reelhaul_storage.settings import is_same_location

    await asyncio.to_thread(migrations.migrate_if_behind, settings.database_url, "reelhaul_storage")
    async with SqlCatalog.open(settings.database_url) as catalog:
        location = await catalog.location.get_location()
        source_url = location.previous_url or location.url or settings.url
        if location.previous_url and not is_same_location(location.url, target_url):
            raise InvalidSetting(f"--to: a move to {location.url} has not ended; run it again first")
        if is_same_location(source_url, target_url):
            raise InvalidSetting("--to: the artifacts are there already")
        async with (
            open_blob_store(source_url, settings, must_exist=await catalog.has_blobs()) as source,
            open_blob_store(target_url, settings, setting="--to") as target,
        ):
            # Else all blobs of a disk that is not mounted would be taken for lost.
            await source.check()
            await target.check()
            if await is_same_store(target, source):
                # Deleting the source would delete everything.
                raise InvalidSetting("--to: the artifacts are there already, under another name of the place")
            total = await catalog.location.sum_blobs()
            with show_progress("Moving") as show:
                move = BlobMove(
                    catalog.location,
                    source,
                    target,
                    source_url=source_url,
                    target_url=location.url if location.previous_url else target_url,
                    verify=verify,
                    report=lambda progress: show(progress.bytes, max(total, progress.bytes)),
                )
                progress = await move.run()
            if delete_source:
                # Replicas that have not noticed the move yet still read there.
                await asyncio.sleep(3 * REFRESH_SECONDS)
                await move.delete_source(utc_now() + timedelta(days=1))
    return progress


def _read_settings(target: str) -> Settings:
    from reelhaul_runtime.service import check_setting_names
    from reelhaul_runtime.settings import InvalidSetting
    from reelhaul_storage.settings import Settings, check_storage_url

    check_setting_names()
    try:
        check_storage_url(target)
    except ValueError as error:
        raise InvalidSetting(f"--to: {error}") from None
    return Settings()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
