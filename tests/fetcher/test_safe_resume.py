"""Resumption after an interruption: a file never mixes two versions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fetcher.conftest import Harness, sha256
from tests.sites.site import Site
from yt_dlp.networking import Request
from yt_dlp.networking.exceptions import TransportError

from reelhaul_fetcher.disk.workdir import WorkDirs
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, downloader_options

_FOLDER, _PLAYLIST = "/hls-ts", "/hls-ts/720.m3u8"


@pytest.fixture(scope="module")
def downloader() -> Iterator[Downloader]:
    """A downloader without a proxy."""
    with Downloader(ResponseLog(), downloader_options("")) as downloader:
        yield downloader


def _digest(site: Site) -> str:
    """Return the SHA-256 of all segments of the playlist, joined."""
    text = site.media.file(_PLAYLIST).read_text()
    names = re.findall(r"^(?!#)(\S+)$", text, re.M)
    content = b"".join(site.media.file(f"{_FOLDER}/{name}").read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "fault",
    [
        {"times": 1},
        {"times": 1, "changing": 1},
        {"times": 2, "changing": 1, "blind": 1},
        {"times": 2, "changing": 1, "nameless": 1},
        {"times": 2, "ranges": "no"},
    ],
    ids=lambda fault: " ".join(fault),
)
def test_interrupted_fragment(
    downloader: Downloader, site: Site, tmp_path: Path, fault: dict[str, object]
) -> None:
    """Each fragment is interrupted and may change then: the file has the last version of each, complete.

    yt-dlp alone appends the rest of the new version to what it has of the old one.
    """
    options = {"reset": 60000, "token": "".join(fault), **fault}
    query = "&".join(f"media.{name}={value}" for name, value in options.items())
    info = downloader.extract_info(site.url(f"{_PLAYLIST}?{query}"), download=False)
    path = tmp_path / "stream.mp4"
    assert downloader.dl(str(path), {**info, **info["formats"][0]})[0]
    assert _digest(site) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_changed_file_of_fragments(downloader: Downloader, site: Site) -> None:
    """If fragments are ranges of one file, a range of another version is an error."""
    url = site.url("/media/360.mp4?token=stretches&changing=1&blind=1&times=2")
    downloader.urlopen(Request(url, headers={"Range": "bytes=0-999"})).close()
    with pytest.raises(TransportError, match="changed"):
        downloader.urlopen(Request(url, headers={"Range": "bytes=1000-1999"}))


_NAME = "stream0.mp4"
_HALF = b"\x47" * 100_000
_STATE = '{"downloader": {"current_fragment": {"index": 2}, "extra_state": {}}}'


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "left"),
    [
        (_PLAYLIST, {f"{_NAME}.part": _HALF}),
        (_PLAYLIST, {f"{_NAME}.part": _HALF, f"{_NAME}.ytdl": b""}),
        (_PLAYLIST, {f"{_NAME}.part": _HALF, f"{_NAME}.ytdl": _STATE[:30].encode()}),
        (_PLAYLIST, {f"{_NAME}.part": _HALF, f"{_NAME}.ytdl": _STATE.encode()}),
        (_PLAYLIST, {f"{_NAME}.part-Frag1.part": _HALF}),
        ("/media/720.mp4", {f"{_NAME}.part": _HALF, _NAME: _HALF}),
    ],
    ids=["no state", "empty state", "cut state", "state of another", "fragment of another", "plain file"],
)
async def test_leftovers_of_an_earlier_attempt(
    harness: Harness, site: Site, tmp_path: Path, path: str, left: dict[str, bytes]
) -> None:
    """Nothing that a dead attempt left under the names of this one gets into the file."""
    scratch = WorkDirs(tmp_path)
    folder = scratch.create("jobs/one", 1)
    for name, content in left.items():
        (folder / name).write_bytes(content)
    result = await harness.fetch(site.url(path), folder=scratch.create("jobs/one", 1))
    clean = await harness.fetch(site.url(path))
    assert sha256(clean.products[0]) == sha256(result.products[0])
