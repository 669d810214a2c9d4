"""A warm engine behind a real guard, for the tests that fetch from the local site."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.media_pb2 import FormatSpec, MediaInfo, PlaylistEntry, Progress
from reelhaul.type.v1.media_pb2 import Warning as Warned
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
    """What a fetch told while it ran."""

    def __init__(self) -> None:
        self.status_counts = HttpStatusCounts()
        self.progress_updates: list[Progress] = []
        self.media_updates: list[MediaInfo] = []
        self.entry_pages: list[list[PlaylistEntry]] = []
        self.ready_products: list[Product] = []
        self.stop_recording = asyncio.Event()
        self.stop_reason: Warned.Reason.ValueType = Warned.RECORDING_CUT
        self.recording_started = asyncio.Event()

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


def sha256(product: Product) -> str:
    """Of the bytes of *product*."""
    return hashlib.sha256(product.path.read_bytes()).hexdigest()


class Harness:
    """An engine, its guard, and a folder for each fetch."""

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
        **limits: float,
    ) -> FetchResult:
        """What *url* gives for *spec*; in a *folder* of its own where none is named."""
        name = f"fetch{next(self._numbers)}"
        if folder is None:
            folder = self.workdir / name
            folder.mkdir()
        proxy = await self.guard.open(name, 0)
        order = FetchRequest(url, spec or FormatSpec(), folder, proxy, size_limit=size_limit, **limits)
        try:
            return await self.engine.fetch(order, listener or FetchListener())
        finally:
            await self.guard.close(name)

    async def expand(
        self, url: str, listener: FetchListener, max_entries: int = 10_000, start_position: int = 0
    ) -> ExpandResult:
        """Page through *url*."""
        name = f"list{next(self._numbers)}"
        proxy = await self.guard.open(name, 0)
        try:
            return await self.engine.expand(ExpandRequest(url, proxy, max_entries, start_position), listener)
        finally:
            await self.guard.close(name)

    async def probe(self, url: str, *, playlist: bool = False, max_entries: int = 50) -> MediaInfo:
        """What is said of *url*."""
        name = f"probe{next(self._numbers)}"
        proxy = await self.guard.open(name, 0)
        try:
            return await self.engine.probe(ProbeRequest(url, proxy, max_entries, playlist))
        finally:
            await self.guard.close(name)


@pytest.fixture(scope="session")
def engine_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an engine's parent is given."""
    place = tmp_path_factory.mktemp("engine")
    (place / "home").mkdir()
    return build_environment(tools.link(place / "tools"), place / "home", None)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def harness(
    engine_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness whose guard lets 127.0.0.2 through."""
    config = GuardConfig(allow_networks=("127.0.0.2/32",))
    async with (
        running_guard(config) as guard,
        YtDlpEngine.open(engine_environment, "test-worker") as engine,
    ):
        await engine.wait_until_warm()
        yield Harness(engine, guard, tmp_path_factory.mktemp("work"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def youtube_harness(
    youtube: YouTube, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    """A harness that reaches the stand-in for YouTube as production reaches YouTube through a proxy.

    Nothing differs from production but the upstream proxy and the certificate to trust.
    """
    place = tmp_path_factory.mktemp("tube")
    (place / "home").mkdir()
    trusted = write_ca_bundle(youtube.ca_file, place)
    surroundings = build_environment(tools.link(place / "tools"), place / "home", trusted)
    async with (
        running_guard(GuardConfig(egresses={"": youtube.proxy_url})) as guard,
        YtDlpEngine.open(surroundings, "test-worker") as engine,
    ):
        await engine.wait_until_warm()
        yield Harness(engine, guard, tmp_path_factory.mktemp("work"))
