"""Decompression bombs: the fetch fails, and the engine goes on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from tests.fetcher.conftest import Harness
from tests.sites.http import Request, Response, serve_in_thread
from tests.sites.media import ensure_media
from tests.sites.site import Site, start_site

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MEMORY, _PAGE = 400 << 20, 600 << 20


class BombSite(Site):
    """A site whose page ``/bomb`` decompresses to 600 MiB."""

    async def respond(self, request: Request) -> Response:
        """Return that page, or what every site returns."""
        if request.path != "/bomb":
            return await super().respond(request)
        deflate = zlib.compressobj(1, wbits=31)
        mebibyte = b" " * (1 << 20)
        body = b"".join(deflate.compress(mebibyte) for _ in range(_PAGE >> 20)) + deflate.flush()
        return Response(200, body, {"Content-Type": "text/html", "Content-Encoding": "gzip"})


@pytest.fixture(scope="module")
def bomb_site() -> Iterator[Site]:
    site = BombSite(ensure_media())
    with serve_in_thread(lambda: start_site(site, "127.0.0.2"), name="bomb_site"):
        yield site


async def test_compressed_page(harness: Harness, bomb_site: Site) -> None:
    """The fetch fails as too large; the engine's parent process survives, and the next fetch succeeds."""
    parent = harness.engine.zygote_pid
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(bomb_site.url("/bomb"), memory_bytes=_MEMORY)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE
    assert not failure.value.retryable
    report = await harness.fetch(bomb_site.url("/media/360.mp4"), memory_bytes=_MEMORY)
    assert report.delivered.height == 360
    assert parent == harness.engine.zygote_pid
