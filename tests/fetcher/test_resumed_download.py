"""Downloads that continue what an earlier attempt received: the rest only, or all of it, but one version."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.fetcher.conftest import FetchListener, Harness, sha256
from tests.sites.site import Site
from yt_dlp.utils import YoutubeDLError

from reelhaul.type.v1.media_pb2 import FormatSpec, Progress
from reelhaul_fetcher.model.byte_ranges import OVERLAP_BYTES, RangeAllocator
from reelhaul_fetcher.model.progress import ProgressTracker
from reelhaul_fetcher.ytdlp.download.parallel import FileDownload
from reelhaul_fetcher.ytdlp.download.received_folder import (
    ReceivedFolder,
    read_record,
    record_path,
    write_record,
)
from reelhaul_fetcher.ytdlp.download.remote_file import RemoteFile
from reelhaul_fetcher.ytdlp.download.segments import download_segments, list_segments
from reelhaul_fetcher.ytdlp.downloader import Downloader, ResponseLog, downloader_options

# Five megabytes.
FILE, MB = "/media/1080.mp4", 1_000_000
SLOW = "rate=1400000"
_PLAYLIST = "/hls-ts/720.m3u8"

_tokens = itertools.count()


@pytest.fixture(scope="module")
def downloader() -> Iterator[Downloader]:
    """A downloader without a proxy."""
    with Downloader(ResponseLog(), downloader_options("", concurrent_fragment_downloads=4)) as downloader:
        yield downloader


@pytest.fixture
def token() -> str:
    """A token that no other test uses."""
    return f"resumed{next(_tokens)}"


def _leave(site: Site, path: Path, received: Sequence[tuple[int, int]], /, **changes: Any) -> None:
    """Leave *received* of the site's file at *path*, as an attempt does that was killed."""
    content = site.media.file(FILE).read_bytes()
    left = bytearray(max(stop for _, stop in received))
    for start, stop in received:
        left[start:stop] = content[start:stop]
    path.write_bytes(left)
    version = {"total": len(content), "etag": f'"{site.digest(FILE)[:32]}"', "last_modified": ""}
    write_record(path, {**version, "received": received, **changes})


def _resume(downloader: Downloader, site: Site, path: Path, query: str, connections: int = 8) -> int:
    """Download the site's file to *path*; return how many bytes were continued."""
    resumed = [0]
    download = FileDownload(path, connections, lambda *_: None, resumed.append)
    download.download(RemoteFile(downloader, {"url": site.url(f"{FILE}?{query}")}))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == site.digest(FILE)
    assert read_record(path).get("received", [[0, path.stat().st_size]]) == [[0, path.stat().st_size]]
    return resumed[-1]


def _starts(site: Site, token: str) -> list[int]:
    """Return the first bytes of the ranges that were requested with *token*."""
    requests = [request for request in site.requests if request.query.get("token") == token]
    ranges = [request.headers.get("range", "bytes=0-") for request in requests]
    return [int(header.removeprefix("bytes=").partition("-")[0]) for header in ranges]


@pytest.mark.parametrize(
    "received",
    [
        [(0, 4 * MB)],
        [(0, 10)],
        [(0, MB), (2 * MB, 3 * MB), (4 * MB, 4 * MB + 100_000)],
        [(3 * MB, 3 * MB + 10)],
        [(MB, 2 * MB), (2 * MB + 1, 3 * MB)],
        [(0, 5)] + [(number * 50_000, number * 50_000 + 25_000) for number in range(1, 90)],
    ],
    ids=["head", "few bytes", "holes", "no head", "hole of a byte", "many holes"],
)
@pytest.mark.parametrize("connections", [1, 8])
def test_missing_ranges_only(
    downloader: Downloader,
    site: Site,
    tmp_path: Path,
    token: str,
    received: list[tuple[int, int]],
    connections: int,
) -> None:
    """Only the gaps are requested, and a few bytes before each; the file is the site's."""
    _leave(site, tmp_path / "file", received)
    continued = _resume(downloader, site, tmp_path / "file", f"token={token}", connections)
    overlaps = sum(min(OVERLAP_BYTES, stop - start) for start, stop in received)
    assert continued == sum(stop - start for start, stop in received) - overlaps
    gaps = [max(start, stop - OVERLAP_BYTES) for start, stop in received]
    assert sorted(_starts(site, token)) == sorted(gaps if received[0][0] == 0 else [0, *gaps])


