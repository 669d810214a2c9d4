"""What several commands do with a job: follow it to its end, and save what it made."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from reelhaul.cli.commands import FAILED, INTERRUPTED
from reelhaul.cli.display import Display, status_name
from reelhaul.cli.options import Failed
from reelhaul.downloads.v1.download_pb2 import Download
from reelhaul.rest import CallFailed, Client


def followed(client: Client, job_id: str, display: Display) -> Download:
    """The job as it ended, shown on the way."""
    job = Download(job_id=job_id)
    for event in client.watch(job_id):
        display.event(event)
        if event.kind in ("snapshot", "completed", "failed"):
            job = getattr(event.message, event.kind)
    return job


def check_succeeded(job: Download, as_json: bool) -> None:
    """End the command, telling why, unless *job* succeeded."""
    if job.status == Download.SUCCEEDED:
        return
    if as_json:
        # The stream's last message has told it.
        raise click.exceptions.Exit(FAILED)
    error = job.error
    text = error.message or f"the job is {status_name(job)}"
    raise Failed(CallFailed(status_name(job), error.reason, text, help_url=error.help), as_json)


def save_all(client: Client, job: Download, folder: Path, overwrite: bool, display: Display) -> int:
    """Save all files of *job*; returns the exit code."""
    try:
        for file in job.files:
            received = partial(display.saving, file)
            display.saved(file, client.save(file, folder, overwrite=overwrite, received=received))
    except KeyboardInterrupt:
        display.close()
        text = f"interrupted; `reelhaul jobs save {job.job_id}` goes on where it was"
        display.say("interrupted", text, job_id=job.job_id)
        return INTERRUPTED
    for warning in job.warnings:
        display.say("warning", f"warning: {warning}")
    return 0
