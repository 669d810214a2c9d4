"""What the command line prints for people: tables, plots, live lines at any width."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from reelhaul.cli.board import Board
from reelhaul.cli.live_display import LiveDisplay
from reelhaul.cli.output import format_table
from reelhaul.cli.stats import bar, format_step, sparkline
from reelhaul.downloads.v1.download_pb2 import Download, Error, File
from reelhaul.downloads.v1.download_service_pb2 import WatchProgressResponse
from reelhaul.rest import Event
from reelhaul.type.v1.media_pb2 import Progress

_ID = "01990000-0000-7000-8000-000000000001"


def test_table_with_room():
    """Columns are aligned under their names; the last is cut; an empty one is left out."""
    rows = [["1", "", "a title that is far too long for this terminal"], ["22", "", "短い題名"]]
    assert format_table(["id", "reason", "title"], rows, 30) == [
        "ID  TITLE",
        "1   a title that is far too l…",
        "22  短い題名",
    ]


def test_table_in_a_narrow_terminal():
    """Without room for the columns each row has lines of its own, none wider than the terminal."""
    lines = format_table(["id", "status", "title"], [[_ID, "SUCCEEDED", "A title of a video"]], 40)
    assert lines == [_ID, "  SUCCEEDED  A title of a video"]
    for width in (20, 30, 60, 120):
        table = format_table(["id", "status", "title"], [[_ID, "SUCCEEDED", "題" * 100]], width)
        assert max(map(cell_len, table)) <= width


def test_plots():
    """A bar is never empty, and a column is empty for nothing alone."""
    assert bar(1, 10) == "█" * 10
    assert bar(0.5, 10) == "█" * 5
    assert bar(0.0001, 10) == "▏"
    assert sparkline([0, 1, 500, 1000]) == " ▁▄█"
    assert sparkline([]) == ""
    assert [format_step(seconds) for seconds in (60, 900, 3600, 21600, 86400)] == [
        "minute",
        "15 minutes",
        "hour",
        "6 hours",
        "day",
    ]


def running(number: int, **fields: object) -> Download:
    return Download(
        job_id=str(number), status=Download.RUNNING, stage=Progress.DOWNLOADING, batch_id="b", **fields
    )


def terminal(width: int, height: int = 20) -> Console:
    """Return a terminal without colours that keeps what is written to it."""
    options = {"highlight": False, "markup": False, "emoji": False}
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **options)


def written(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def live_lines(board: Board, width: int, height: int = 20) -> list[str]:
    """Return the live lines of *board* in a terminal of this size, as they are shown last."""
    console = terminal(width, height)
    display = LiveDisplay(console)
    display.board(board)
    display.close()
    # The last frame, which is erased then.
    frame, _, _ = written(console).partition("\x1b[?25h")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).splitlines()


@pytest.fixture
def board() -> Board:
    """A batch: one job is done, one has failed, two run, one waits."""
    board = Board()
    jobs = [
        Download(job_id="1", status=Download.SUCCEEDED, batch_id="b"),
        Download(job_id="2", status=Download.FAILED, batch_id="b", error=Error(reason="MEDIA_NOT_FOUND")),
        running(3, title="[red]:smile: 題名 of a long video", progress_percent=50, speed=2e6, eta_seconds=65),
        running(4, url="https://a.example/watch?v=4"),
        Download(job_id="5", status=Download.QUEUED, batch_id="b"),
    ]
    assert list(board.update(jobs)) == jobs
    return board


def test_board(board):
    """A board knows what is done, counts a running job by its part, and reports changes once."""
    assert board.done() == 2.5
    assert board.speed() == 2e6
    assert (board.has_ended, board.is_complete) == (False, True)
    assert list(board.update([running(3, progress_percent=60)])) == []
    changed = running(3)
    changed.status = Download.SUCCEEDED
    assert list(board.update([changed])) == [changed]


@pytest.mark.parametrize("width", [24, 40, 60, 89, 90, 120, 200])
def test_live_lines_fit_the_terminal(board, width):
    """Each running job has one line, below is the whole total, and no line is wider than the terminal."""
    lines = live_lines(board, width)
    assert max(map(cell_len, lines)) <= width
    assert "[red]:" in lines[0]
    assert "50%" in lines[0]
    total = " ".join(" ".join(lines[2:]).split())
    assert total.startswith("1 of 5 done, 1 failed, 2 running, 1 waiting 2.0 MB/s")
    assert ("2.0 MB/s" in lines[0]) == (width >= 60)


def test_more_running_jobs_than_lines(board):
    """What does not fit below one another is counted."""
    list(board.update(running(number, title="A title") for number in range(10, 40)))
    lines = live_lines(board, 80, height=12)
    assert len(lines) == 10
    assert "and 24 more" in lines[-2]


def test_live_display_of_one_job():
    """A terminal gets a live line; markup in a title is plain text; an unknown percentage is not shown."""
    console = terminal(120)
    display = LiveDisplay(console)
    display.event(Event("snapshot", WatchProgressResponse(snapshot=Download(title="[red]:smile:"))))
    progress = WatchProgressResponse.Progress(stage=3, downloaded_bytes=1e6, speed=2e6)
    display.event(Event("progress", WatchProgressResponse(progress=progress)))
    display.saving(File(name="A \x1b[2J video.mp4", size_bytes=100), 50)
    display.close()
    assert "[red]:smile:" in written(console)
    assert "1.0 MB  2.0 MB/s" in written(console)
    assert "\x1b[2J" not in written(console)


def test_closed_display_leaves_no_lines():
    """After the end the live lines are erased and the cursor is shown; closing again does nothing."""
    console = terminal(80)
    display = LiveDisplay(console)
    display.board(Board())
    display.close()
    end = written(console)
    assert "\x1b[?25h" in end
    assert end.endswith("\x1b[2K")
    display.close()
    assert written(console) == end