def test_resume_over_several_connections(
    downloader: Downloader, site: Site, tmp_path: Path, token: str
) -> None:
    """The speed of a slow site is measured without the bytes received by earlier attempts."""
    _leave(site, tmp_path / "file", [(0, MB)])
    _resume(downloader, site, tmp_path / "file", f"token={token}&{SLOW}")
    assert len(_starts(site, token)) >= 4


def test_responses_shorter_than_the_overlap(
    downloader: Downloader, site: Site, tmp_path: Path, token: str
) -> None:
    """A file of which too little comes at once for a comparison is received anew."""
    _leave(site, tmp_path / "file", [(0, 4 * MB)])
    options = {"http_chunk_size": OVERLAP_BYTES // 2}
    stream = {"url": site.url(f"{FILE}?token={token}"), "downloader_options": options}
    FileDownload(tmp_path / "file", 1, lambda *_: None).download(RemoteFile(downloader, stream))
    assert hashlib.sha256((tmp_path / "file").read_bytes()).hexdigest() == site.digest(FILE)
    assert 0 in _starts(site, token)


def test_complete_file(downloader: Downloader, site: Site, tmp_path: Path, token: str) -> None:
    """Of a file that was complete, only the last bytes are requested."""
    size = site.media.file(FILE).stat().st_size
    _leave(site, tmp_path / "file", [(0, size)])
    _resume(downloader, site, tmp_path / "file", f"token={token}")
    assert _starts(site, token) == [size - OVERLAP_BYTES]


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(3 * MB - 10)
        file.write(b"something else")


def _cut(path: Path) -> None:
    os.truncate(path, 2 * MB)


def _restart_machine(path: Path) -> None:
    body = json.dumps({**read_record(path), "boot": "another"}).encode()
    record_path(path).write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def _forget(path: Path) -> None:
    record_path(path).unlink()


@pytest.mark.parametrize(
    ("query", "changes", "happens"),
    [
        ("", {"etag": '"an older version"'}, None),
        ("", {"total": 4 * MB}, None),
        ("", {"total": 6 * MB}, None),
        ("blind=1", {"etag": '"an older version"'}, None),
        ("blind=1&nameless=1", {"total": 6 * MB}, None),
        ("blind=1", {"total": 60 * MB, "received": [[5_900_000, 5_900_001]]}, None),
        ("ranges=no", {}, None),
        ("", {"etag": 'W/"weak"'}, None),
        ("", {"etag": ""}, None),
        ("", {"received": [[0, 2 * MB], [MB, 3 * MB]]}, None),
        ("", {"received": [[0, -3]]}, None),
        ("", {"received": [["0", None]]}, None),
        ("", {}, _damage),
        ("", {}, _cut),
        ("", {}, _restart_machine),
        ("", {}, _forget),
    ],
    ids=[
        "another tag",
        "it is longer now",
        "it is shorter now",
        "another tag, If-Range ignored",
        "shorter, nothing to recognise it by",
        "so short that the range is refused",
        "no ranges any more",
        "only a weak tag",
        "no tag and no date",
        "ranges that overlap",
        "ranges that are none",
        "ranges of another type",
        "other bytes before the gap",
        "fewer bytes than recorded",
        "the machine was restarted",
        "no record",
    ],
)
def test_restart_without_proof(
    downloader: Downloader,
    site: Site,
    tmp_path: Path,
    token: str,
    query: str,
    changes: dict[str, Any],
    happens: Callable[[Path], None] | None,
) -> None:
    """Bytes that cannot be proven to be of the site's current file are received from the beginning."""
    path = tmp_path / "file"
    _leave(site, path, [(0, 3 * MB)], **{"last_modified": "", **changes})
    if happens:
        happens(path)
    if "60" in str(changes.get("total")):
        os.truncate(path, 6 * MB)
    _resume(downloader, site, path, f"token={token}&{query}")
    assert _starts(site, token)[-1] == 0


def test_origin_without_validators_leaves_no_record(
    downloader: Downloader, site: Site, tmp_path: Path
) -> None:
    """A file that cannot be recognised is never continued."""
    path = tmp_path / "file"
    with suppress(YoutubeDLError):
        url = site.url(f"{FILE}?nameless=1&stall=3000000&hole=1")
        FileDownload(path, 1, _stop_after(2 * MB)).download(RemoteFile(downloader, {"url": url}))
    assert read_record(path) == {}


def _stop_after(count: int) -> Callable[[int, int | None], None]:
    def on_bytes(received: int, _: int | None) -> None:
        if received > count:
            raise YoutubeDLError("interrupted")

    return on_bytes


@pytest.mark.parametrize("query", [SLOW, "", f"parts=1&{SLOW}"], ids=["slow", "fast", "slow parts"])
def test_interrupted_attempts(
    downloader: Downloader, site: Site, tmp_path: Path, token: str, query: str
) -> None:
    """A download that is interrupted again and again receives little twice."""
    path, counted = tmp_path / "file", 0
    for megabytes in (1, 2, 4):
        with pytest.raises(YoutubeDLError, match="interrupted"):
            FileDownload(path, 8, _stop_after(megabytes * MB)).download(
                RemoteFile(downloader, {"url": site.url(f"{FILE}?token={token}&{query}")})
            )
        record = read_record(path)["received"]
        assert sum(stop - start for start, stop in record) > max(counted, megabytes * MB - 8 * OVERLAP_BYTES)
        counted = sum(stop - start for start, stop in record)
    assert _resume(downloader, site, path, f"token={token}-last&{query}") > 3 * MB


def test_torn_record(tmp_path: Path) -> None:
    """A truncated or altered record is ignored; the old record is valid until a new one is complete."""
    path = tmp_path / "file"
    write_record(path, {"received": [[0, 5]]})
    whole = record_path(path).read_bytes()
    for length in range(len(whole)):
        record_path(path).write_bytes(whole[:length])
        assert read_record(path) == {}
        record_path(path).write_bytes(whole[:length] + b"\0" + whole[length + 1 :])
        assert read_record(path) == {}
    record_path(path).write_bytes(whole)
    # What a crash leaves while the next one is written.
    record_path(path).with_name("file.state.new").write_bytes(whole[:20])
    assert read_record(path) == {"received": [[0, 5]]}
    record_path(path).write_bytes(whole * 100_000)
    assert read_record(path) == {}


_WRITER = """
import os, sys
from pathlib import Path
from reelhaul_fetcher.ytdlp.download.received_folder import write_record
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    path.write_bytes(b"x" * number)
    write_record(path, {"received": [[0, number]] * 500, "number": number})
    if number == 20:
        print("ready", flush=True)
"""


def test_killed_while_it_writes_a_record(tmp_path: Path) -> None:
    """A process that is killed at any time leaves a complete record, of bytes that were written."""
    path = tmp_path / "file"
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", _WRITER, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            writer.kill()
        assert read_record(path)["number"] >= 20


@pytest.mark.parametrize(
    "received", [[], [(0, 10)], [(0, 300_000), (400_000, 500_000)], [(5, 6), (7, 9)], [(0, 1_000_000)]]
)
def test_ranges_round_trip(received: list[tuple[int, int]]) -> None:
    """Recorded ranges are restored, without the overlaps."""
    ranges = RangeAllocator.resume(1_000_000, received)
    overlaps = [min(OVERLAP_BYTES, stop - start) for start, stop in received]
    expected = [
        (start, stop - overlap)
        for (start, stop), overlap in zip(received, overlaps, strict=True)
        if overlap < stop - start
    ]
    assert ranges.list_received(1_000_000) == expected
    assert ranges.received + ranges.left == 1_000_000


def test_resumed_bytes_have_no_rate() -> None:
    """Bytes of an earlier attempt count as downloaded, but not as transfer rate or for the remaining time."""
    now, reports = [0.0], list[Progress]()
    tracker = ProgressTracker(reports.append, lambda: now[0], interval=0)
    tracker.set_plan({"a": 1000 * MB}, 1000 * MB)
    tracker.begin_stage(Progress.DOWNLOADING)
    now[0] = 1.0
    tracker.resume_part("a", 800 * MB)
    for second in (2.0, 3.0):
        now[0] = second
        tracker.update_part("a", 800 * MB + int(second - 1) * MB)
    assert reports[-1].downloaded_bytes == 802 * MB
    assert reports[-1].bytes_per_second == MB
    assert reports[-1].eta.seconds == 198


# Fragments.


def _segments(site: Site) -> list[str]:
    text = site.media.file(_PLAYLIST).read_text()
    return [f"/hls-ts/{name}" for name in re.findall(r"^(?!#)(\S+)$", text, re.M)]


def _whole(site: Site) -> bytes:
    return b"".join(site.media.file(name).read_bytes() for name in _segments(site))


class _Fragments:
    """Attempts to download a stream in fragments to one file, and what they requested."""

    def __init__(self, site: Site, folder: Path, token: str) -> None:
        self._site, self.path, self._token = site, folder / "stream.mp4", token
        self.playlist = _PLAYLIST
        self.resumed = 0

    def attempt(self, connections: int = 4, stop_after: int = 0) -> list[str]:
        """Download, or interrupt it after *stop_after* bytes; return the fragments requested."""
        before = len(self._site.requests)
        options = downloader_options("", concurrent_fragment_downloads=connections)
        if stop_after:
            stop = _stop_after(stop_after)
            options["progress_hooks"] = [
                # Of fragments on several connections, the first may be the last to arrive.
                lambda status: self._is_resumable() and stop(status.get("downloaded_bytes") or 0, None)
            ]
        url = self._site.url(f"{self.playlist}?media.token={self._token}")
        with Downloader(ResponseLog(), options) as downloader:
            info = downloader.extract_info(url, download=False)
            stream = next(f for f in reversed(info["formats"]) if f.get("vcodec") != "none")
            stream, target = {**info, **stream}, self.path.with_name("target.mp4")
            segments, self.resumed = list_segments(downloader, stream), 0
            with suppress(YoutubeDLError if stop_after else ()):
                download_segments(downloader, stream, segments, self.path, target, self._on_resumed)
        return [
            r.path for r in self._site.requests[before:] if not r.path.endswith((".m3u8", ".mpd", ".bin"))
        ]

    def _is_resumable(self) -> bool:
        """Return whether fragments but the last one would be kept."""
        return bool(read_record(self.path).get("count", 0) > 1)

    def _on_resumed(self, count: int) -> None:
        self.resumed = count


@pytest.fixture
def fragments(site: Site, tmp_path: Path, token: str) -> _Fragments:
    """Attempts of one stream."""
    return _Fragments(site, tmp_path, token)


@pytest.mark.parametrize("connections", [1, 4])
@pytest.mark.parametrize(
    "playlist",
    [_PLAYLIST, "/hls/720.m3u8", "/hls-aes/360.m3u8", "/dash/manifest.mpd"],
    ids=lambda path: path[1:],
)
def test_fragments_continue(fragments: _Fragments, tmp_path: Path, playlist: str, connections: int) -> None:
    """After an interruption, the fragments received are not requested again, but for the last one."""
    interrupted, fragments.playlist, fragments.path = fragments.path, playlist, tmp_path / "whole.mp4"
    everything = fragments.attempt(connections=1)
    whole, fragments.path = fragments.path.read_bytes(), interrupted
    fragments.attempt(connections, stop_after=len(whole) // 2)
    count = read_record(fragments.path)["count"]
    assert count > 1
    requested = fragments.attempt(connections)
    assert fragments.path.read_bytes() == whole
    assert set(requested) <= set(everything[max(0, count - 1) :])
    assert fragments.resumed > 0


def test_finished_fragments(site: Site, fragments: _Fragments) -> None:
    """Of a stream that was complete, the last fragment is requested only."""
    fragments.attempt()
    assert fragments.attempt() == _segments(site)[-1:]
    assert fragments.path.read_bytes() == _whole(site)


def _edit_record(**changes: Any) -> Callable[[Path], None]:
    return lambda path: write_record(path, {**read_record(path), **changes})


def _empty_ytdl(path: Path) -> None:
    path.with_name(f"{path.name}.ytdl").write_bytes(b"")


def _alter_part(path: Path) -> None:
    """Alter the last fragment and its digest, as if the site had another one at that time."""
    record, part = read_record(path), path.with_name(f"{path.name}.part")
    content = bytearray(part.read_bytes())
    content[record["start"]] ^= 1
    part.write_bytes(content)
    digest = hashlib.sha256(content[record["start"] : record["size"]]).hexdigest()
    write_record(path, {**record, "sha256": digest})


def _tear_part(path: Path) -> None:
    os.truncate(path.with_name(f"{path.name}.part"), read_record(path)["size"] - 1)


def _append(path: Path) -> None:
    """Append half of a fragment, as a crash leaves it between the fragment and its record."""
    with path.with_name(f"{path.name}.part").open("ab") as part:
        part.write(b"\x47" * 5000)


def _leave_ahead(path: Path) -> None:
    """Leave a fragment that is here already, and one beyond the end."""
    for number in (1, 10_000):
        path.with_name(f"{path.name}.part-Frag{number}").write_bytes(b"wrong")


def _leave_part_of_fragment(path: Path) -> None:
    """Leave partial fragments of unknown version."""
    for number in range(2, 40):
        part = path.with_name(f"{path.name}.part-Frag{number}.part")
        if not part.exists():
            part.write_bytes(b"wrong")


@pytest.mark.parametrize(
    ("happens", "is_continued"),
    [
        (_append, True),
        (_empty_ytdl, True),
        (_leave_ahead, True),
        (_leave_part_of_fragment, True),
        (_alter_part, False),
        (_tear_part, False),
        (_forget, False),
        (_restart_machine, False),
        (_edit_record(fragments="another list"), False),
        (_edit_record(count=10_000), False),
        (_edit_record(count="x"), False),
    ],
    ids=[
        "half a fragment more",
        "empty ytdl file",
        "fragments that do not belong",
        "parts of fragments",
        "other bytes then",
        "bytes missing",
        "no record",
        "the machine was restarted",
        "another playlist",
        "more fragments than there are",
        "a damaged record",
    ],
)
def test_leftovers_of_fragments(
    site: Site, fragments: _Fragments, happens: Callable[[Path], None], is_continued: bool
) -> None:
    """After any crash or change, the file equals the site's; recorded fragments are not received again."""
    fragments.attempt(connections=1, stop_after=len(_whole(site)) // 2)
    happens(fragments.path)
    requested = fragments.attempt(connections=4)
    assert fragments.path.read_bytes() == _whole(site)
    assert (_segments(site)[0] not in requested) is is_continued
    assert [entry.name for entry in fragments.path.parent.iterdir() if "Frag" in entry.name] == []


def test_fragment_in_part(site: Site, fragments: _Fragments, token: str) -> None:
    """A fragment that was received in part is continued, if the site says that it is the same."""
    fragments.attempt(connections=1, stop_after=len(_whole(site)) // 2)
    count = read_record(fragments.path)["count"]
    parts = [entry for entry in fragments.path.parent.iterdir() if re.search(r"Frag\d+\.part$", entry.name)]
    assert len(parts) == 1
    size = parts[0].stat().st_size
    assert size > 0
    before = len(site.requests)
    fragments.attempt()
    following = [r for r in site.requests[before:] if r.path == _segments(site)[count]]
    assert [r.headers.get("range") for r in following] == [f"bytes={size}-"]
    assert fragments.path.read_bytes() == _whole(site)


# The folder, and the engine.


def test_hard_linked_files_are_copied(tmp_path: Path) -> None:
    """A file that storage adopted by link is replaced by a copy; other entries than files are deleted."""
    folder = tmp_path / "received"
    folder.mkdir()
    (folder / "own").write_bytes(b"own")
    (folder / "adopted").write_bytes(b"adopted")
    os.link(folder / "adopted", tmp_path / "blob")
    (tmp_path / "blob").chmod(0o440)
    (folder / "link").symlink_to(tmp_path / "blob")
    ReceivedFolder(folder)
    assert sorted(entry.name for entry in folder.iterdir()) == [".lock", "adopted", "own"]
    (folder / "adopted").write_bytes(b"changed")
    assert (tmp_path / "blob").read_bytes() == b"adopted"


def test_folder_locked_by_another_process(tmp_path: Path) -> None:
    """If a process of an earlier attempt still writes, its file is not taken over, but unlinked."""
    folder = tmp_path / "received"
    earlier = ReceivedFolder(folder)
    with (earlier.path / "part").open("wb") as still_open:
        ReceivedFolder(folder)
        still_open.write(b"late")
    assert not (folder / "part").exists()


def test_files_of_other_streams(tmp_path: Path) -> None:
    """Files of streams that are not chosen are deleted."""
    received = ReceivedFolder(tmp_path / "received")
    for name in ("a.mp4", "a.mp4.state", "a.mp4.part-Frag3", "b.mp4", "b.mp4.state", "c.mp4.part"):
        (received.path / name).write_bytes(b"x")
    assert received.claim("a.mp4") == received.path / "a.mp4"
    received.delete_unclaimed()
    left = sorted(entry.name for entry in received.path.iterdir())
    assert left == [".lock", "a.mp4", "a.mp4.part-Frag3", "a.mp4.state"]


def _remove(folder: Path, pattern: str) -> None:
    for file in folder.glob(pattern):
        file.unlink()


async def _interrupt(harness: Harness, url: str, spec: FormatSpec, folder: Path, min_bytes: int) -> None:
    """Kill the process of a fetch once it has received *min_bytes*."""
    reached = asyncio.Event()

    class Listener(FetchListener):
        def on_progress(self, progress: Progress) -> None:
            if progress.downloaded_bytes >= min_bytes:
                reached.set()

    fetch = asyncio.create_task(harness.fetch(url, spec, Listener(), folder=folder))
    async with asyncio.timeout(20):
        await reached.wait()
    fetch.cancel()
    await asyncio.wait({fetch})
    _remove(folder, "*.*")


@pytest.mark.asyncio(loop_scope="module")
async def test_killed_process_continues(harness: Harness, site: Site, tmp_path: Path, token: str) -> None:
    """After SIGKILL, the next process requests the rest only, and reports no rate that the site never had."""
    url = site.url(f"{FILE}?token={token}&{SLOW}")
    await _interrupt(harness, url, FormatSpec(), tmp_path, 4 * MB)
    before, listener = len(site.requests), FetchListener()
    result = await harness.fetch(url, FormatSpec(), listener, folder=tmp_path)
    assert sha256(result.products[0]) == site.digest(FILE)
    later = site.requests[before:]
    assert all(int(r.headers["range"][6:].partition("-")[0]) > 0 for r in later if "if-range" in r.headers)
    assert [r for r in later if "if-range" in r.headers]
    received = [progress.downloaded_bytes for progress in listener.progress_updates]
    assert min(filter(None, received)) > 3 * MB
    assert max(progress.bytes_per_second for progress in listener.progress_updates) < 8 * 1_400_000
    assert listener.percentages == sorted(listener.percentages)


@pytest.mark.asyncio(loop_scope="module")
async def test_finished_stream_is_not_received_again(
    harness: Harness, site: Site, tmp_path: Path, token: str
) -> None:
    """If the video is complete and the sound is not, the next attempt receives the sound."""
    url = site.url(f"/hls/master.m3u8?media.token={token}")
    clean = await harness.fetch(url, folder=tmp_path)
    digest, received = sha256(clean.products[0]), tmp_path / "received"
    sizes = {file: file.stat().st_size for file in received.glob("*.mp4")}
    assert len(sizes) == 2
    sound = min(sizes, key=lambda file: sizes[file])
    _remove(received, f"{sound.name}*")
    _remove(tmp_path, "*.*")
    before = len(site.requests)
    again = await harness.fetch(url, folder=tmp_path)
    assert sha256(again.products[0]) == digest
    requested = [r.path for r in site.requests[before:] if r.path.endswith((".m4s", ".mp4"))]
    assert len([path for path in requested if "audio" not in path]) == 1
    assert len([path for path in requested if "audio" in path]) > 1
