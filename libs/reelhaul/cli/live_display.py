"""The display at a terminal: lines that stay, and below them live ones, as many as there are running jobs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from reelhaul.cli.display import describe_board, retry_line, saved_line
from reelhaul.cli.job_status import describe, describe_job, format_progress, format_rate, job_title
from reelhaul.cli.output import format_bytes, printable
from reelhaul.downloads.v1.download_pb2 import Download, File
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import Event, Saved

if TYPE_CHECKING:
    from reelhaul.cli.board import Board

# What fits at which width, in columns.
_WITH_BAR, _WITH_TOTAL_BAR, _WITH_DETAILS = 90, 80, 60
_BAR_COLUMNS, _STAGE_COLUMNS = 20, 24
# Lines of the terminal that stay free of running jobs.
_OTHER_LINES = 4
_PER_SECOND = 8


@dataclass(slots=True)
class _Row:
    """A live line; texts are printable."""

    title: str
    stage: str = ""
    #: 0 to 100; None if unknown.
    percent: float | None = None
    #: All that is known, for wide terminals, and the most important of it.
    numbers: str = ""
    rate: str = ""


class LiveDisplay:
    """Lines that stay, and below them a live one for each running job and each file that is being saved."""

    def __init__(self, console: Console | None = None) -> None:
        # Titles are untrusted: markup and emoji codes in them must have no effect.
        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._lines = _LiveLines()
        self._live: Live | None = None
        self._title = ""

    def event(self, event: Event) -> None:
        """Update the line of the only job; print titles and errors above it, where they stay."""
        message = event.message
        if event.kind in ("snapshot", "completed", "failed"):
            job: Download = getattr(message, event.kind)
            if job.title and job.title != self._title:
                self._title = job.title
                self.say("title", job.title)
        headline, numbers = describe(event)
        if event.kind in ("completed", "failed"):
            self.close()
            return
        if event.kind == "state" and message.state.error.reason:
            self.say("state", headline)
        if headline:
            progress = message.snapshot if event.kind == "snapshot" else message.progress
            row = _Row(headline, numbers=numbers)
            if event.kind in ("snapshot", "progress"):
                row = _Row(headline, "", *_numbers(progress))
            self._lines.rows = [row]
            self._show()

    def job(self, job: Download) -> None:
        if line := retry_line(job):
            self.say("job", line)

    def board(self, board: Board) -> None:
        self._lines.rows = [_Row(job_title(job), describe_job(job), *_numbers(job)) for job in board.running]
        self._lines.total = describe_board(board)
        self._lines.done = (board.done(), len(board.items)) if board.is_complete else None
        self._show()

    def saving(self, file: File, count: int) -> None:
        numbers = f"{format_bytes(count)} of {format_bytes(file.size_bytes)}"
        percent = 100 * count / file.size_bytes if file.size_bytes else None
        self._lines.saving = _Row(printable(file.name), "saving", percent, numbers, "")
        self._show()

    def saved(self, saved: Saved) -> None:
        self._lines.saving = None
        line = saved_line(saved)
        if sys.stdout.isatty():
            self.say("saved", line)
        else:
            click.echo(str(saved.path))

    def say(self, kind: str, text: str, **data: object) -> None:
        self._console.print(Text(printable(text)), soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._lines.rows, self._lines.saving, self._lines.total = [], None, ""

    def _show(self) -> None:
        if self._live is None:
            # Redirection would send what the command produces to standard error.
            self._live = Live(
                self._lines,
                console=self._console,
                transient=True,
                refresh_per_second=_PER_SECOND,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()


class _LiveLines:
    """The live lines, laid out anew for the width of each refresh."""

    def __init__(self) -> None:
        self.rows: list[_Row] = []
        #: The file that is being saved.
        self.saving: _Row | None = None
        self.total = ""
        #: How many of how many jobs are done; None until their number is known.
        self.done: tuple[float, int] | None = None
        self._spinner = Spinner("dots")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, room = options.max_width, max(console.height - _OTHER_LINES, 1)
        rows = [*self.rows, *([self.saving] if self.saving else [])]
        if rows:
            yield self._grid(rows[:room], width)
        if len(rows) > room:
            yield Text(f"  and {len(rows) - room} more", style="dim")
        if self.total:
            yield from self._total_line(width)

    def _total_line(self, width: int) -> Iterator[Table]:
        line = Table.grid(padding=(0, 1), expand=True)
        cells: list[Text | ProgressBar] = [Text(self.total)]
        line.add_column(ratio=1)
        if width >= _WITH_TOTAL_BAR:
            line.add_column(width=_BAR_COLUMNS)
            completed, total = self.done or (0, None)
            bar = ProgressBar(total=total, completed=completed, width=_BAR_COLUMNS, pulse=total is None)
            cells.append(bar)
        line.add_row(*cells)
        yield line

    def _grid(self, rows: list[_Row], width: int) -> Table:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=1)
        grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        has_stage = any(row.stage for row in rows)
        if has_stage and width >= _WITH_DETAILS:
            grid.add_column(max_width=_STAGE_COLUMNS, no_wrap=True, overflow="ellipsis")
        if width >= _WITH_BAR:
            grid.add_column(width=_BAR_COLUMNS)
        grid.add_column(justify="right", no_wrap=True, overflow="ellipsis", min_width=4)
        if width >= _WITH_DETAILS:
            grid.add_column(justify="right", no_wrap=True)
        for row in rows:
            grid.add_row(*self._cells(row, width, has_stage))
        return grid

    def _cells(self, row: _Row, width: int, has_stage: bool) -> Iterator[Text | Spinner | ProgressBar]:
        yield self._spinner
        yield Text(row.title)
        if has_stage and width >= _WITH_DETAILS:
            yield Text(row.stage, style="dim")
        if width >= _WITH_BAR:
            is_known = row.percent is not None
            yield ProgressBar(100 if is_known else None, row.percent or 0, _BAR_COLUMNS, pulse=not is_known)
        percent = "" if row.percent is None else f"{row.percent:.0f}%"
        yield Text(percent or (row.stage if width < _WITH_DETAILS else ""))
        if width >= _WITH_DETAILS:
            yield Text(row.numbers if width >= _WITH_BAR else row.rate or row.numbers)


def _numbers(progress: Download | WatchProgressResponse.Progress) -> tuple[float | None, str, str]:
    percent = progress.progress_percent if progress.HasField("progress_percent") else None
    return percent, format_progress(progress, with_percent=False), format_rate(progress)
