"""Plain files in pieces: whatever a site does, what arrives is one version of the file, or nothing."""

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

# Five megabytes: four seconds over one of these connections.
FILE, SLOW = "/media/1080.mp4", "rate=1400000"


@pytest.fixture(scope="module")
def downloader() -> Iterator[Downloader]:
    """yt-dlp, straight to the site."""
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        yield downloader


class Fetch:
    """A file that was fetched, and what was heard of it."""

    def __init__(self, downloader: Downloader, folder: Path, url: str, most: int = 8) -> None:
        self.path = folder / "file.mp4"
        self.told: list[tuple[int, int | None]] = []
        self.arrival = FileDownload(
            self.path, most, lambda received, total: self.told.append((received, total))
        )
        self.arrival.download(RemoteFile(downloader, {"url": url}))

    @property
    def digest(self) -> str:
        """SHA-256 of what arrived."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()


def _ranges(site: Site, token: str) -> list[str]:
    return [r.headers.get("range", "") for r in site.requests if r.query.get("token") == token]


def test_a_quick_site_is_asked_once(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """Where one connection is quick enough there is no other one, and no question before it."""
    fetch = Fetch(downloader, tmp_path, site.url(f"{FILE}?token=quick"))
    assert site.digest(FILE) == fetch.digest
    assert _ranges(site, "quick") == ["bytes=0-"]


def test_a_slow_site_is_asked_for_pieces(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """Where one connection is slow the rest comes in pieces, no byte of which is missing or asked in vain."""
    fetch = Fetch(downloader, tmp_path, site.url(f"{FILE}?token=slow&{SLOW}"))
    assert site.digest(FILE) == fetch.digest
    assert 4 <= len(_ranges(site, "slow")) <= 16
    received = [received for received, _ in fetch.told]
    assert max(received) == fetch.path.stat().st_size == fetch.told[-1][1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range ")]


def test_no_more_connections_than_allowed(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """A setting of one is kept."""
    Fetch(downloader, tmp_path, site.url("/media/720.mp4?token=one&rate=900000"), most=1)
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
def test_pieces_that_go_wrong(downloader: Downloader, site: Site, tmp_path: Path, fault: str) -> None:
    """Another file, no range, a wrong range, a cut or refused piece: the file is whole nevertheless."""
    fetch = Fetch(downloader, tmp_path, site.url(f"{FILE}?token={fault}&parts=1&{SLOW}&{fault}"))
    assert site.digest(FILE) == fetch.digest


@pytest.mark.parametrize("fault", ["ranges=no", "nameless=1", "chunked=1"])
def test_no_pieces_of_what_cannot_be_known_again(
    downloader: Downloader, site: Site, tmp_path: Path, fault: str
) -> None:
    """Without ranges, or without a tag or a date, one connection brings all, however slowly."""
    url = site.url(f"/media/720.mp4?token=all-{fault}&rate=700000&{fault}")
    assert site.digest("/media/720.mp4") == Fetch(downloader, tmp_path, url).digest
    assert len(_ranges(site, f"all-{fault}")) == 1


@pytest.mark.parametrize("fault", ["ranges=no", "nameless=1", "chunked=1"])
def test_a_break_of_what_cannot_be_known_again(
    downloader: Downloader, site: Site, tmp_path: Path, fault: str
) -> None:
    """What broke and cannot be gone on with is begun anew, and nothing of the first try is left in it."""
    fetch = Fetch(downloader, tmp_path, site.url(f"{FILE}?token=break-{fault}&{fault}&reset=3000000&times=2"))
    assert site.digest(FILE) == fetch.digest


def test_a_file_that_never_stays(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """A file that is another one at each request, and breaks each time, is a failure."""
    with pytest.raises((ReelhaulError, RequestError)):
        Fetch(downloader, tmp_path, site.url(f"{FILE}?changing=1&reset=100000"))


def test_a_break_between_two_versions(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """After a break the file is another: none of the first version's bytes are kept."""
    url = site.url(f"{FILE}?token=between&changing=1&reset=3000000&times=1")
    assert site.digest(FILE) == Fetch(downloader, tmp_path, url).digest


