"""Plain files over parallel connections: whatever a site does, the result is one version, or a failure."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fetcher.conftest import FetchListener, Harness, sha256
from tests.sites.site import Site
from yt_dlp.networking import Response
from yt_dlp.networking.exceptions import HTTPError, RequestError

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.ytdlp.download.parallel import FileDownload
from reelhaul_fetcher.ytdlp.download.remote_file import RemoteFile, RemoteFileChanged, read_part
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, downloader_options
from reelhaul_runtime.errors import ReelhaulError

# Five megabytes, which take four seconds over one connection at this rate.
FILE, SLOW = "/media/1080.mp4", "rate=1400000"


@pytest.fixture(scope="module")
def downloader() -> Iterator[Downloader]:
    """A downloader without a proxy."""
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        yield downloader


class Download:
    """A downloaded file, and the progress that was reported."""

    def __init__(self, downloader: Downloader, folder: Path, url: str, max_connections: int = 8) -> None:
        self.path = folder / "file.mp4"
        self.updates: list[tuple[int, int | None]] = []
        download = FileDownload(
            self.path, max_connections, lambda received, total: self.updates.append((received, total))
        )
        download.download(RemoteFile(downloader, {"url": url}))

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def _ranges(site: Site, token: str) -> list[str]:
    return [r.headers.get("range", "") for r in site.requests if r.query.get("token") == token]


def test_fast_site_gets_one_request(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """A fast site gets one request, and none before it."""
    download = Download(downloader, tmp_path, site.url(f"{FILE}?token=quick"))
    assert site.digest(FILE) == download.digest
    assert _ranges(site, "quick") == ["bytes=0-"]


def test_slow_site_gets_ranges(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """A slow site gets parallel range requests; no byte is missing or requested in vain."""
    download = Download(downloader, tmp_path, site.url(f"{FILE}?token=slow&{SLOW}"))
    assert site.digest(FILE) == download.digest
    assert 4 <= len(_ranges(site, "slow")) <= 16
    received = [received for received, _ in download.updates]
    assert max(received) == download.path.stat().st_size == download.updates[-1][1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range ")]


def test_connection_limit(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """With a limit of one there is one request, however slow the site is."""
    Download(downloader, tmp_path, site.url("/media/720.mp4?token=one&rate=900000"), max_connections=1)
    assert _ranges(site, "one") == ["bytes=0-"]


@pytest.mark.parametrize(
    "fault",
    [
        "changing=1",
        "changing=1&blind=1",
        "ranges=no",
        "ranges=no&times=2",
        "shift=7",
        "shift=7&times=1",
        "length=-1000",
        "reset=200000&times=5",
        "reset=150000&times=1",
        "fail=503&times=4",
        "fail=429&retry_after=1&times=2",
        "fail=403&times=1",
        "fail=500&times=9",
    ],
)
def test_failing_ranges(downloader: Downloader, site: Site, tmp_path: Path, fault: str) -> None:
    """The file is complete despite a changed file, a missing, wrong, interrupted or refused range."""
    download = Download(downloader, tmp_path, site.url(f"{FILE}?token={fault}&parts=1&{SLOW}&{fault}"))
    assert site.digest(FILE) == download.digest


@pytest.mark.parametrize("fault", ["ranges=no", "nameless=1", "chunked=1"])
def test_unidentifiable_file_gets_one_request(
    downloader: Downloader, site: Site, tmp_path: Path, fault: str
) -> None:
    """Without ranges, or without a tag and a date, one request downloads the file, however slowly."""
    url = site.url(f"/media/720.mp4?token=all-{fault}&rate=700000&{fault}")
    assert site.digest("/media/720.mp4") == Download(downloader, tmp_path, url).digest
    assert len(_ranges(site, f"all-{fault}")) == 1


@pytest.mark.parametrize("fault", ["ranges=no", "nameless=1", "chunked=1"])
def test_unidentifiable_file_restarts(downloader: Downloader, site: Site, tmp_path: Path, fault: str) -> None:
    """A download that cannot be resumed restarts, and keeps nothing of the first try."""
    download = Download(
        downloader, tmp_path, site.url(f"{FILE}?token=break-{fault}&{fault}&reset=3000000&times=2")
    )
    assert site.digest(FILE) == download.digest


def test_file_that_keeps_changing(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """A file that changes with each request, each of which is interrupted, is a failure."""
    with pytest.raises((ReelhaulError, RequestError)):
        Download(downloader, tmp_path, site.url(f"{FILE}?changing=1&reset=100000"))


def test_changed_after_interruption(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """If the file changed during an interruption, no byte of the first version is kept."""
    url = site.url(f"{FILE}?token=between&changing=1&reset=3000000&times=1")
    assert site.digest(FILE) == Download(downloader, tmp_path, url).digest


def test_refused_ranges(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """If a site refuses all later ranges, the download raises the refusal and can continue elsewhere."""
    url = site.url(f"{FILE}?token=never&parts=1&fail=403&reset=400000&{SLOW}")
    path = tmp_path / "file.mp4"
    download = FileDownload(path, 8, lambda *_: None)
    # Without a reset, the first connection would download all of it.
    first = site.url(f"{FILE}?token=kept&reset=2000000&times=1")
    with pytest.raises(HTTPError) as refusal:
        download.download(_Switched(downloader, first, url))
    assert refusal.value.status == 403
    download.download(RemoteFile(downloader, {"url": site.url(f"{FILE}?token=fresh")}))
    assert site.digest(FILE) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not [header for header in _ranges(site, "fresh") if header.startswith("bytes=0-")]


class _Switched(RemoteFile):
    """A file whose first request goes to one URL, and the others to another."""

    def __init__(self, downloader: Downloader, first: str, later: str) -> None:
        super().__init__(downloader, {"url": first})
        self._later = later

    def open_range(self, *arguments):
        self._url = self._later
        return super().open_range(*arguments)


def test_missing_middle(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """If the responses for the middle of the file end early or are empty, the download fails."""
    with pytest.raises(RequestError):
        Download(downloader, tmp_path, site.url(f"{FILE}?token=hole&hole=3000000&{SLOW}"))


@pytest.mark.parametrize("offset", [1_000_000, 2_621_440, 3_000_000, 5_000_000])
def test_late_middle(downloader: Downloader, site: Site, tmp_path: Path, offset: int) -> None:
    """If only the first responses end early, the file is complete."""
    url = site.url(f"{FILE}?token=late-{offset}&hole={offset}&parts=1&times=3&{SLOW}")
    assert site.digest(FILE) == Download(downloader, tmp_path, url).digest


@pytest.mark.asyncio(loop_scope="module")
async def test_missing_middle_of_a_playable_file(harness: Harness, site: Site) -> None:
    """A video whose middle never arrives fails, although both ends would play."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url(f"{FILE}?token=guarded-hole&hole=3000000&{SLOW}"))
    assert failure.value.reason in (ErrorReason.UPSTREAM_UNAVAILABLE, ErrorReason.UPSTREAM_STALLED)
    ranges = filter(None, _ranges(site, "guarded-hole"))
    starts = [int(header.removeprefix("bytes=").partition("-")[0]) for header in ranges]
    # The bytes after the gap were downloaded: the file had its length, and zeros inside.
    assert max(starts) > 3_100_000


