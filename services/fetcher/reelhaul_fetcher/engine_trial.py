"""The canary: another version of the engine, tried beside the present one before it is let near jobs."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, running_guard
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.model.engine_requests import FetchRequest, HttpStatusCounts, ProbeRequest, Product
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle
from reelhaul_runtime.errors import ReelhaulError, Unavailable

#: So much of each video is fetched; what is smaller, wholly.
SAMPLE_BYTES = 2 * 1024 * 1024

_PATIENCE_SECONDS = 90.0
_START_SECONDS = 30.0
_PACKAGES = ("yt_dlp", "yt_dlp_ejs")
_VERSION = re.compile(r"\d{4}\.\d{1,2}\.\d{1,2}(\.\w+)*")
_WHERE = "import os, yt_dlp; print(os.path.dirname(os.path.dirname(os.path.abspath(yt_dlp.__file__))))"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one URL went with one engine. *reason* is empty where it went well."""

    engine: str
    url: str
    reason: str = ""
    seconds: float = 0.0
    formats: int = 0
    height: int = 0
    received_bytes: int = 0

    def worse_than(self, other: Outcome) -> bool:
        """Whether *other* gets what this one does not: media, its tallest picture, most of its formats."""
        if self.reason or other.reason:
            return bool(self.reason) and not other.reason
        return self.height < other.height or self.formats * 2 < other.formats


class _Sample:
    """Listens to a fetch until enough of it is there."""

    def __init__(self) -> None:
        self.status_counts = HttpStatusCounts()
        self.received_bytes = 0
        self.stop_recording = asyncio.Event()
        self.stop_reason: Warned.Reason.ValueType = Warned.RECORDING_CUT

    def on_recording(self) -> None:
        """It ends like any other."""

    def on_media_file(self, product: Product) -> None:
        """It is not kept."""

    def on_media(self, media: MediaInfo) -> None:
        """Known already."""

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        """There are none."""

    def on_progress(self, progress: Progress) -> None:
        """*progress* is the newest."""
        self.received_bytes = max(self.received_bytes, progress.downloaded_bytes)
        if self.received_bytes >= SAMPLE_BYTES:
            self.stop_recording.set()


class Trial:
    """One engine before a guard."""

    def __init__(self, engine: YtDlpEngine, guard: GuardSupervisor, egress: str, place: Path) -> None:
        self._engine, self._guard, self._egress, self._place = engine, guard, egress, place
        self._name, self._number = place.name, 0

    async def outcome(self, url: str) -> Outcome:
        """What comes of a probe of *url* and of the beginning of a download."""
        began, sample, media, reason = time.monotonic(), _Sample(), MediaInfo(), ""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                media = await self._probed(url)
                await self._sampled(url, sample)
        except ReelhaulError as error:
            reason = f"{ErrorReason.Name(error.reason)}: {error.text}"
        except TimeoutError:
            reason = f"nothing after {_PATIENCE_SECONDS:.0f} s"
        return Outcome(
            self._engine.version or self._name,
            url,
            reason,
            time.monotonic() - began,
            len(media.formats),
            max((stream.height for stream in media.formats), default=0),
            sample.received_bytes,
        )

    async def _probed(self, url: str) -> MediaInfo:
        try:
            async with asyncio.timeout(_START_SECONDS):
                await self._engine.wait_until_warm()
        except TimeoutError:
            raise Unavailable("fetcher", "the engine does not get warm") from None
        async with self._pass() as proxy_url:
            return await self._engine.probe(ProbeRequest(url, proxy_url))

    async def _sampled(self, url: str, sample: _Sample) -> None:
        async with self._pass() as proxy_url:
            folder = self._place / f"fetch-{self._number}"
            folder.mkdir()
            order = FetchRequest(url, FormatSpec(), folder, proxy_url)
            fetch = asyncio.create_task(self._engine.fetch(order, sample))
            enough = asyncio.create_task(sample.stop_recording.wait())
            try:
                await asyncio.wait({fetch, enough}, return_when=asyncio.FIRST_COMPLETED)
                if fetch.done():
                    await fetch
            finally:
                for task in (fetch, enough):
                    task.cancel()
                await asyncio.wait({fetch, enough})

    @asynccontextmanager
    async def _pass(self) -> AsyncIterator[str]:
        self._number += 1
        name = f"{self._name}-{self._number}"
        url = await self._guard.open(name, 0, self._egress)
        try:
            yield url
        finally:
            await self._guard.close(name)


@asynccontextmanager
async def trials(settings: Settings, place: Path, candidate: Path | None) -> AsyncIterator[list[Trial]]:
    """The present engine, and that of *candidate* (a folder with its packages), before the same guard."""
    networks = tuple(str(network) for network in settings.fetcher_allow_networks)
    home = place / "home"
    home.mkdir()
    trusted = write_ca_bundle(settings.fetcher_ca_file, home)
    plugins = bool(settings.fetcher_po_token_url)
    present = build_environment(tools.link(place / "tools"), home, trusted, plugins=plugins)
    engines = {"present": present}
    if candidate:
        path = ":".join(filter(None, [str(candidate), present.get("PYTHONPATH")]))
        engines["candidate"] = {**present, "PYTHONPATH": path}
    async with AsyncExitStack() as stack:
        config = GuardConfig(allow_networks=networks, egresses=settings.egresses)
        guard = await stack.enter_async_context(running_guard(config))
        found = []
        for name, surroundings in engines.items():
            (place / name).mkdir()
            opened = YtDlpEngine.open(surroundings, name, settings.engine_options)
            engine = await stack.enter_async_context(opened)
            found.append(Trial(engine, guard, next(iter(settings.egresses)), place / name))
        yield found


def collect_engine(engine: str, place: Path) -> Path:
    """A folder with nothing but the packages of *engine*: a version, a folder, or a Python that has it.

    A version is downloaded. Raises ValueError where there is no such engine.
    """
    if _VERSION.fullmatch(engine):
        return _downloaded(engine, place)
    folder = Path(engine)
    if folder.is_file():
        done = subprocess.run([folder, "-c", _WHERE], capture_output=True, text=True, check=False)
        folder = Path(done.stdout.strip() or "/nowhere")
    if not (folder / "yt_dlp").is_dir():
        raise ValueError(f"there is no yt-dlp in {engine}")
    found = place / "engine"
    found.mkdir()
    for name in _PACKAGES:
        # Alone: what else lies there must not come before our own.
        if (folder / name).is_dir():
            (found / name).symlink_to((folder / name).absolute())
    return found


def _downloaded(version: str, place: Path) -> Path:
    found = place / "engine"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(found)]
    done = subprocess.run([*pip, f"yt-dlp=={version}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"yt-dlp {version} cannot be installed: {done.stderr.strip()[-300:]}")
    return found


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
