"""Displays of a running download: JSON lines, plain lines, or a progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import click

from reelhaul.cli.output import (
    as_json_value,
    emit_json,
    format_bytes,
    format_duration,
    format_enum,
    printable,
)
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import Event, Saved
from reelhaul.type.v1.media_pb2 import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 5.0


class Display(Protocol):
    """Shows what happens during a command."""

    def event(self, event: Event) -> None:
        """Show an event of the job."""

    def saving(self, file: File, count: int) -> None:
        """Show that *count* bytes of *file* have been received."""

    def saved(self, file: File, saved: Saved) -> None:
        """Show that *file* is saved and verified."""

    def say(self, kind: str, text: str, **data: object) -> None:
        """Show a message of the command: *text* for people, *kind* and *data* for programs."""

    def close(self) -> None:
        """Release the terminal; may be called more than once."""


def create_display(as_json: bool) -> Display:
    """Return the display that suits the reader of standard output."""
    if as_json:
        return JsonLines()
    return ProgressBar() if sys.stdout.isatty() else PlainLines()


class JsonLines:
    """One JSON object per line: the server's messages with their type, and the command's own."""

    def event(self, event: Event) -> None:
        """Print the message with its kind."""
        emit_json({"type": event.kind, **as_json_value(event.message)})

    def saving(self, file: File, count: int) -> None:
        """Print nothing: programs wait for the whole file."""

    def saved(self, file: File, saved: Saved) -> None:
        result = {"path": str(saved.path), "size_bytes": saved.size_bytes, "sha256": saved.sha256}
        emit_json({"type": "saved", "file": as_json_value(file), **result})

    def say(self, kind: str, text: str, **data: object) -> None:
        emit_json({"type": kind, "message": text, **data})

    def close(self) -> None:
        """Do nothing."""


class PlainLines:
    """A line for each change of status or stage, and at intervals one with the progress."""

    def __init__(self) -> None:
        self._headline, self._time = "", 0.0

    def event(self, event: Event) -> None:
        """Print a line, unless it would repeat the last one within a few seconds."""
        headline, numbers = describe(event)
        now = time.monotonic()
        is_due = numbers and now - self._time >= _SECONDS_BETWEEN_LINES
        if headline and (headline != self._headline or is_due):
            self._headline, self._time = headline, now
            click.echo(f"{headline}  {numbers}".rstrip())

    def saving(self, file: File, count: int) -> None:
        """Print nothing: saving takes only moments."""

    def saved(self, file: File, saved: Saved) -> None:
        click.echo(_saved_line(saved))

    def say(self, kind: str, text: str, **data: object) -> None:
        click.echo(printable(text))

    def close(self) -> None:
        """Do nothing."""


class ProgressBar:
    """One progress bar on a terminal: first for the job, then for each file while it is saved."""

    def __init__(self, console: Console | None = None) -> None:
        # rich is imported here because it takes longer to import than the rest of the command line.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        # Titles are untrusted: markup and emoji codes in them must have no effect.
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        # What the bar is for: the job, or the URL of a file.
        self._subject = ""
        self._title = ""

    def event(self, event: Event) -> None:
        """Update the bar; print titles and errors as lines above it, where they stay."""
        headline, numbers = describe(event)
        message = event.message
        if event.kind == "snapshot":
            self._print_title(message.snapshot)
        if event.kind in ("completed", "failed"):
            self._print_title(message.completed if event.kind == "completed" else message.failed)
            self.close()
        elif event.kind == "state" and message.state.error.reason:
            self.say("state", headline)
        if headline and event.kind not in ("completed", "failed"):
            progress = message.snapshot if event.kind == "snapshot" else message.progress
            has_percent = event.kind in ("snapshot", "progress") and progress.HasField("progress_percent")
            percent = progress.progress_percent if has_percent else None
            self._update("job", headline, percent, 100 if has_percent else None, numbers)

    def saving(self, file: File, count: int) -> None:
        numbers = f"{format_bytes(count)} of {format_bytes(file.size_bytes)}"
        self._update(file.url, f"saving {printable(file.name)}", count, file.size_bytes, numbers)

    def saved(self, file: File, saved: Saved) -> None:
        self.close()
        self._print(_saved_line(saved))

    def say(self, kind: str, text: str, **data: object) -> None:
        self._print(printable(text))

    def close(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._progress.remove_task(self._task)
            self._task = None

    def _update(
        self, subject: str, description: str, completed: float | None, total: float | None, numbers: str
    ) -> None:
        if self._task is None or self._subject != subject:
            self.close()
            self._subject = subject
            self._task = self._progress.add_task(description, total=total, numbers=numbers)
            self._progress.start()
        self._progress.update(
            self._task, description=description, completed=completed, total=total, numbers=numbers
        )

    def _print_title(self, job: Download) -> None:
        if job.title and job.title != self._title:
            self._title = job.title
            self.say("title", job.title)

    def _print(self, line: str) -> None:
        from rich.text import Text

        self._console.print(Text(line), soft_wrap=True)


def describe(event: Event) -> tuple[str, str]:
    """Return a headline and the numbers of *event* for people; either may be empty."""
    message = event.message
    match event.kind:
        case "snapshot":
            return _describe_job(message.snapshot), format_progress(message.snapshot)
        case "progress":
            return _describe_progress(message.progress), format_progress(message.progress)
        case "state":
            return _describe_state(message.state), ""
        case "completed":
            return "succeeded", ""
        case "failed":
            return format_enum(status_name(message.failed)), ""
        case "reconnecting":
            return "reconnecting", ""
    return "", ""


def format_progress(progress: Download | WatchProgressResponse.Progress) -> str:
    """Return percentage, bytes, speed and time left, as far as they are known."""
    parts = []
    if progress.HasField("progress_percent"):
        parts.append(f"{progress.progress_percent:.0f}%")
    if progress.job_counts:
        parts.append(_format_counts(progress.job_counts))
    if progress.HasField("total_bytes"):
        parts.append(f"{format_bytes(progress.downloaded_bytes)} of {format_bytes(progress.total_bytes)}")
    elif progress.downloaded_bytes:
        parts.append(format_bytes(progress.downloaded_bytes))
    if progress.speed:
        parts.append(f"{format_bytes(progress.speed)}/s")
    if progress.HasField("eta_seconds"):
        parts.append(f"{format_duration(progress.eta_seconds)} left")
    return "  ".join(parts)


def status_name(job: Download) -> str:
    """Return the name of the status; RUNNING for one that this client does not know."""
    if job.status and job.status in Download.Status.values():
        return Download.Status.Name(job.status)
    return "RUNNING"


def _saved_line(saved: Saved) -> str:
    return printable(f"saved {saved.path}  {format_bytes(saved.size_bytes)}  sha256:{saved.sha256}")


def _format_counts(counts: Mapping[str, int]) -> str:
    """Return how many jobs of a playlist have succeeded and failed."""
    text = f"{counts.get('SUCCEEDED', 0)} of {sum(counts.values())} jobs"
    failed = counts.get("FAILED", 0)
    return f"{text}, {failed} failed" if failed else text


def _describe_progress(progress: WatchProgressResponse.Progress) -> str:
    if progress.wait_reason:
        return f"{format_enum(Progress.Stage.Name(progress.stage))} ({format_enum(progress.wait_reason)})"
    return _describe_stage(progress)


def _describe_stage(message: Download | WatchProgressResponse.Progress) -> str:
    # The detail of an upload says why it waits for storage.
    waits = message.stage == Progress.UPLOADING and message.detail
    return format_enum(Progress.Stage.Name(message.stage)) + (
        f" ({printable(message.detail)})" if waits else ""
    )


def _describe_job(job: Download) -> str:
    unfinished = [each.delivery for each in job.files if each.delivery.status in ("PENDING", "RUNNING")]
    if unfinished:
        message = next((each.error.message for each in unfinished if each.error.message), "")
        return printable(f"delivering to {job.deliver_to}" + (f" ({message})" if message else ""))
    is_busy = job.status == Download.RUNNING or job.job_counts
    if is_busy and job.stage and not job.wait_reason:
        return _describe_stage(job)
    position = f", {job.position} in line" if job.position else ""
    reason = f" ({format_enum(job.wait_reason)}{position})" if job.wait_reason else ""
    return format_enum(status_name(job)) + reason


def _describe_state(state: WatchProgressResponse.State) -> str:
    text = format_enum(status_name(Download(status=state.status)))
    if state.error.reason:
        text += f" after {state.error.reason}: {printable(state.error.message)}"
    elif state.wait_reason:
        text += f" ({format_enum(state.wait_reason)})"
    return text
