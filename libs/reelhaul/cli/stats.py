"""``reelhaul stats``: what was downloaded over a time, with plots."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration

from reelhaul.cli.options import Connect, client_command
from reelhaul.cli.output import (
    as_json_value,
    emit_json,
    format_bytes,
    format_duration,
    format_enum,
    printable,
    to_local,
)
from reelhaul.cli.parameters import Seconds, Time, format_timestamp
from reelhaul.jobs.v1.job_service_pb2 import SummarizeJobsResponse

_BARS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
# Widths of buckets from which the first is chosen that gives no more buckets than columns.
_STEPS = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400)
_MAX_COLUMNS, _MAX_REASONS = 72, 10


@click.command()
@click.option(
    "--since", type=Time(), default="24h", show_default=True, help="Start: 7d, or a time such as 2026-12-01."
)
@click.option("--until", type=Time(), help="End. Default: now.")
@click.option("--step", type=Seconds(), help="Width of a bar, e.g. 1h. Default: what fits.")
@click.option("--filter", "where", default="", help='Only jobs that match, e.g. labels.team = "red".')
@client_command
def stats(
    since: datetime, until: datetime | None, step: int | None, where: str, connect: Connect, as_json: bool
) -> None:
    """Show what was downloaded, with plots: jobs, bytes, failures.

    The jobs are those created since, by default, a day ago.
    """
    end = until or datetime.now(UTC)
    if since >= end:
        raise click.UsageError("--since must be before --until")
    columns = min(shutil.get_terminal_size().columns - 2, _MAX_COLUMNS)
    width = step or _choose_step(end - since, columns)
    query: dict[str, Any] = {
        "filter": where,
        "startTime": format_timestamp(since),
        "endTime": format_timestamp(end),
        "step": f"{width}s",
    }
    with connect() as client:
        summary = client.jobs.summarize(query)
    if as_json:
        emit_json(as_json_value(summary))
        return
    for line in _format(summary, since, end, width, columns):
        click.echo(printable(line) if line else "")


def _choose_step(span: timedelta, columns: int) -> int:
    """Return the width of a bucket in seconds, so that there are at most *columns*."""
    return next((step for step in _STEPS if span.total_seconds() / step <= columns - 1), _STEPS[-1])


def _format(
    summary: SummarizeJobsResponse, since: datetime, end: datetime, step: int, columns: int
) -> list[str]:
    total = summary.total
    count = sum(total.state_counts.values())
    jobs = f"{count} {'job' if count == 1 else 'jobs'}"
    span = " to ".join(f"{time.astimezone():%Y-%m-%d %H:%M}" for time in (since, end))
    lines = [f"{jobs} from {span}, {format_bytes(total.downloaded_bytes)} received"]
    if total.HasField("latency_p50"):
        half, longest = (format_duration(_seconds(each)) for each in (total.latency_p50, total.latency_p95))
        lines.append(f"half of them done within {half}, 95 % within {longest}")
    lines += _bars("by state", {format_enum(k): v for k, v in total.state_counts.items()}, columns)
    lines += _bars("by reason of failure", dict(total.error_counts), columns)
    if count:
        buckets = summary.series
        created = [sum(bucket.state_counts.values()) for bucket in buckets]
        received = [bucket.downloaded_bytes for bucket in buckets]
        times = f"{to_local(buckets[0].start_time):%b %d %H:%M}" if buckets else ""
        every = format_step(step)
        lines += _spark(f"jobs per {every}", created, f"up to {max(created, default=0)}", times)
        lines += _spark(
            f"bytes per {every}", received, f"up to {format_bytes(max(received, default=0))}", times
        )
    return lines


def _bars(title: str, counts: Mapping[str, int], columns: int) -> list[str]:
    """Return a horizontal bar for each of the largest *counts*."""
    largest = sorted(counts.items(), key=lambda item: -item[1])[:_MAX_REASONS]
    if not largest:
        return []
    names, digits = max(len(name) for name, _ in largest), len(str(largest[0][1]))
    room = max(columns - min(names, columns // 2) - digits - 4, 4)
    lines = ["", title]
    for name, count in largest:
        label = name[: columns // 2].ljust(min(names, columns // 2))
        lines.append(f"  {label} {count:>{digits}} {bar(count / largest[0][1], room)}")
    return lines


def bar(share: float, width: int) -> str:
    """Return a horizontal bar of *share* (0 to 1) of *width* columns, to an eighth of one; never empty."""
    eighths = max(round(share * width * 8), 1)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _spark(title: str, values: Sequence[int], scale: str, start: str) -> list[str]:
    """Return a line of vertical bars, oldest first."""
    if not any(values):
        return []
    return ["", f"{title}, {scale}, from {start}", "  " + sparkline(values)]


def sparkline(values: Sequence[float]) -> str:
    """Return one character for each value: its height among the eight of a line; a blank for 0 alone."""
    top = max(values, default=0) or 1
    return "".join(_BARS[max(round(8 * value / top), 1 if value else 0)] for value in values)


def format_step(seconds: int) -> str:
    """Return the width of a bucket in words, e.g. "hour" or "15 minutes"."""
    for unit, name in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % unit == 0:
            return name if seconds == unit else f"{seconds // unit} {name}s"
    return f"{seconds} seconds"


def _seconds(duration: Duration) -> float:
    return duration.ToTimedelta().total_seconds()
