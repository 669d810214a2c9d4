"""Options of the engine: what the operator sets reaches yt-dlp, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.fetcher.conftest import FetchListener, Harness, open_harness, youtube_environment
from tests.sites.youtube.site import YouTube

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.guard.supervisor import GuardConfig
from reelhaul_fetcher.model.engine_options import SPONSORBLOCK_URL, EngineOptions
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_fetcher.settings import Settings
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, access_options, downloader_options
from reelhaul_runtime.errors import ReelhaulError

OpenHarness = Callable[[EngineOptions], AbstractAsyncContextManager[Harness]]

COOKIES = "# Netscape HTTP Cookie File\n.youtube.com\tTRUE\t/\tTRUE\t4102444800\tLOGIN_INFO\tours\n"


@pytest.fixture
def open_with(youtube: YouTube, tmp_path: Path) -> OpenHarness:
    """Opens a harness for YouTube with the given options; all its files are in *tmp_path*."""

    @asynccontextmanager
    async def open_with_options(options: EngineOptions) -> AsyncIterator[Harness]:
        (tmp_path / "work").mkdir()
        environment = youtube_environment(youtube, tmp_path)
        config = GuardConfig(egresses={"": youtube.proxy_url})
        async with open_harness(environment, tmp_path / "work", config, options=options) as harness:
            yield harness

    return open_with_options


async def test_cookie_file(open_with: OpenHarness, youtube: YouTube, tmp_path: Path) -> None:
    """Cookies give access to a private video; the operator's file is unchanged, and no copy is left."""
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(COOKIES)
    async with open_with(EngineOptions(cookies_file=str(cookies))) as harness:
        result = await harness.fetch(youtube.watch_url("private"), FormatSpec(max_height=360))
    assert result.delivered.height == 360
    assert cookies.read_text() == COOKIES
    assert _files_with(tmp_path / "work", b"LOGIN_INFO") == []


def _files_with(folder: Path, content: bytes) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if content in path.read_bytes()]


async def test_cookies_of_one_request(open_with: OpenHarness, youtube: YouTube, tmp_path: Path) -> None:
    """Cookies of a request give access for it alone, and are written to no file."""
    url = youtube.watch_url("private")
    async with open_with(EngineOptions()) as harness:
        folder = tmp_path / "work/signed"
        folder.mkdir()
        proxy_url = await harness.guard.open("signed", 0)
        request = FetchRequest(url, FormatSpec(max_height=360), folder, proxy_url, cookies=COOKIES)
        result = await harness.engine.fetch(request, FetchListener())
        assert result.delivered.height == 360
        assert _files_with(tmp_path, b"LOGIN_INFO") == []
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(url, FormatSpec(max_height=360))
    assert failure.value.reason == ErrorReason.MEDIA_LOGIN_REQUIRED


async def test_player_clients(open_with: OpenHarness, youtube: YouTube) -> None:
    """YouTube is accessed as the clients set: as one that it gives no URLs, the download fails."""
    async with open_with(EngineOptions(player_clients=("web",))) as harness:
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(youtube.watch_url("plain360"), FormatSpec(max_height=360))
    assert failure.value.reason == ErrorReason.EXTRACTOR_FAILED


async def test_js_runtime(open_with: OpenHarness, youtube: YouTube) -> None:
    """Signatures are computed by the program set: with one that is no deno, the download fails."""
    async with open_with(EngineOptions(js_runtime="/bin/false")) as harness:
        with pytest.raises(ReelhaulError) as failure:
            await harness.fetch(youtube.watch_url("signed", copy=9), FormatSpec(max_height=360))
    assert failure.value.reason == ErrorReason.EXTRACTOR_FAILED


def test_po_token_url() -> None:
    """The provider's URL is where bgutil's plugin looks for it."""
    options = EngineOptions(po_token_url="http://127.0.0.1:4416", player_clients=("mweb", "tv"))
    with Downloader(ResponseLog(), downloader_options("", options)) as downloader:
        youtube = downloader.get_info_extractor("Youtube")
        assert youtube._configuration_arg("player_client", casesense=True) == ["mweb", "tv"]
        assert youtube._configuration_arg("base_url", ie_key="youtubepot-bgutilhttp", casesense=True) == [
            "http://127.0.0.1:4416"
        ]


def test_requests_is_not_used() -> None:
    """It is installed here, by a development tool; what a site sees does not depend on that."""
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        assert "Urllib" in downloader._request_director.handlers
        assert "Requests" not in downloader._request_director.handlers


def test_defaults() -> None:
    """Without settings, yt-dlp's own defaults apply."""
    assert access_options(EngineOptions()) == {}


_CONNECT_FROM_SANDBOX = """
import socket, sys
from pathlib import Path
from reelhaul_fetcher.ytdlp.process import sandbox
with socket.create_server(("127.0.0.1", 0)) as provider, socket.create_server(("127.0.0.1", 0)) as other:
    ports = [server.getsockname()[1] for server in (provider, other)]
    folder = Path(sys.argv[1])
    output = open(folder / "output", "w")
    limits = sandbox.ResourceLimits(0, 60, 1 << 30)
    sandbox.enter(folder, "http://127.0.0.1:9", limits, [f"http://localhost:{ports[0]}"])
    for port in ports:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            output.write("open ")
        except PermissionError:
            output.write("denied ")
    output.close()
"""


def test_only_the_token_provider_is_reached_directly(tmp_path: Path) -> None:
    """The sandbox allows connections to the PO token provider, and to no other port beside the guard."""
    command = [sys.executable, "-c", _CONNECT_FROM_SANDBOX, str(tmp_path)]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "output").read_text() == "open denied "


def test_settings_become_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting becomes the option of the engine, and the cookie file's path is not printed."""
    cookies = tmp_path / "cookies.txt"
    cookies.write_text(COOKIES)
    variables = {
        "PLAYER_CLIENTS": "mweb, -web",
        "PO_TOKEN_URL": "http://127.0.0.1:4416",
        "JS_RUNTIME": sys.executable,
        "COOKIES_FILE": str(cookies),
    }
    for name, value in variables.items():
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
def test_invalid_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """An invalid setting is refused at start, not at the first download."""
    monkeypatch.setenv(f"REELHAUL_FETCHER_{name}", value)
    with pytest.raises(ValidationError):
        Settings(data_dir=tmp_path)