def test_a_piece_that_is_never_given(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """Where a site gives no piece but the first, its refusal is told, and what came is kept for later."""
    url = site.url(f"{FILE}?token=never&parts=1&fail=403&reset=400000&{SLOW}")
    path = tmp_path / "file.mp4"
    arrival = FileDownload(path, 8, lambda *_: None)
    # The first connection would bring all of it by itself, if it were not cut.
    first = site.url(f"{FILE}?token=kept&reset=2000000&times=1")
    with pytest.raises(HTTPError) as refusal:
        arrival.download(_Switched(downloader, first, url))
    assert refusal.value.status == 403
    arrival.download(RemoteFile(downloader, {"url": site.url(f"{FILE}?token=fresh")}))
    assert site.digest(FILE) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not [asked for asked in _ranges(site, "fresh") if asked.startswith("bytes=0-")]


class _Switched(RemoteFile):
    """A file whose first bytes come from one URL, and the others from another."""

    def __init__(self, downloader: Downloader, first: str, later: str) -> None:
        super().__init__(downloader, {"url": first})
        self._later = later

    def open_range(self, *asked):
        self._url = self._later
        return super().open_range(*asked)


def test_bytes_in_the_middle_that_never_come(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """Answers that end early and in good order, or empty, in mid-file leave no hole: the fetch fails."""
    with pytest.raises(RequestError):
        Fetch(downloader, tmp_path, site.url(f"{FILE}?token=hole&hole=3000000&{SLOW}"))


@pytest.mark.parametrize("place", [1_000_000, 2_621_440, 3_000_000, 5_000_000])
def test_bytes_in_the_middle_that_come_late(
    downloader: Downloader, site: Site, tmp_path: Path, place: int
) -> None:
    """Where the answers to the first pieces end early, in good order, the file is whole nevertheless."""
    url = site.url(f"{FILE}?token=late-{place}&hole={place}&parts=1&times=3&{SLOW}")
    assert site.digest(FILE) == Fetch(downloader, tmp_path, url).digest


@pytest.mark.asyncio(loop_scope="module")
async def test_no_file_with_a_hole_is_a_result(harness: Harness, site: Site) -> None:
    """A film that could be played at both ends, but whose middle never comes, is a failed fetch."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url(f"{FILE}?token=guarded-hole&hole=3000000&{SLOW}"))
    assert failure.value.reason in (ErrorReason.UPSTREAM_UNAVAILABLE, ErrorReason.UPSTREAM_STALLED)
    ranges = filter(None, _ranges(site, "guarded-hole"))
    asked = [int(told.removeprefix("bytes=").partition("-")[0]) for told in ranges]
    # What lies behind the hole had been fetched: the file was long enough, and zeros within.
    assert max(asked) > 3_100_000


def test_what_hears_may_end_it(downloader: Downloader, site: Site, tmp_path: Path) -> None:
    """The limit of a job ends all pieces at once."""

    def hear(received: int, _: int | None) -> None:
        if received > 2_000_000:
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        FileDownload(tmp_path / "file", 8, hear).download(
            RemoteFile(downloader, {"url": site.url(f"{FILE}?{SLOW}")})
        )


@pytest.mark.asyncio(loop_scope="module")
async def test_pieces_through_the_guard(harness: Harness, site: Site) -> None:
    """In the child, through the guard: the site's very bytes, and progress that never falls."""
    listener = FetchListener()
    result = await harness.fetch(site.url(f"{FILE}?token=guarded&{SLOW}"), FormatSpec(), listener)
    assert site.digest(FILE) == sha256(result.products[0])
    assert len(_ranges(site, "guarded")) > 4
    percents = [p.percent for p in listener.progress_updates if p.HasField("percent")]
    assert percents == sorted(percents)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_limit_holds_for_pieces(harness: Harness, site: Site) -> None:
    """A length that passes the job's limit is refused with its first byte."""
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(site.url(f"{FILE}?{SLOW}"), size_limit=1_000_000)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE


@pytest.mark.parametrize("told", ["bytes 5-4/9", "bytes 0-9/5", "bytes 1-4/9", "items 0-4/9", ""])
def test_ranges_that_make_no_sense(told: str) -> None:
    """A part that is empty, or ends behind the end, is none."""
    headers = {"Content-Range": told, "ETag": '"a"'}
    answer = Response(io.BytesIO(), "http://site.invalid/", headers, status=206)
    with pytest.raises(RemoteFileChanged):
        read_part(answer, 5 if told.startswith("bytes 5") else 0, None)
