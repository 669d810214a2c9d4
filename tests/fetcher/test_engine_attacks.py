"""The attack table once more, from where it begins: what a page, a manifest or a redirect says to the engine.

Each road is walked with the real engine behind a real guard: it leads to no address inside and to no file,
and the same road to an allowed address is walked to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fetcher.conftest import FetchListener, Harness
from tests.fetcher.guard_harness import PUBLIC, Site, running_site
from tests.sites import media

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.engine_requests import FetchRequest
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_HLS, _DASH, _HTML = "application/vnd.apple.mpegurl", "application/dash+xml", "text/html"
_LIST = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:0\n"
_END = "#EXT-X-ENDLIST\n"
_MPD = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet
mimeType="video/mp4"><Representation id="v" bandwidth="1000" codecs="avc1.42c01e" width="64" height="36">
<SegmentList duration="4"><SegmentURL media="{to}"/></SegmentList></Representation></AdaptationSet>
</Period></MPD>"""

#: Where each road begins, from the address that it leads to.
Road = Callable[[Site, str], str]


def _says(site: Site, path: str, body: str, kind: str) -> str:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    site.responses[path] = (head + body).encode()
    return f"http://{PUBLIC}:{site.port}{path}"


def _leads(site: Site, path: str, to: str) -> str:
    site.responses[path] = f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()
    return f"http://{PUBLIC}:{site.port}{path}"


def _page(site: Site, inner: str, head: str = "") -> str:
    return _says(site, "/page", f"<html><head><title>t</title>{head}</head>{inner}</html>", _HTML)


def _media_list(site: Site, lines: str) -> str:
    return _says(site, "/list.m3u8", f"{_LIST}{lines}{_END}", _HLS)


def _by_master(site: Site, to: str) -> str:
    lines = f"#EXT-X-STREAM-INF:BANDWIDTH=1000,RESOLUTION=64x36\n{to}\n"
    return _says(site, "/master.m3u8", f"#EXTM3U\n{lines}", _HLS)


ROADS: dict[str, Road] = {
    "a redirect of the page": lambda site, to: _leads(site, "/go", to),
    "a redirect of a redirect": lambda site, to: _leads(site, "/1", _leads(site, "/2", to)),
    "the page's video": lambda site, to: _page(site, f'<video src="{to}"></video>'),
    "a redirect of the video": lambda site, to: _page(
        site, f'<video src="{_leads(site, "/v.mp4", to)}"></video>'
    ),
    "a variant of an HLS list": _by_master,
    "an HLS segment": lambda site, to: _media_list(site, f"#EXTINF:4,\n{to}\n"),
    "a redirect of a segment": lambda site, to: _media_list(
        site, f"#EXTINF:4,\n{_leads(site, '/seg.ts', to)}\n"
    ),
    "the key of HLS segments": lambda site, to: _media_list(
        site, f'#EXT-X-KEY:METHOD=AES-128,URI="{to}"\n#EXTINF:4,\nseg.ts\n'
    ),
    "the head of HLS segments": lambda site, to: _media_list(
        site, f'#EXT-X-MAP:URI="{to}"\n#EXTINF:4,\nseg.m4s\n'
    ),
    "a DASH segment": lambda site, to: _says(site, "/m.mpd", _MPD.format(to=to), _DASH),
}


async def walked(
    harness: Harness, url: str, folder: Path
) -> tuple[ErrorReason.ValueType, list[tuple[str, str]]]:
    """Why a fetch of *url* failed (0 where it did not), and what the guard refused to it."""
    name = folder.name
    proxy = await harness.guard.open(name, 0)
    reason: ErrorReason.ValueType = 0  # type: ignore[assignment]
    try:
        await harness.engine.fetch(FetchRequest(url, FormatSpec(), folder, proxy), FetchListener())
    except ReelhaulError as failure:
        reason = failure.reason
    return reason, list((await harness.guard.close(name)).refusals)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _folder(place: Path, name: str) -> Path:
    folder = place / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
async def test_no_road_leads_inside(harness: Harness, tmp_path: Path, road: Road) -> None:
    """Nobody inside is knocked at, and the guard has a word for it."""
    async with running_site() as site, running_site("127.0.0.1") as inside:
        url = road(site, f"http://127.0.0.1:{inside.port}/inside.mp4")
        reason, refusals = await walked(harness, url, _folder(tmp_path, "inside"))
    assert inside.accepted == 0
    assert ("127.0.0.1", "loopback") in refusals
    assert reason == ErrorReason.URL_FORBIDDEN


@pytest.mark.parametrize("road", ROADS.values(), ids=ROADS)
async def test_its_twin_is_walked(harness: Harness, tmp_path: Path, road: Road) -> None:
    """The same road to an allowed address is walked: it is the address that is refused, not the road."""
    async with running_site() as site, running_site() as other:
        url = road(site, f"http://{PUBLIC}:{other.port}/other.mp4")
        _, refusals = await walked(harness, url, _folder(tmp_path, "twin"))
    assert other.accepted > 0
    assert refusals == []


@pytest.mark.parametrize(
    ("road", "scheme"),
    [
        ("a redirect of the page", "file"),
        ("a redirect of the page", "ftp"),
        ("the page's video", "file"),
        ("the page's video", "ftp"),
        ("a variant of an HLS list", "file"),
        ("an HLS segment", "file"),
        ("a DASH segment", "file"),
    ],
)
async def test_no_road_leads_to_another_scheme(
    harness: Harness, tmp_path: Path, road: str, scheme: str
) -> None:
    """Files and FTP are no addresses of media: nothing of them comes out of a fetch."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"a-secret-of-ours" * 100)
    async with running_site() as site, running_site("127.0.0.1") as inside:
        to = {"file": secret.as_uri(), "ftp": f"ftp://127.0.0.1:{inside.port}/inside.mp4"}[scheme]
        folder = _folder(tmp_path, "scheme")
        reason, _ = await walked(harness, ROADS[road](site, to), folder)
    assert reason
    assert inside.accepted == 0
    assert not [path for path in _files(folder) if b"a-secret-of-ours" in path.read_bytes()]


@pytest.mark.parametrize("beside", ["subtitles", "thumbnail"])
async def test_what_goes_beside_the_video(harness: Harness, tmp_path: Path, beside: str) -> None:
    """A subtitle or a picture inside is refused by itself: the video arrives, with a warning."""
    async with running_site() as site, running_site("127.0.0.1") as inside:
        to = f"http://127.0.0.1:{inside.port}/inside"
        video = media.ensure_media().file("/media/360.mp4").read_bytes()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {len(video)}\r\n\r\n"
        site.responses["/v.mp4"] = head.encode() + video
        track = f'<track kind="subtitles" srclang="en" src="{to}.vtt">'
        poster = f'poster="{to}.jpg"' if beside == "thumbnail" else ""
        url = _page(site, f'<video {poster} src="/v.mp4">{track}</video>')
        spec = FormatSpec(thumbnail=True, subtitles=FormatSpec.Subtitles(languages=["en"]))
        proxy, listener = await harness.guard.open(beside, 0), FetchListener()
        report = await harness.engine.fetch(
            FetchRequest(url, spec, _folder(tmp_path, beside), proxy), listener
        )
        refusals = (await harness.guard.close(beside)).refusals
    assert inside.accepted == 0
    assert ("127.0.0.1", "loopback") in list(refusals)
    assert [product.path.suffix for product in report.products] == [".mp4"]
    assert report.warnings
