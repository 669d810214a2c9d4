"""SSRF attempts by pages, manifests and redirects, against the real engine behind a real guard.

Each attack is tried with a private address, which must not be contacted, and with an allowed one, which must
be: it is the address that is refused, not the redirect or manifest.
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
_PLAYLIST = "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:0\n"
_END = "#EXT-X-ENDLIST\n"
_MPD = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet
mimeType="video/mp4"><Representation id="v" bandwidth="1000" codecs="avc1.42c01e" width="64" height="36">
<SegmentList duration="4"><SegmentURL media="{url}"/></SegmentList></Representation></AdaptationSet>
</Period></MPD>"""

#: Adds responses to a site that lead to the URL given; returns the URL to download.
Attack = Callable[[Site, str], str]


def _add(site: Site, path: str, body: str, media_type: str) -> str:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    site.responses[path] = (head + body).encode()
    return f"http://{PUBLIC}:{site.port}{path}"


def _add_redirect(site: Site, path: str, url: str) -> str:
    site.responses[path] = f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode()
    return f"http://{PUBLIC}:{site.port}{path}"


def _add_page(site: Site, content: str) -> str:
    return _add(site, "/page", f"<html><head><title>t</title></head>{content}</html>", _HTML)


def _add_playlist(site: Site, lines: str) -> str:
    return _add(site, "/list.m3u8", f"{_PLAYLIST}{lines}{_END}", _HLS)


def _add_master_playlist(site: Site, url: str) -> str:
    lines = f"#EXT-X-STREAM-INF:BANDWIDTH=1000,RESOLUTION=64x36\n{url}\n"
    return _add(site, "/master.m3u8", f"#EXTM3U\n{lines}", _HLS)


ATTACKS: dict[str, Attack] = {
    "redirect of the page": lambda site, url: _add_redirect(site, "/go", url),
    "redirect of a redirect": lambda site, url: _add_redirect(site, "/1", _add_redirect(site, "/2", url)),
    "video of a page": lambda site, url: _add_page(site, f'<video src="{url}"></video>'),
    "redirect of a video": lambda site, url: _add_page(
        site, f'<video src="{_add_redirect(site, "/v.mp4", url)}"></video>'
    ),
    "HLS variant": _add_master_playlist,
    "HLS segment": lambda site, url: _add_playlist(site, f"#EXTINF:4,\n{url}\n"),
    "redirect of an HLS segment": lambda site, url: _add_playlist(
        site, f"#EXTINF:4,\n{_add_redirect(site, '/seg.ts', url)}\n"
    ),
    "HLS key": lambda site, url: _add_playlist(
        site, f'#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:4,\nseg.ts\n'
    ),
    "HLS initialization section": lambda site, url: _add_playlist(
        site, f'#EXT-X-MAP:URI="{url}"\n#EXTINF:4,\nseg.m4s\n'
    ),
    "DASH segment": lambda site, url: _add(site, "/m.mpd", _MPD.format(url=url), _DASH),
}


async def fetch(
    harness: Harness, url: str, folder: Path
) -> tuple[ErrorReason.ValueType, list[tuple[str, str]]]:
    """Download *url*; return why that failed (0 if it did not), and what the guard refused."""
    name = folder.name
    proxy_url = await harness.guard.open(name, 0)
    reason: ErrorReason.ValueType = 0  # type: ignore[assignment]
    try:
        await harness.engine.fetch(FetchRequest(url, FormatSpec(), folder, proxy_url), FetchListener())
    except ReelhaulError as failure:
        reason = failure.reason
    return reason, list((await harness.guard.close(name)).refusals)


def _create_folder(parent: Path, name: str) -> Path:
    folder = parent / name
    folder.mkdir()
    return folder


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_private_address(harness: Harness, tmp_path: Path, attack: Attack) -> None:
    """A private address is not contacted, and the guard tells why."""
    async with running_site() as site, running_site("127.0.0.1") as inside:
        url = attack(site, f"http://127.0.0.1:{inside.port}/inside.mp4")
        reason, refusals = await fetch(harness, url, _create_folder(tmp_path, "inside"))
    assert inside.accepted == 0
    assert ("127.0.0.1", "loopback") in refusals
    assert reason == ErrorReason.URL_FORBIDDEN


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_allowed_address(harness: Harness, tmp_path: Path, attack: Attack) -> None:
    """An allowed address is contacted in the same way: the tests above do not pass for another reason."""
    async with running_site() as site, running_site() as other:
        url = attack(site, f"http://{PUBLIC}:{other.port}/other.mp4")
        _, refusals = await fetch(harness, url, _create_folder(tmp_path, "allowed"))
    assert other.accepted > 0
    assert refusals == []


@pytest.mark.parametrize(
    ("attack", "scheme"),
    [
        ("redirect of the page", "file"),
        ("redirect of the page", "ftp"),
        ("video of a page", "file"),
        ("video of a page", "ftp"),
        ("HLS variant", "file"),
        ("HLS segment", "file"),
        ("DASH segment", "file"),
    ],
)
async def test_other_schemes(harness: Harness, tmp_path: Path, attack: str, scheme: str) -> None:
    """Files and FTP servers are not read: a download of them fails without a trace of their content."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"a-secret-of-ours" * 100)
    async with running_site() as site, running_site("127.0.0.1") as inside:
        url = {"file": secret.as_uri(), "ftp": f"ftp://127.0.0.1:{inside.port}/inside.mp4"}[scheme]
        folder = _create_folder(tmp_path, "scheme")
        reason, _ = await fetch(harness, ATTACKS[attack](site, url), folder)
    assert reason
    assert inside.accepted == 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"a-secret-of-ours" in path.read_bytes()]


@pytest.mark.parametrize("sidecar", ["subtitles", "thumbnail"])
async def test_sidecars(harness: Harness, tmp_path: Path, sidecar: str) -> None:
    """Subtitles or a thumbnail at a private address are refused alone: the video arrives with a warning."""
    async with running_site() as site, running_site("127.0.0.1") as inside:
        private_url = f"http://127.0.0.1:{inside.port}/inside"
        video = media.ensure_media().file("/media/360.mp4").read_bytes()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: {len(video)}\r\n\r\n"
        site.responses["/v.mp4"] = head.encode() + video
        track = f'<track kind="subtitles" srclang="en" src="{private_url}.vtt">'
        poster = f'poster="{private_url}.jpg"' if sidecar == "thumbnail" else ""
        url = _add_page(site, f'<video {poster} src="/v.mp4">{track}</video>')
        spec = FormatSpec(thumbnail=True, subtitles=FormatSpec.Subtitles(languages=["en"]))
        proxy_url = await harness.guard.open(sidecar, 0)
        request = FetchRequest(url, spec, _create_folder(tmp_path, sidecar), proxy_url)
        result = await harness.engine.fetch(request, FetchListener())
        refusals = (await harness.guard.close(sidecar)).refusals
    assert inside.accepted == 0
    assert ("127.0.0.1", "loopback") in list(refusals)
    assert [product.path.suffix for product in result.products] == [".mp4"]
    assert result.warnings
