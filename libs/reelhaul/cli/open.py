"""``reelhaul open``: opens the web console, or a file of a job, in the browser."""

from __future__ import annotations

import os
import shutil
import sys

import click

from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import emit_json
from reelhaul.rest import CallFailed, Client

# How long a link to a file works: long enough to watch it.
_LINK_SECONDS = 12 * 3600


@click.command("open")
@click.argument("job_id", default="")
@click.option(
    "--file", "number", type=click.IntRange(1), default=1, show_default=True, help="Which file of the job."
)
@click.option("--print", "is_printed", is_flag=True, help="Print the URL without opening it.")
@client_command
def open_(job_id: str, number: int, is_printed: bool, connect: Connect, as_json: bool) -> None:
    """Open the web console, or a file of a job, in the browser.

    The link to a file works without a key, for 12 hours: whoever has it can read the file. Without a browser,
    the URL is printed.
    """
    with connect() as client:
        url = _sign(client, job_id, number) if job_id else f"{client.server}/"
    if as_json:
        emit_json({"url": url})
    elif is_printed or not _has_browser() or click.launch(url) != 0:
        click.echo(url)


def _sign(client: Client, job_id: str, number: int) -> str:
    """Return a link to a file of a job."""
    artifacts = client.jobs.get(job_id).artifacts
    if number > len(artifacts):
        raise CallFailed("NOT_FOUND", f"job {job_id} has {len(artifacts)} files", reason="RESOURCE_NOT_FOUND")
    return client.jobs.sign_url(artifacts[number - 1].name, ttl_seconds=_LINK_SECONDS, inline=True).url


def _has_browser() -> bool:
    """Return whether there is a desktop to open a URL on."""
    if sys.platform != "linux":
        return True
    has_desktop = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_desktop and shutil.which("xdg-open") is not None
