"""``reelhaul jobs``: lists, shows, watches, cancels, retries and saves jobs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from reelhaul.cli.commands import INTERRUPTED
from reelhaul.cli.display import create_display, format_progress, status_name
from reelhaul.cli.download import check_succeeded, follow, save_files
from reelhaul.cli.options import Connect, client_command, save_options
from reelhaul.cli.output import as_json_value, emit_json, format_bytes, printable
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.rest import Client

_PAGE_SIZE = 100


@click.group()
def jobs() -> None:
    """List and manage jobs."""


@jobs.command("list")
@click.option("--status", multiple=True, help="Only jobs with this status, e.g. failed; can be repeated.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of jobs."
)
@client_command
def list_(status: tuple[str, ...], limit: int, connect: Connect, as_json: bool) -> None:
    """List jobs, newest first."""
    with connect() as client:
        for job in _list_jobs(client, status, limit):
            if as_json:
                emit_json(as_json_value(job))
            else:
                click.echo(_format_line(job))


@jobs.command()
@click.argument("job_id")
@client_command
def get(job_id: str, connect: Connect, as_json: bool) -> None:
    """Show a job."""
    with connect() as client:
        _print_job(client.get(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@client_command
def watch(job_id: str, connect: Connect, as_json: bool) -> int:
    """Watch a job until it ends. Ctrl-C stops watching; the job continues."""
    display = create_display(as_json)
    try:
        with connect() as client:
            check_succeeded(follow(client, job_id, display), as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        display.close()
    return 0


@jobs.command()
@click.argument("job_id")
@click.option("--reason", default="", help="Human-readable reason, stored with the job.")
@client_command
def cancel(job_id: str, reason: str, connect: Connect, as_json: bool) -> None:
    """Cancel a job."""
    with connect() as client:
        _print_job(client.cancel(job_id, reason), as_json)


@jobs.command("stop-recording")
@click.argument("job_id")
@client_command
def stop_recording(job_id: str, connect: Connect, as_json: bool) -> None:
    """End the recording of a live stream and keep its file. (cancel discards it.)"""
    with connect() as client:
        _print_job(client.stop_recording(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@client_command
def retry(job_id: str, connect: Connect, as_json: bool) -> None:
    """Start a failed or cancelled job again."""
    with connect() as client:
        _print_job(client.retry(job_id), as_json)


@jobs.command()
@click.argument("job_id")
@save_options
@client_command
def save(job_id: str, output: Path, overwrite: bool, connect: Connect, as_json: bool) -> int:
    """Save the files of a job that succeeded; of a playlist, those of its entries."""
    display = create_display(as_json)
    try:
        with connect() as client:
            job = client.get(job_id)
            check_succeeded(job, as_json)
            return save_files(client, job, output, overwrite, display)
    finally:
        display.close()


def _list_jobs(client: Client, status: tuple[str, ...], limit: int) -> Iterator[Download]:
    """Yield at most *limit* jobs, fetched page by page."""
    token, statuses = "", [s.upper() for s in status]
    while limit > 0:
        page = client.list(page_size=min(limit, _PAGE_SIZE), page_token=token, status=statuses)
        yield from page.jobs
        limit -= len(page.jobs)
        token = page.next_page_token
        if not token:
            return


def _format_line(job: Download) -> str:
    """Return one line: truncated to the terminal's width, or tab-separated for programs."""
    percent = f"{job.progress_percent:.0f}%" if job.HasField("progress_percent") else ""
    title = printable(job.title or job.url)
    if not sys.stdout.isatty():
        return "\t".join([job.job_id, status_name(job), percent, title])
    return f"{job.job_id}  {status_name(job):10}  {percent:>4}  {title}"[: shutil.get_terminal_size().columns]


def _print_job(job: Download, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(job))
        return
    values = {
        "job": job.job_id,
        "url": job.url,
        "title": job.title,
        "status": status_name(job) + (f" ({job.wait_reason})" if job.wait_reason else ""),
        "progress": format_progress(job),
        "requested": f"{job.quality} {job.format}",
        "delivered": f"{job.got_quality} {job.got_format}",
        "attempts": str(job.attempts or ""),
        "error": f"{job.error.reason}: {job.error.message}" if job.HasField("error") else "",
        **{f"warning {n}": text for n, text in enumerate(job.warnings, 1)},
        **{
            f"file {n}": f"{f.name}  {format_bytes(f.size_bytes)}  {f.url}"
            for n, f in enumerate(job.files, 1)
        },
    }
    for name, value in values.items():
        if value.strip():
            click.echo(printable(f"{name + ':':11}{value}"))