def test_callback_ends_the_download(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """An exception of the callback, such as a size limit, ends the download."""

    def on_bytes(received: int, _: int | None) -> None:
        if received > 2_000_000:
            raise ValueError("limit")

    with pytest.raises(ValueError, match="limit"):
        FileDownload(tmp_path / "file", 8, on_bytes).download(
            RemoteFile(downloader, {"url": site.url(f"{FILE}?{SLOW}")})
        )


@pytest.mark.asyncio(loop_scope="module")
async def test_ranges_through_the_guard(harness: Harness, site: Site) -> None:
    """In the engine, through the guard, the file is the site's and progress never falls."""
    listener = FetchListener()
    result = await harness.fetch(site.url(f"{FILE}?token=guarded&{SLOW}"), FormatSpec(), listener)
    assert site.digest(FILE) == sha256(result.products[0])
    assert len(_ranges(site, "guarded")) > 4
    assert listener.percentages == sorted(listener.percentages)


@pytest.mark.asyncio(loop_scope="module")
async def test_size_limit(harness: Harness, site: Site) -> None:
    """A file that exceeds the job's limit is refused at its first byte."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url(f"{FILE}?{SLOW}"), size_limit=1_000_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE


@pytest.mark.parametrize("content_range", ["bytes 5-4/9", "bytes 0-9/5", "bytes 1-4/9", "items 0-4/9", ""])
def test_inconsistent_ranges(content_range: str) -> None:
    """A Content-Range that is empty, ends beyond the file, or cannot be parsed is refused."""
    headers = {"Content-Range": content_range, "ETag": '"a"'}
    response = Response(io.BytesIO(), "http://site.invalid/", headers, status=206)
    with pytest.raises(RemoteFileChanged):
        read_part(response, 5 if content_range.startswith("bytes 5") else 0, None)
