"""Little that a site sends and much that it becomes: the fetch ends, and nothing else does."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest
from tests.fetcher.conftest import Harness
from tests.sites.background import in_background
from tests.sites.http import Answer, Request
from tests.sites.media import made
from tests.sites.site import Site, start

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import ReelhaulError

pytestmark = pytest.mark.asyncio(loop_scope="module")

_MEMORY, _PAGE = 400 << 20, 600 << 20


class Bombing(Site):
    """A site whose page ``/bomb`` inflates to what no page is."""

    async def respond(self, request: Request) -> Answer:
        """That page, or what any site has."""
        if request.path != "/bomb":
            return await super().respond(request)
        deflate = zlib.compressobj(1, wbits=31)
        blank = b" " * (1 << 20)
        body = b"".join(deflate.compress(blank) for _ in range(_PAGE >> 20)) + deflate.flush()
        return Answer(200, body, {"Content-Type": "text/html", "Content-Encoding": "gzip"})


@pytest.fixture(scope="module")
def bombing() -> Iterator[Site]:
    """Such a site."""
    site = Bombing(made())
    with in_background(lambda: start(site, "127.0.0.2"), name="bombing"):
        yield site


async def test_a_page_that_inflates(harness: Harness, bombing: Site) -> None:
    """It is refused as too large; the engine lives on, and the next fetch goes well."""
    parent = harness.engine.zygote_pid
    with pytest.raises(ReelhaulError) as failure:
        await harness.fetch(bombing.url("/bomb"), memory_bytes=_MEMORY)
    assert failure.value.reason == ErrorReason.MEDIA_TOO_LARGE
    assert not failure.value.retryable
    report = await harness.fetch(bombing.url("/media/360.mp4"), memory_bytes=_MEMORY)
    assert report.delivered.height == 360
    assert parent == harness.engine.zygote_pid
