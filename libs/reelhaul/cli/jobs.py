"""``reelhaul jobs``: what was asked for, how it stands, and what can be done about it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from reelhaul.cli import display as displays
from reelhaul.cli.commands import INTERRUPTED
from reelhaul.cli.common import check_succeeded, followed, save_all
from reelhaul.cli.display import numbers, status_name
from reelhaul.cli.options import as_json_value, client_command, emit_json
from reelhaul.cli.output import format_bytes, printable
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.rest import Client

_PAGE = 100


@click.group()
def jobs() -> None:
    """See and steer the jobs of a server."""


@jobs.command("list")
@click.option("--status", multiple=True, help="Only these, e.g. failed; may be repeated.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most this many.")
@client_command
def list_(status: tuple[str, ...], limit: int, server: str, as_json: bool) -> None:
    """List jobs, the newest first."""
    with Client(server) as client:
        for job in _listed(client, status, limit):
            if as_json:
                emit_json(as_json_value(job))
            else:
                click.echo(_line(job))


@jobs.command()
@click.argument("job_id")
@client_command
def get(job_id: str, server: str, as_json: bool) -> None:
    """Show one job."""
    with Client(server) as client:
        _show(client.get(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@client_command
def watch(job_id: str, server: str, as_json: bool) -> int:
    """Follow one job to its end. Ctrl-C stops watching; the job goes on."""
    display = displays.chosen(as_json)
    try:
        with Client(server) as client:
            check_succeeded(followed(client, job_id, display), as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        display.close()
    return 0


@jobs.command()
@click.argument("job_id")
@click.option("--reason", default="", help="Kept with the job, for people.")
@client_command
def cancel(job_id: str, reason: str, server: str, as_json: bool) -> None:
    """Cancel one job for good."""
    with Client(server) as client:
        _show(client.cancel(job_id, reason), as_json)


@jobs.command("stop-recording")
@click.argument("job_id")
@client_command
def stop_recording(job_id: str, server: str, as_json: bool) -> None:
    """End a recording of what is live now, and keep its file. (cancel throws it away.)"""
    with Client(server) as client:
        _show(client.stop_recording(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@client_command
def retry(job_id: str, server: str, as_json: bool) -> None:
    """Try a failed or cancelled job again."""
    with Client(server) as client:
        _show(client.retry(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to save into.",
)
@click.option("--overwrite", is_flag=True, help="Replace a file of the same name; else ours is numbered.")
@client_command
def save(job_id: str, output: Path, overwrite: bool, server: str, as_json: bool) -> int:
    """Save the files of a job that succeeded."""
    display = displays.chosen(as_json)
    try:
        with Client(server) as client:
            job = client.get(job_id)
            check_succeeded(job, as_json)
            return save_all(client, job, output, overwrite, display)
    finally:
        display.close()


def _listed(client: Client, status: tuple[str, ...], limit: int) -> Iterator[Download]:
    """At most *limit* jobs, page by page."""
    token, wanted = "", [s.upper() for s in status]
    while limit > 0:
        page = client.list(page_size=min(limit, _PAGE), page_token=token, status=wanted)
        yield from page.jobs
        limit -= len(page.jobs)
        token = page.next_page_token
        if not token:
            return


def _line(job: Download) -> str:
    """One job on one line: cut to the terminal, or tab-separated for programs."""
    percent = f"{job.progress_percent:.0f}%" if job.HasField("progress_percent") else ""
    title = printable(job.title or job.url)
    if not sys.stdout.isatty():
        return "\t".join([job.job_id, status_name(job), percent, title])
    return f"{job.job_id}  {status_name(job):10}  {percent:>4}  {title}"[: shutil.get_terminal_size().columns]


def _show(job: Download, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(job))
        return
    told = {
        "job": job.job_id,
        "url": job.url,
        "title": job.title,
        "status": status_name(job) + (f" ({job.wait_reason})" if job.wait_reason else ""),
        "progress": numbers(job),
        "asked": f"{job.quality} {job.format}",
        "got": f"{job.got_quality} {job.got_format}",
        "attempts": str(job.attempts or ""),
        "error": f"{job.error.reason}: {job.error.message}" if job.HasField("error") else "",
        **{f"warning {n}": text for n, text in enumerate(job.warnings, 1)},
        **{
            f"file {n}": f"{f.name}  {format_bytes(f.size_bytes)}  {f.url}"
            for n, f in enumerate(job.files, 1)
        },
    }
    for name, text in told.items():
        if text.strip():
            click.echo(printable(f"{name + ':':11}{text}"))
