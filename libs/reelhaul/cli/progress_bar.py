"""The live bar on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.text import Text

from reelhaul.cli.display import described, saved_line
from reelhaul.cli.output import format_bytes, printable
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.rest import Event, Saved


class LiveBar:
    """One bar for the job, then one for each file while it is saved."""

    def __init__(self, console: Console | None = None) -> None:
        # Foreign text is data: neither markup nor emoji codes in it mean anything.
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
        self._of = self._title = self._headline = ""

    def event(self, event: Event) -> None:
        """Move the bar; what must not be lost to its redrawing becomes a line above it."""
        headline, figures = described(event)
        message = event.message
        if event.kind == "snapshot":
            self._show_title(message.snapshot)
        if event.kind in ("completed", "failed"):
            self._show_title(message.completed if event.kind == "completed" else message.failed)
            self._end()
        elif event.kind == "state" and message.state.error.reason:
            self.say("state", headline)
        if headline and event.kind not in ("completed", "failed"):
            told = message.snapshot if event.kind == "snapshot" else message.progress
            known = event.kind in ("snapshot", "progress") and told.HasField("progress_percent")
            percent = told.progress_percent if known else None
            self._move("job", headline, percent, 100 if known else None, figures)

    def saving(self, file: File, count: int) -> None:
        """A bar of bytes."""
        self._move(
            file.url,
            f"saving {printable(file.name)}",
            count,
            file.size_bytes,
            f"{format_bytes(count)} of {format_bytes(file.size_bytes)}",
        )

    def saved(self, file: File, saved: Saved) -> None:
        """A line that stays."""
        self._end()
        self._console.print(Text(saved_line(saved)), soft_wrap=True)

    def say(self, kind: str, text: str, **more: object) -> None:
        """A line that stays."""
        self._console.print(Text(printable(text)), soft_wrap=True)

    def close(self) -> None:
        """Take the bar away and give the terminal back."""
        self._end()

    def _move(self, of: str, text: str, completed: float | None, total: float | None, figures: str) -> None:
        if self._task is None or self._of != of:
            self._end()
            self._of, self._task = of, self._progress.add_task(text, total=total, numbers=figures)
            self._progress.start()
        self._progress.update(self._task, description=text, completed=completed, total=total, numbers=figures)

    def _end(self) -> None:
        if self._task is not None:
            self._progress.stop()
            self._progress.remove_task(self._task)
            self._task = None

    def _show_title(self, job: Download) -> None:
        if job.title and job.title != self._title:
            self._title = job.title
            self.say("title", job.title)
