"""``reelhaul jobs``: lists, shows, watches, changes and saves jobs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from reelhaul.cli.board import follow_batches
from reelhaul.cli.commands import FAILED, INTERRUPTED, Group
from reelhaul.cli.display import create_display
from reelhaul.cli.download import check_succeeded, follow, save_files
from reelhaul.cli.history import list_history
from reelhaul.cli.job_status import (
    describe_error,
    format_progress,
    job_title,
    status_name,
)
from reelhaul.cli.options import CommandFailed, Connect, client_command, save_options
from reelhaul.cli.output import (
    as_json_value,
    emit_json,
    format_bytes,
    format_duration,
    format_enum,
    format_time,
    print_table,
    print_values,
    printable,
    to_local,
)
from reelhaul.cli.parameters import Time, format_timestamp
from reelhaul.cli.saving import Saver, check_folder
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.existing_files import OnExists
from reelhaul.jobs.v1.job_pb2 import Attempt
from reelhaul.rest import CallFailed, Client, NotFound, is_playlist

_PAGE_SIZE = 100


@click.group(cls=Group)
def jobs() -> None:
    """List and manage jobs."""


@jobs.command("list")
@click.option("--status", multiple=True, help="Only jobs with this status, e.g. failed; may be repeated.")
@click.option("--since", type=Time(), help="Only jobs created since, e.g. 12h or 2026-12-24T18:00.")
@click.option("--until", type=Time(), help="Only jobs created before.")
@click.option("--url", "url_contains", default="", help="Only jobs with this text in their URL.")
@click.option("--batch", "batch_id", default="", metavar="ID", help="Only jobs of this batch or playlist.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of jobs."
)
@client_command
def list_(
    status: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    limit: int,
    connect: Connect,
    as_json: bool,
    **query: Any,
) -> None:
    """List jobs, newest first: id, status, time, progress, reason, title."""
    query |= {"created_after": since, "created_before": until}
    with connect() as client:
        found = _list_jobs(client, limit, status=[each.upper() for each in status], **query)
        if as_json:
            for job in found:
                emit_json(as_json_value(job))
            return
        if sys.stdout.isatty():
            print_table(("id", "status", "created", "%", "title"), map(_compact_columns, found))
        else:
            print_table(("id", "status", "created", "%", "reason", "title"), map(_columns, found))


@jobs.command()
@click.argument("job_id")
@client_command
def show(job_id: str, connect: Connect, as_json: bool) -> None:
    """Show a job."""
    with connect() as client:
        _print_job(client.get(job_id), as_json)


# The name that the command had first.
jobs.add_command(
    click.Command("get", params=show.params, callback=show.callback, help=show.help, hidden=True)
)


@jobs.command()
@click.argument("job_id")
@client_command
def watch(job_id: str, connect: Connect, as_json: bool) -> int:
    """Watch a job, or a playlist or batch with its jobs, until the end.

    Ctrl-C stops watching; the job continues. The exit code is 1 if it does not succeed.
    """
    display = create_display(as_json)

    def show_end(job: Download) -> None:
        if not as_json:
            error = f": {describe_error(job)}" if job.HasField("error") else ""
            display.say("job", f"{format_enum(status_name(job))}  {job_title(job)}{error}")

    try:
        with connect() as client:
            first, *others = _find_jobs(client, job_id)
            if not others and not is_playlist(first):
                check_succeeded(follow(client, first.job_id, display), as_json)
                return 0
            board = follow_batches(client, [first.batch_id], display, show_end)
            return 0 if all(status_name(each) == "SUCCEEDED" for each in board.by_id.values()) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        display.close()


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@client_command
def pause(job_ids: tuple[str, ...], connect: Connect, as_json: bool) -> int:
    """Pause jobs: they keep their place, and run on after resume."""
    return _change(job_ids, connect, as_json, _pause)


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@client_command
def resume(job_ids: tuple[str, ...], connect: Connect, as_json: bool) -> int:
    """Let paused jobs run again."""
    return _change(job_ids, connect, as_json, _resume)


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@click.option("--reason", default="", help="Human-readable reason, stored with the jobs.")
@client_command
def cancel(job_ids: tuple[str, ...], reason: str, connect: Connect, as_json: bool) -> int:
    """Cancel jobs; of a playlist, its jobs too."""
    return _change(job_ids, connect, as_json, lambda client, job_id: client.cancel(job_id, reason))


@jobs.command("stop-recording")
@click.argument("job_ids", nargs=-1, required=True)
@client_command
def stop_recording(job_ids: tuple[str, ...], connect: Connect, as_json: bool) -> int:
    """End recordings of live streams and keep them. (cancel discards them.)"""
    return _change(job_ids, connect, as_json, lambda client, job_id: client.stop_recording(job_id))


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@client_command
def retry(job_ids: tuple[str, ...], connect: Connect, as_json: bool) -> int:
    """Start failed or cancelled jobs again."""
    return _change(job_ids, connect, as_json, lambda client, job_id: client.retry(job_id))


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@client_command
def delete(job_ids: tuple[str, ...], connect: Connect, as_json: bool) -> int:
    """Delete jobs and their files at the server."""
    return _change(job_ids, connect, as_json, lambda client, job_id: client.delete(job_id))


@jobs.command()
@click.argument("job_id")
@client_command
def attempts(job_id: str, connect: Connect, as_json: bool) -> None:
    """List the attempts of a job, newest first."""
    with connect() as client:
        if as_json:
            for attempt in client.jobs.list_attempts(job_id):
                emit_json(as_json_value(attempt))
            return
        names = ("attempt", "state", "started", "took", "bytes", "worker", "error")
        print_table(names, map(_attempt_columns, client.jobs.list_attempts(job_id)))


@jobs.command()
@click.argument("job_id")
@click.option("--follow", "-f", "is_followed", is_flag=True, help="Print new events until the job ends.")
@client_command
def events(job_id: str, is_followed: bool, connect: Connect, as_json: bool) -> None:
    """Print what happened to a job, oldest first: time, event, details."""
    with connect() as client:
        for time, name, details in list_history(client, job_id, is_followed=is_followed):
            if as_json:
                emit_json({"time": format_timestamp(time), "event": name, "details": details})
            else:
                click.echo(printable(f"{time.astimezone():%Y-%m-%d %H:%M:%S}  {name:14}  {details}").rstrip())


@jobs.command()
@click.argument("job_ids", nargs=-1, required=True)
@save_options
@client_command
def save(job_ids: tuple[str, ...], output: Path, on_exists: OnExists, connect: Connect, as_json: bool) -> int:
    """Save the files of jobs that succeeded; of a playlist or batch, those of its jobs."""
    check_folder(output)
    display = create_display(as_json)
    try:
        with connect() as client:
            saver = Saver(client, output, on_exists, display)
            found = [job for job_id in job_ids for job in _find_jobs(client, job_id)]
            if len(found) == 1:
                check_succeeded(found[0], as_json)
            code = 0
            for job in found:
                code = save_files(client, job, saver, display)
                if code == INTERRUPTED:
                    break
            return code
    finally:
        display.close()


def _find_jobs(client: Client, job_id: str) -> list[Download]:
    """Return the job with this id, or the jobs of the batch with this id. Raises NotFound."""
    try:
        return [client.get(job_id)]
    except NotFound:
        jobs = list(client.iterate(batch_id=job_id, order="oldest"))
        if not jobs:
            raise
        return jobs


def _pause(client: Client, job_id: str) -> Download:
    client.jobs.pause(job_id)
    return client.get(job_id)


def _resume(client: Client, job_id: str) -> Download:
    client.jobs.resume(job_id)
    return client.get(job_id)


def _change(
    job_ids: tuple[str, ...],
    connect: Connect,
    as_json: bool,
    change: Callable[[Client, str], Download | None],
) -> int:
    """Make a change to each job and show it; return the exit code. One failure does not stop the others."""
    code = 0
    with connect() as client:
        for job_id in job_ids:
            try:
                job = change(client, job_id)
            except CallFailed as failure:
                if len(job_ids) == 1:
                    raise
                CommandFailed(failure, as_json).show()
                code = FAILED
                continue
            if job is not None and len(job_ids) == 1:
                _print_job(job, as_json)
            elif as_json:
                emit_json(as_json_value(job) if job is not None else {"job_id": job_id, "deleted": True})
            else:
                text = "deleted" if job is None else format_enum(status_name(job))
                print_table(("id", "status"), [(job_id, text)])
    return code


def _list_jobs(client: Client, limit: int, **query: Any) -> Iterator[Download]:
    """Yield at most *limit* jobs, fetched page by page."""
    token = ""
    while limit > 0:
        page = client.list(page_size=min(limit, _PAGE_SIZE), page_token=token, **query)
        yield from page.jobs
        limit -= len(page.jobs)
        token = page.next_page_token
        if not token:
            return


def _columns(job: Download) -> list[str]:
    """Return the cells of a job in a list for programs."""
    reason = job.error.reason or job.wait_reason
    return [job.job_id, status_name(job), format_time(job.create_time), _percent(job), reason, job_title(job)]


def _compact_columns(job: Download) -> list[str]:
    """Return the cells of a job in a list that fits into a terminal."""
    created = to_local(job.create_time)
    is_today = created.date() == datetime.now(UTC).astimezone().date()
    time = f"{created:%H:%M}" if is_today else f"{created:%b %d}"
    reason = job.error.reason or format_enum(job.wait_reason)
    title = f"{reason}: {job_title(job)}" if reason else job_title(job)
    return [job.job_id, status_name(job), time, _percent(job), title]


def _percent(job: Download) -> str:
    return f"{job.progress_percent:.0f}%" if job.HasField("progress_percent") else ""


def _attempt_columns(attempt: Attempt) -> list[str]:
    end = attempt.end_time if attempt.HasField("end_time") else None
    took = format_duration((to_local(end) - to_local(attempt.start_time)).total_seconds()) if end else ""
    return [
        attempt.name.rpartition("/")[2],
        format_enum(Attempt.State.Name(attempt.state)),
        format_time(attempt.start_time),
        took,
        format_bytes(attempt.downloaded_bytes),
        attempt.worker,
        attempt.error.message,
    ]


def _print_job(job: Download, as_json: bool) -> None:
    if as_json:
        emit_json(as_json_value(job))
        return
    print_values(
        {
            "job": job.job_id,
            "url": job.url,
            "title": job.title,
            "uploader": job.uploader,
            "length": format_duration(job.duration) if job.duration else "",
            "status": status_name(job) + (f" ({format_enum(job.wait_reason)})" if job.wait_reason else ""),
            "progress": format_progress(job),
            "requested": f"{job.quality} {job.format}",
            "delivered": f"{job.got_quality} {job.got_format}",
            "attempts": str(job.attempts or ""),
            "error": describe_error(job) if job.HasField("error") else "",
            "created": format_time(job.create_time),
            "started": format_time(job.start_time),
            "ended": format_time(job.end_time),
            "kept until": format_time(job.expire_time),
            "priority": job.priority,
            "labels": " ".join(f"{key}={value}" for key, value in sorted(job.labels.items())),
            "batch": job.batch_id,
            **{f"warning {n}": text for n, text in enumerate(job.warnings, 1)},
            **{
                f"file {n}": f"{f.name}  {format_bytes(f.size_bytes)}  {f.url}"
                for n, f in enumerate(job.files, 1)
            },
        }
    )
