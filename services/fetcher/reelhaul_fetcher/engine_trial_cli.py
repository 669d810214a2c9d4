"""What ``reelhaul fetcher canary`` does: trials, their table, and the verdict."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from reelhaul_fetcher.engine_trial import Outcome, collect_engine, trials
from reelhaul_fetcher.settings import Settings

_HEAD = ("engine", "seconds", "formats", "height", "MB", "outcome")


def run_trial(urls: Sequence[str], engine: str | None, *, as_json: bool) -> int:
    """Try *urls* and show how it went; 1 where the other engine is worse, or the only one failed.

    Raises ValueError where there is no such engine.
    """
    with tempfile.TemporaryDirectory(prefix="reelhaul-canary-") as folder:
        place = Path(folder)
        candidate = collect_engine(engine, place) if engine else None
        worse = asyncio.run(_compared(urls, place, candidate, as_json=as_json))
    if not as_json:
        who, bad = ("the other engine", "is worse") if engine else ("the engine", "fails")
        click.echo(f"{who} {bad} at {worse} of {len(urls)}" if worse else f"{who} is good")
    return int(bool(worse))


async def _compared(urls: Sequence[str], place: Path, candidate: Path | None, *, as_json: bool) -> int:
    """How many of *urls* the candidate, or without one the present engine, is worse at."""
    worse = 0
    async with trials(Settings(), place, candidate) as engines:
        for url in urls:
            outcomes = [await engine.outcome(url) for engine in engines]
            _show(url, outcomes, as_json=as_json)
            last = outcomes[-1]
            worse += last.worse_than(outcomes[0]) if candidate else bool(last.reason)
    return worse


def _show(url: str, outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        for outcome in outcomes:
            click.echo(json.dumps(asdict(outcome)))
        return
    rows = [_HEAD, *map(_row, outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    click.echo(url)
    for row in rows:
        click.echo(
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def _row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.engine,
        f"{outcome.seconds:.1f}",
        str(outcome.formats),
        str(outcome.height),
        f"{outcome.received_bytes / 1e6:.1f}",
        " ".join(outcome.reason.split())[:200] or "ok",
    )
