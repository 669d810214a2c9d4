"""Displays of running downloads: JSON lines, plain lines, or live lines at a terminal.

What a command does goes to standard error, what it produces (paths, ids, JSON) to standard output.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Protocol

import click

from reelhaul.cli.job_status import describe, describe_error, job_title, status_name
from reelhaul.cli.output import as_json_value, emit_json, format_bytes, printable
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.rest import Event, Saved

if TYPE_CHECKING:
    from reelhaul.cli.board import Board

_SECONDS_BETWEEN_LINES = 5.0


class Display(Protocol):
    """Shows what happens during a command; threads may call it at the same time."""

    def event(self, event: Event) -> None:
        """Show an event of the only job."""

    def job(self, job: Download) -> None:
        """Show that the status of *job*, one of several, has changed, if it is of interest."""

    def board(self, board: Board) -> None:
        """Show the present state of several jobs."""

    def saving(self, file: File, count: int) -> None:
        """Show that *count* bytes of *file* have been received."""

    def saved(self, saved: Saved) -> None:
        """Show that a file is saved and verified, and print where."""

    def say(self, kind: str, text: str, **data: object) -> None:
        """Show a message of the command: *text* for people, *kind* and *data* for programs."""

    def close(self) -> None:
        """Release the terminal; may be called more than once."""


def create_display(as_json: bool) -> Display:
    """Return the display that suits the reader of standard error, or of JSON."""
    if as_json:
        return JsonLines()
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        from reelhaul.cli.live_display import LiveDisplay

        return LiveDisplay()
    return PlainLines()


class JsonLines:
    """One JSON object per line: the server's messages with their type, and the command's own."""

    def event(self, event: Event) -> None:
        """Print the message with its kind."""
        emit_json({"type": event.kind, **as_json_value(event.message)})

    def job(self, job: Download) -> None:
        emit_json({"type": "job", **as_json_value(job)})

    def board(self, board: Board) -> None:
        """Print nothing: each change of a job has a line."""

    def saving(self, file: File, count: int) -> None:
        """Print nothing: programs wait for the whole file."""

    def saved(self, saved: Saved) -> None:
        result = {
            "path": str(saved.path),
            "size_bytes": saved.size_bytes,
            "sha256": saved.sha256,
            "outcome": saved.outcome,
        }
        emit_json({"type": "saved", "file": as_json_value(saved.file), **result})

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
        if headline:
            self._progress(headline, numbers)

    def job(self, job: Download) -> None:
        if line := retry_line(job):
            self.say("job", line)

    def board(self, board: Board) -> None:
        """Print the total at intervals."""
        self._progress("", describe_board(board))

    def saving(self, file: File, count: int) -> None:
        """Print nothing: saving takes only moments."""

    def saved(self, saved: Saved) -> None:
        if sys.stdout.isatty():
            click.echo(saved_line(saved))
        else:
            self.say("saved", saved_line(saved))
            click.echo(str(saved.path))

    def say(self, kind: str, text: str, **data: object) -> None:
        click.echo(printable(text), err=True)

    def close(self) -> None:
        """Do nothing."""

    def _progress(self, headline: str, numbers: str) -> None:
        now = time.monotonic()
        is_due = numbers and now - self._time >= _SECONDS_BETWEEN_LINES
        if headline != self._headline or is_due:
            self._headline, self._time = headline, now
            click.echo(f"{headline}  {numbers}".strip(), err=True)


def retry_line(job: Download) -> str:
    """Return a line on one of several jobs that is tried again after a failure; empty for others."""
    if status_name(job) != "RETRYING" or not job.HasField("error"):
        return ""
    return f"retrying  {job_title(job)}: {describe_error(job)}"


def describe_board(board: Board) -> str:
    """Return the total of several jobs for people."""
    counts = board.count()
    more = "" if board.is_complete else " or more"
    parts = [f"{counts['SUCCEEDED']} of {sum(counts.values())}{more} done"]
    waiting = counts["QUEUED"] + counts["RETRYING"] + counts["PAUSED"]
    for number, word in (
        (counts["FAILED"], "failed"),
        (counts["CANCELLED"], "cancelled"),
        (len(board.running), "running"),
        (waiting, "waiting"),
    ):
        if number:
            parts.append(f"{number} {word}")
    text = ", ".join(parts)
    return f"{text}  {format_bytes(board.speed())}/s" if board.speed() else text


def saved_line(saved: Saved) -> str:
    """Return where a file is saved, with its size and digest."""
    verb = "saved" if saved.outcome == "saved" else "already there:"
    return printable(f"{verb} {saved.path}  {format_bytes(saved.size_bytes)}  sha256:{saved.sha256}")
