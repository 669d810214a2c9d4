"""What the operator sets of how sites are read reaches yt-dlp, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.fetcher.conftest import FetchListener, Harness
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.guard.supervisor import GuardConfig, running_guard
from reelhaul_fetcher.media import tools
from reelhaul_fetcher.model.engine_options import SPONSORBLOCK_URL, EngineOptions
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, access_options, downloader_options
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_fetcher.ytdlp.process.environment import build_environment, write_ca_bundle
from reelhaul_runtime.errors import ReelhaulError

Opened = Callable[[EngineOptions], AbstractAsyncContextManager[Harness]]

COOKIES = "# Netscape HTTP Cookie File\n.youtube.com\tTRUE\t/\tTRUE\t4102444800\tLOGIN_INFO\tours\n"


@pytest.fixture
def opened(youtube: YouTube, tmp_path: Path) -> Opened:
    """Opens a harness before YouTube whose engine has the access given."""

    @asynccontextmanager
    async def open_rig(access: EngineOptions) -> AsyncIterator[Harness]:
        for folder in ("home", "work"):
            (tmp_path / folder).mkdir()
        trusted = write_ca_bundle(youtube.ca_file, tmp_path)
        surroundings = build_environment(tools.link(tmp_path / "tools"), tmp_path / "home", trusted)
        async with (
            running_guard(GuardConfig(egresses={"": youtube.proxy_url})) as guard,
            YtDlpEngine.open(surroundings, "test-worker", access) as engine,
        ):
            await engine.wait_until_warm()
            yield Harness(engine, guard, tmp_path / "work")

    return open_rig


async def test_cookies_open_doors(opened: Opened, youtube: YouTube, tmp_path: Path) -> None:
    """With cookies a private video comes; the operator's file stays as it is, and no copy lies about."""
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(COOKIES)
    async with opened(EngineOptions(cookies_file=str(cookies))) as harness:
        report = await harness.fetch(youtube.watch_url("private"), FormatSpec(max_height=360))
    assert report.delivered.height == 360
    assert cookies.read_text() == COOKIES
    left = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [report.products[0].path.name]


def _holding(place: Path, what: bytes) -> list[Path]:
    files = (path for path in place.rglob("*") if path.is_file())
    return [path for path in files if what in path.read_bytes()]


async def test_cookies_of_one_fetch(opened: Opened, youtube: YouTube, tmp_path: Path) -> None:
    """A private video comes for the fetch that has cookies, which lie nowhere, and for no other."""
    url = youtube.watch_url("private")
    async with opened(EngineOptions()) as harness:
        folder = tmp_path / "work/signed"
        folder.mkdir()
        proxy = await harness.guard.open("signed", 0)
        order = FetchRequest(url, FormatSpec(max_height=360), folder, proxy, cookies=COOKIES)
        report = await harness.engine.fetch(order, FetchListener())
        assert report.delivered.height == 360
        assert _holding(tmp_path, b"LOGIN_INFO") == []
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(url, FormatSpec(max_height=360))
    assert failure.value.reason == ErrorReason.MEDIA_LOGIN_REQUIRED


async def test_player_clients(opened: Opened, youtube: YouTube) -> None:
    """YouTube is asked as the clients that were set: as one that is told no URLs, nothing comes."""
    async with opened(EngineOptions(player_clients=("web",))) as harness:
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(youtube.watch_url("plain360"), FormatSpec(max_height=360))
    assert failure.value.reason == ErrorReason.EXTRACTOR_FAILED


async def test_js_runtime(opened: Opened, youtube: YouTube) -> None:
    """Riddles are solved by the program that was set: by one that is no deno, not at all."""
    async with opened(EngineOptions(js_runtime="/bin/false")) as harness:
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(youtube.watch_url("signed", copy=9), FormatSpec(max_height=360))
    assert failure.value.reason == ErrorReason.EXTRACTOR_FAILED


def test_tokens_of_proof_of_origin() -> None:
    """The provider's address is where bgutil's plugin looks for it."""
    access = EngineOptions(po_token_url="http://127.0.0.1:4416", player_clients=("mweb", "tv"))
    with Downloader(ResponseLog(), downloader_options("", access)) as downloader:
        youtube = downloader.get_info_extractor("Youtube")
        assert youtube._configuration_arg("player_client", casesense=True) == ["mweb", "tv"]
        assert youtube._configuration_arg("base_url", ie_key="youtubepot-bgutilhttp", casesense=True) == [
            "http://127.0.0.1:4416"
        ]


def test_nothing_is_set() -> None:
    """Without settings, yt-dlp's own defaults hold."""
    assert access_options(EngineOptions()) == {}


_CAGED = """
import socket, sys
from pathlib import Path
from reelhaul_fetcher.ytdlp.process import sandbox
out = sys.__stdout__
with socket.create_server(("127.0.0.1", 0)) as own, socket.create_server(("127.0.0.1", 0)) as other:
    ways = [s.getsockname()[1] for s in (own, other)]
    place = Path(sys.argv[1])
    told = open(place / "told", "w")
    limits = sandbox.ResourceLimits(0, 60, 1 << 30)
    sandbox.enter(place, "http://127.0.0.1:9", limits, [f"http://localhost:{ways[0]}"])
    for port in ways:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            told.write("open ")
        except PermissionError:
            told.write("barred ")
    told.close()
"""


def test_only_the_provider_is_reached_beside_the_guard(tmp_path: Path) -> None:
    """A provider of tokens may be reached directly; what is beside it may not."""
    subprocess.run([sys.executable, "-c", _CAGED, str(tmp_path)], check=True, timeout=60)
    assert (tmp_path / "told").read_text() == "open barred "


def test_settings_become_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting is where the engine looks for it."""
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(COOKIES)
    told = {
        "PLAYER_CLIENTS": "mweb, -web",
        "PO_TOKEN_URL": "http://127.0.0.1:4416",
        "JS_RUNTIME": sys.executable,
        "COOKIES_FILE": str(cookies),
    }
    for name, value in told.items():
        monkeypatch.setenv(f"REELHAUL_FETCHER_{name}", value)
    settings = Settings(data_dir=tmp_path)
    assert settings.engine_options == EngineOptions(
        ("mweb", "-web"), "http://127.0.0.1:4416", sys.executable, str(cookies), SPONSORBLOCK_URL
    )
    assert str(cookies) not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PLAYER_CLIENTS", "web;rm"),
        ("COOKIES_FILE", "/nowhere/cookies.txt"),
        ("PO_TOKEN_URL", "file:///etc/passwd"),
        ("TRANSLATOR_URL", "http://user:secret@host/"),
        ("SPONSORBLOCK_URL", "sponsor"),
    ],
)
def test_settings_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """What cannot be meant stops the start, not the first download."""
    monkeypatch.setenv(f"REELHAUL_FETCHER_{name}", value)
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path)
