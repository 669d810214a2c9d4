"""A warm engine behind a real guard, for tests that download from the local sites."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as MediaWarning
from reelhaul_fetcher.guard.supervisor import GuardConfig, GuardSupervisor, running_guard
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.model.engine_requests import (
    ExpandRequest,
    ExpandResult,
    FetchRequest,
    FetchResult,
    HttpStatusCounts,
    ProbeRequest,
    Product,
)
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle


class FetchListener:
    """Collects what an engine reports."""

    def __init__(self) -> None:
        self.status_counts = HttpStatusCounts()
        self.progress_updates: list[Progress] = []
        self.media_updates: list[MediaInfo] = []
        self.entry_pages: list[list[PlaylistEntry]] = []
        self.ready_products: list[Product] = []
        self.stop_recording = asyncio.Event()
        self.stop_reason: MediaWarning.Reason.ValueType = MediaWarning.RECORDING_CUT
        self.recording_started = asyncio.Event()

    @property
    def entries(self) -> list[PlaylistEntry]:
        """The entries of all pages."""
        return [entry for page in self.entry_pages for entry in page]

    @property
    def percentages(self) -> list[float]:
        """The percentages, as they were reported."""
        return [progress.percent for progress in self.progress_updates if progress.HasField("percent")]

    @property
    def stages(self) -> list[Progress.Stage.ValueType]:
        """The stages, each once, in order."""
        return list(dict.fromkeys(progress.stage for progress in self.progress_updates))

    def on_media(self, media: MediaInfo) -> None:
        self.media_updates.append(media)

    def on_recording(self) -> None:
        self.recording_started.set()

    def on_media_file(self, product: Product) -> None:
        self.ready_products.append(product)

    def on_entries(self, entries: Sequence[PlaylistEntry]) -> None:
        self.entry_pages.append(list(entries))

    def on_progress(self, progress: Progress) -> None:
        self.progress_updates.append(progress)


class Harness:
    """An engine, its guard, and a folder for each download."""

    def __init__(self, engine: YtDlpEngine, guard: GuardSupervisor, workdir: Path) -> None:
        self.engine, self.guard, self.workdir = engine, guard, workdir
        self._numbers = itertools.count()

    async def fetch(
        self,
        url: str,
        spec: FormatSpec | None = None,
        listener: FetchListener | None = None,
        size_limit: int = 0,
        folder: Path | None = None,
        title: str = "",
        **limits: float,
    ) -> FetchResult:
        """Download *url* as *spec* into *folder*, or into a new folder; *title* is that of its list."""
        if folder is None:
            folder = self.workdir / f"fetch{next(self._numbers)}"
            folder.mkdir()
        async with self._session() as proxy_url:
            request = FetchRequest(
                url, spec or FormatSpec(), folder, proxy_url, title, size_limit=size_limit, **limits
            )
            return await self.engine.fetch(request, listener or FetchListener())

    async def expand(
        self, url: str, listener: FetchListener, max_entries: int = 10_000, start_position: int = 0
    ) -> ExpandResult:
        """Page through the list at *url*."""
        async with self._session() as proxy_url:
            request = ExpandRequest(url, proxy_url, max_entries, start_position)
            return await self.engine.expand(request, listener)

    async def probe(self, url: str, *, playlist: bool = False, max_entries: int = 50) -> MediaInfo:
        """Return the metadata of *url*."""
        async with self._session() as proxy_url:
            return await self.engine.probe(ProbeRequest(url, proxy_url, max_entries, playlist))

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[str]:
        name = f"session{next(self._numbers)}"
        url = await self.guard.open(name, 0)
        try:
            yield url
        finally:
            await self.guard.close(name)


@asynccontextmanager
async def open_harness(
    environment: Mapping[str, str],
    workdir: Path,
    config: GuardConfig,
    listener: socket.socket | None = None,
    **engine_arguments: Any,
) -> AsyncIterator[Harness]:
    """Run a guard of *config*, on *listener* if given, and a warm engine of *environment* for the block."""
    async with (
        running_guard(config, listener) as guard,
        YtDlpEngine.open(environment, "test-worker", **engine_arguments) as engine,
    ):
        await engine.wait_until_warm()
        yield Harness(engine, guard, workdir)


def youtube_environment(youtube: YouTube, folder: Path) -> dict[str, str]:
    """Return the environment of an engine that trusts the stand-in for YouTube, and lives in *folder*."""
    home = folder / "home"
    home.mkdir()
    ca_bundle = write_ca_bundle(youtube.ca_file, folder)
    return build_environment(tools.link(folder / "tools"), home, ca_bundle)


def sha256(product: Product) -> str:
    """Return the hash of the file of *product*."""
    return hashlib.sha256(product.path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def engine_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an engine."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "home").mkdir()
    return build_environment(tools.link(folder / "tools"), folder / "home", None)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def harness(
    engine_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness whose guard allows 127.0.0.2."""
    config = GuardConfig(allow_networks=("127.0.0.2/32",))
    async with open_harness(engine_environment, tmp_path_factory.mktemp("work"), config) as harness:
        yield harness


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def youtube_harness(
    youtube: YouTube, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness that reaches the stand-in for YouTube as production reaches YouTube through a proxy.

    Only the upstream proxy and the certificate to trust differ from production.
    """
    environment = youtube_environment(youtube, tmp_path_factory.mktemp("youtube-engine"))
    config = GuardConfig(egresses={"": youtube.proxy_url})
    async with open_harness(environment, tmp_path_factory.mktemp("work"), config) as harness:
        yield harness
