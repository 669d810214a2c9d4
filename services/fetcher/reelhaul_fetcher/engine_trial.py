"""Engine trial (``reelhaul fetcher canary``): compares another yt-dlp with the installed one."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, running_guard
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.model.engine_requests import FetchRequest, HttpStatusCounts, ProbeRequest, Product
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle
from reelhaul_runtime.child_process import environment_without_settings, module_command
from reelhaul_runtime.errors import ReelhaulError, Unavailable

#: Bytes of each video to download; a smaller one is downloaded completely.
SAMPLE_BYTES = 2 * 1024 * 1024

_TRIAL_SECONDS = 90.0
_WARM_SECONDS = 30.0

_PACKAGES = ("yt_dlp", "yt_dlp_ejs")
_VERSION = re.compile(r"\d{4}\.\d{1,2}\.\d{1,2}(\.\w+)*")
_PRINT_FOLDER = "import os, yt_dlp; print(os.path.dirname(os.path.dirname(os.path.abspath(yt_dlp.__file__))))"

_UNVERIFIED = (
    "warning: yt-dlp {version} is not verified: there is no hash to compare its download with;"
    " to try a release that you verified, unpack it and pass its folder to --engine"
)
_COLUMNS = ("engine", "seconds", "formats", "height", "MB", "outcome")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one URL with one engine. *reason* is empty if it succeeded."""

    engine: str
    url: str
    reason: str = ""
    seconds: float = 0.0
    formats: int = 0
    height: int = 0
    received_bytes: int = 0

    def is_worse_than(self, other: Outcome) -> bool:
        """Return whether only *other* succeeded, or it found a taller video or twice as many formats."""
        if self.reason or other.reason:
            return bool(self.reason) and not other.reason
        return self.height < other.height or self.formats * 2 < other.formats


def run_trial(urls: Sequence[str], engine: str | None, *, as_json: bool) -> int:
    """Try *urls* with the installed engine and with *engine*, and print the outcomes.

    Return 1 if the other engine is worse at any URL, or without one if the installed one fails at any.
    Raises ValueError if *engine* does not exist.
    """
    with tempfile.TemporaryDirectory(prefix="reelhaul-canary-") as name:
        folder = Path(name)
        candidate = collect_engine(engine, folder) if engine else None
        worse = asyncio.run(_compare(urls, folder, candidate, as_json=as_json))
    if not as_json:
        subject, verb = ("the other engine", "is worse") if engine else ("the engine", "fails")
        click.echo(f"{subject} {verb} at {worse} of {len(urls)}" if worse else f"{subject} is good")
    return int(bool(worse))


def collect_engine(engine: str, folder: Path) -> Path:
    """Return a folder with nothing but the packages of *engine*: a version, a folder, or a Python.

    A version is downloaded with pip, which verifies no hash: a warning says so. Raises ValueError if there
    is no such engine.
    """
    if _VERSION.fullmatch(engine):
        return _install(engine, folder)
    source = Path(engine)
    if source.is_file():
        # -I: without it, a yt_dlp in the working directory would run, and be taken for that Python's.
        process = _run([str(source), "-I", "-c", _PRINT_FOLDER])
        source = Path(process.stdout.strip() or "/nowhere")
    if not (source / "yt_dlp").is_dir():
        raise ValueError(f"there is no yt-dlp in {engine}")
    target = folder / "engine"
    target.mkdir()
    for name in _PACKAGES:
        # These alone: other packages of that folder must not hide our own.
        if (source / name).is_dir():
            (target / name).symlink_to((source / name).absolute())
    return target


def _install(version: str, folder: Path) -> Path:
    target = folder / "engine"
    click.echo(_UNVERIFIED.format(version=version), err=True)
    # Wheels only: an sdist would run its build code outside the sandbox.
    options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(target))
    process = _run([*module_command("pip", "install", *options), f"yt-dlp=={version}"])
    if process.returncode:
        raise ValueError(f"yt-dlp {version} cannot be installed: {process.stderr.strip()[-300:]}")
    return target


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = environment_without_settings()
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


async def _compare(urls: Sequence[str], folder: Path, candidate: Path | None, *, as_json: bool) -> int:
    """Return how many of *urls* the candidate is worse at, or the installed engine fails at."""
    worse = 0
    async with _open_trials(Settings(), folder, candidate) as trials:
        for url in urls:
            outcomes = [await trial.run(url) for trial in trials]
            _print(url, outcomes, as_json=as_json)
            last = outcomes[-1]
            worse += last.is_worse_than(outcomes[0]) if candidate else bool(last.reason)
    return worse


