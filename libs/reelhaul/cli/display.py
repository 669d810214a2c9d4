"""What is shown while a download runs: a live bar, plain lines, or JSON lines."""

from __future__ import annotations

import sys
import time
from typing import Protocol

import click

from reelhaul.cli.options import as_json_value, emit_json
from reelhaul.cli.output import format_bytes, format_duration, printable, word
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import Event, Saved
from reelhaul.type.v1.media_pb2 import Progress

_LINE_EVERY_SECONDS = 5.0


class Display(Protocol):
    """Where the commands tell what happens."""

    def event(self, event: Event) -> None:
        """The server told something of the job."""

    def saving(self, file: File, count: int) -> None:
        """*count* bytes of *file* are here."""

    def saved(self, file: File, saved: Saved) -> None:
        """*file* is here, whole and verified."""

    def say(self, kind: str, text: str, **more: object) -> None:
        """Something of our own: *text* for people, *kind* and *more* for programs."""

    def close(self) -> None:
        """Nothing follows."""


def chosen(as_json: bool) -> Display:
    """The display that suits whoever reads standard output."""
    if as_json:
        return JsonLines()
    if sys.stdout.isatty():
        from reelhaul.cli.progress_bar import LiveBar

        return LiveBar()
    return PlainLines()


class JsonLines:
    """One object a line: the server's messages with their type, and ours."""

    def event(self, event: Event) -> None:
        """The message as the server wrote it; heartbeats are left out."""
        if event.kind != "heartbeat":
            emit_json({"type": event.kind, **event.raw})

    def saving(self, file: File, count: int) -> None:
        """Not told: programs wait for the whole file."""

    def saved(self, file: File, saved: Saved) -> None:
        """Where the file lies."""
        told = {"path": str(saved.path), "size_bytes": saved.size_bytes, "sha256": saved.sha256}
        emit_json({"type": "saved", "file": as_json_value(file), **told})

    def say(self, kind: str, text: str, **more: object) -> None:
        """As an object of type *kind*."""
        emit_json({"type": kind, "message": text, **more})

    def close(self) -> None:
        """Nothing to do."""


class PlainLines:
    """A line for each change of status or stage, and now and then one of progress."""

    def __init__(self) -> None:
        self._last, self._told = "", 0.0

    def event(self, event: Event) -> None:
        """A line, unless it would say again what the last one said."""
        headline, numbers = described(event)
        now = time.monotonic()
        if headline and (headline != self._last or (numbers and now - self._told >= _LINE_EVERY_SECONDS)):
            self._last, self._told = headline, now
            click.echo(f"{headline}  {numbers}".rstrip())

    def saving(self, file: File, count: int) -> None:
        """Not told: it takes moments."""

    def saved(self, file: File, saved: Saved) -> None:
        """Where the file lies."""
        click.echo(saved_line(saved))

    def say(self, kind: str, text: str, **more: object) -> None:
        """The text."""
        click.echo(printable(text))

    def close(self) -> None:
        """Nothing to do."""


def described(event: Event) -> tuple[str, str]:
    """What *event* says, for people: a headline and numbers, either may be empty."""
    message = event.message
    match event.kind:
        case "snapshot":
            return _status(message.snapshot), numbers(message.snapshot)
        case "progress":
            return word(Progress.Stage.Name(message.progress.stage)), numbers(message.progress)
        case "state":
            return _state(message.state), ""
        case "completed":
            return "succeeded", ""
        case "failed":
            return word(status_name(message.failed)), ""
        case "reconnecting":
            return "reconnecting", ""
    return "", ""


def numbers(progress: Download | WatchProgressResponse.Progress) -> str:
    """Percentage, bytes, speed and time left, as far as they are known."""
    told = []
    if progress.HasField("progress_percent"):
        told.append(f"{progress.progress_percent:.0f}%")
    if progress.HasField("total_bytes"):
        told.append(f"{format_bytes(progress.downloaded_bytes)} of {format_bytes(progress.total_bytes)}")
    elif progress.downloaded_bytes:
        told.append(format_bytes(progress.downloaded_bytes))
    if progress.speed:
        told.append(f"{format_bytes(progress.speed)}/s")
    if progress.HasField("eta_seconds"):
        told.append(f"{format_duration(progress.eta_seconds)} left")
    return "  ".join(told)


def status_name(job: Download) -> str:
    """The status by name; one that this client does not know is RUNNING."""
    known = job.status in Download.Status.values() and job.status
    return Download.Status.Name(job.status) if known else "RUNNING"


def saved_line(saved: Saved) -> str:
    """One line on a file that is there."""
    return printable(f"saved {saved.path}  {format_bytes(saved.size_bytes)}  sha256:{saved.sha256}")


def _status(job: Download) -> str:
    if job.status == Download.RUNNING and job.stage:
        return word(Progress.Stage.Name(job.stage))
    place = f", {job.position} in line" if job.position else ""
    return word(status_name(job)) + (f" ({word(job.wait_reason)}{place})" if job.wait_reason else "")


def _state(state: WatchProgressResponse.State) -> str:
    told = word(status_name(Download(status=state.status)))
    if state.error.reason:
        told += f" after {state.error.reason}: {printable(state.error.message)}"
    elif state.wait_reason:
        told += f" ({word(state.wait_reason)})"
    return told