@asynccontextmanager
async def _open_trials(
    settings: Settings, folder: Path, candidate: Path | None
) -> AsyncIterator[list[_Trial]]:
    """Run the installed engine, and that of the folder *candidate*, behind one guard."""
    networks = tuple(str(network) for network in settings.fetcher_allow_networks)
    home = folder / "home"
    home.mkdir()
    ca_bundle = write_ca_bundle(settings.fetcher_ca_file, home)
    plugins = bool(settings.fetcher_po_token_url)
    installed = build_environment(tools.link(folder / "tools"), home, ca_bundle, plugins=plugins)
    environments = {"present": installed}
    if candidate:
        path = ":".join(filter(None, [str(candidate), installed.get("PYTHONPATH")]))
        environments["candidate"] = {**installed, "PYTHONPATH": path}
    async with AsyncExitStack() as stack:
        config = GuardConfig(allow_networks=networks, egresses=settings.egresses)
        guard = await stack.enter_async_context(running_guard(config))
        trials = []
        for name, environment in environments.items():
            (folder / name).mkdir()
            engine = await stack.enter_async_context(
                YtDlpEngine.open(environment, name, settings.engine_options)
            )
            trials.append(_Trial(engine, guard, next(iter(settings.egresses)), folder / name))
        yield trials


class _Trial:
    """One engine behind the guard, with a folder for its downloads."""

    def __init__(self, engine: YtDlpEngine, guard: GuardSupervisor, egress: str, folder: Path) -> None:
        self._engine, self._guard, self._egress, self._folder = engine, guard, egress, folder
        self._requests = 0

    async def run(self, url: str) -> Outcome:
        """Probe *url* and download the beginning of its media."""
        started, listener, media, reason = time.monotonic(), _SampleListener(), MediaInfo(), ""
        try:
            async with asyncio.timeout(_TRIAL_SECONDS):
                media = await self._probe(url)
                await self._download_sample(url, listener)
        except ReelhaulError as error:
            reason = f"{ErrorReason.Name(error.reason)}: {error.text}"
        except TimeoutError:
            reason = f"no result after {_TRIAL_SECONDS:.0f} s"
        return Outcome(
            self._engine.version or self._folder.name,
            url,
            reason,
            time.monotonic() - started,
            len(media.formats),
            max((stream.height for stream in media.formats), default=0),
            listener.received_bytes,
        )

    async def _probe(self, url: str) -> MediaInfo:
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await self._engine.wait_until_warm()
        except TimeoutError:
            raise Unavailable("fetcher", "the engine did not become ready") from None
        async with self._session() as proxy_url:
            return await self._engine.probe(ProbeRequest(url, proxy_url))

    async def _download_sample(self, url: str, listener: _SampleListener) -> None:
        async with self._session() as proxy_url:
            folder = self._folder / f"fetch-{self._requests}"
            folder.mkdir()
            request = FetchRequest(url, FormatSpec(), folder, proxy_url)
            fetch = asyncio.create_task(self._engine.fetch(request, listener))
            complete = asyncio.create_task(listener.complete.wait())
            try:
                await asyncio.wait({fetch, complete}, return_when=asyncio.FIRST_COMPLETED)
                if fetch.done():
                    await fetch
            finally:
                for task in (fetch, complete):
                    task.cancel()
                await asyncio.wait({fetch, complete})

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[str]:
        """Open a session of the guard for the block; yields the proxy's URL."""
        self._requests += 1
        name = f"{self._folder.name}-{self._requests}"
        url = await self._guard.open(name, 0, self._egress)
        try:
            yield url
        finally:
            await self._guard.close(name)


class _SampleListener:
    """Listener of a download, until the sample is complete."""

    def __init__(self) -> None:
        self.received_bytes = 0
        self.complete = asyncio.Event()
        self.status_counts = HttpStatusCounts()
        self.stop_recording = asyncio.Event()
        self.stop_reason: MediaWarning.Reason.ValueType = MediaWarning.RECORDING_CUT

    def on_progress(self, progress: Progress) -> None:
        self.received_bytes = max(self.received_bytes, progress.downloaded_bytes)
        if self.received_bytes >= SAMPLE_BYTES:
            self.complete.set()

    def on_recording(self) -> None:
        """Ignored: the sample of a live stream is cut like any other."""

    def on_media_file(self, product: Product) -> None:
        """Ignored: files are not kept."""

    def on_media(self, media: MediaInfo) -> None:
        """Ignored: the probe has the metadata."""


def _print(url: str, outcomes: Sequence[Outcome], *, as_json: bool) -> None:
    if as_json:
        for outcome in outcomes:
            click.echo(json.dumps(asdict(outcome)))
        return
    rows = [_COLUMNS, *map(_to_row, outcomes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    click.echo(url)
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  " + "  ".join(cells).rstrip())


def _to_row(outcome: Outcome) -> tuple[str, ...]:
    return (
        outcome.engine,
        f"{outcome.seconds:.1f}",
        str(outcome.formats),
        str(outcome.height),
        f"{outcome.received_bytes / 1e6:.1f}",
        " ".join(outcome.reason.split())[:200] or "ok",
    )
