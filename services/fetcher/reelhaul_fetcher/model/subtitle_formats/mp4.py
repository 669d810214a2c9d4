"""Subtitles in segments of MP4 (ISO 14496-30): TTML documents, or WebVTT in boxes of its own."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul_fetcher.model.subtitle_formats.text import SubtitlesUnreadable
from reelhaul_fetcher.model.timing.cues import Cue, render

# Boxes at the beginning of a segment (ISO 14496-12).
_FIRST_BOXES = frozenset((b"ftyp", b"styp", b"moov", b"moof", b"sidx", b"free"))
_TTML_TAG = re.compile(rb"<(?:[A-Za-z]\w{0,30}:)?tt[\s>]|</(?:[A-Za-z]\w{0,30}:)?tt\s{0,9}>")
_DEFAULT_TIMESCALE = 1000
# Flags of the fields of each sample of a trun, in order: duration, size, flags, composition offset.
_SAMPLE_FIELDS = (0x100, 0x200, 0x400, 0x800)
# Samples of one file: more than a day of text. A few bytes may claim any number.
_MAX_SAMPLES = 500_000
# Longest gap between the parts of a cue that is continued in the next sample, in seconds.
_JOIN_SECONDS = 0.002


def is_mp4(content: bytes) -> bool:
    """Return whether *content* is MP4."""
    return content[4:8] in _FIRST_BOXES


def to_text(content: bytes) -> bytes:
    """Return the TTML documents or the cues in *content* as text; *content* itself if it is no MP4.

    Raises SubtitlesUnreadable if it has neither.
    """
    if not is_mp4(content):
        return content
    if documents := _find_documents(content):
        return documents
    try:
        cues = list(_merge_continued(_read_webvtt(content)))
    except (struct.error, IndexError):
        raise SubtitlesUnreadable("this MP4 file is damaged") from None
    if not cues:
        raise SubtitlesUnreadable("no cues: neither TTML nor WebVTT in this MP4 file")
    # As SubRip, which has no escapes: the texts already contain markup and references.
    return render(cues, FormatSpec.Subtitles.SRT).encode()


def _find_documents(content: bytes) -> bytes:
    documents, start = [], -1
    for tag in _TTML_TAG.finditer(content):
        if not tag[0].startswith(b"</"):
            start = tag.start()
        elif start >= 0:
            documents.append(b'<?xml version="1.0"?>' + content[start : tag.end()])
            start = -1
    return b"".join(documents)


@dataclass(frozen=True, slots=True)
class _Box:
    """A box within the content: its type, and the start and end of its payload."""

    kind: bytes
    start: int
    end: int


@dataclass(slots=True)
class _Defaults:
    """Defaults for samples: duration in units of *timescale*, size in bytes."""

    timescale: int = _DEFAULT_TIMESCALE
    duration: int = 0
    size: int = 0


def _read_webvtt(content: bytes) -> Iterator[Cue]:
    defaults = _Defaults()
    fragment: list[tuple[int, int, int]] = []
    left = _MAX_SAMPLES
    for box in _boxes(content, 0, len(content)):
        if box.kind == b"moov":
            _read_header(content, box, defaults)
        elif box.kind == b"moof":
            fragment = list(islice(_samples(content, box, defaults), left))
            left -= len(fragment)
        elif box.kind == b"mdat":
            position = box.start
            for time, duration, size in fragment:
                end = min(position + size, box.end)
                text = _sample_text(content, position, end)
                start = time / defaults.timescale
                yield Cue(start, start + duration / defaults.timescale, text)
                position = end
            fragment = []


def _boxes(content: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes between *start* and *end*."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        header = 8
        if size == 1:
            (size,), header = struct.unpack_from(">Q", content, start + 8), 16
        box_end = min(start + size, end) if size else end
        if size and size < header:
            return
        yield _Box(kind, start + header, box_end)
        start = box_end


def _find(content: bytes, parent: _Box, *path: bytes) -> Iterator[_Box]:
    """Yield the boxes at *path* below *parent*."""
    for box in _boxes(content, parent.start, parent.end):
        if box.kind == path[0]:
            if len(path) == 1:
                yield box
            else:
                yield from _find(content, box, *path[1:])


def _read_header(content: bytes, moov: _Box, defaults: _Defaults) -> None:
    for box in _find(content, moov, b"trak", b"mdia", b"mdhd"):
        version = content[box.start]
        (timescale,) = struct.unpack_from(">I", content, box.start + (20 if version else 12))
        defaults.timescale = timescale or _DEFAULT_TIMESCALE
    for box in _find(content, moov, b"mvex", b"trex"):
        defaults.duration, defaults.size = struct.unpack_from(">II", content, box.start + 12)


def _samples(content: bytes, moof: _Box, defaults: _Defaults) -> Iterator[tuple[int, int, int]]:
    """Yield time and duration, in units of the timescale, and size of each sample of a fragment."""
    for traf in _find(content, moof, b"traf"):
        own = replace(defaults)
        for box in _find(content, traf, b"tfhd"):
            _read_fragment_header(content, box, own)
        time = 0
        for box in _find(content, traf, b"tfdt"):
            form = ">Q" if content[box.start] else ">I"
            (time,) = struct.unpack_from(form, content, box.start + 4)
        for box in _find(content, traf, b"trun"):
            for duration, size in _run(content, box, own):
                yield time, duration, size
                time += duration


def _read_fragment_header(content: bytes, box: _Box, defaults: _Defaults) -> None:
    (flags,) = struct.unpack_from(">I", content, box.start)
    position = box.start + 8 + (8 if flags & 0x1 else 0) + (4 if flags & 0x2 else 0)
    if flags & 0x8:
        (defaults.duration,) = struct.unpack_from(">I", content, position)
        position += 4
    if flags & 0x10:
        (defaults.size,) = struct.unpack_from(">I", content, position)


def _run(content: bytes, box: _Box, defaults: _Defaults) -> Iterator[tuple[int, int]]:
    """Yield duration and size of each sample of a trun."""
    flags, count = struct.unpack_from(">II", content, box.start)
    position = box.start + 8 + (4 if flags & 0x1 else 0) + (4 if flags & 0x4 else 0)
    fields = [flag for flag in _SAMPLE_FIELDS if flags & flag]
    # Without entries or sizes, the count is limited by the content.
    max_count = (box.end - position) // (4 * len(fields)) if fields else len(content) // max(defaults.size, 8)
    for _ in range(min(count, max_count)):
        values = dict(zip(fields, struct.unpack_from(f">{len(fields)}I", content, position), strict=True))
        position += 4 * len(fields)
        yield values.get(0x100, defaults.duration), values.get(0x200, defaults.size)


def _sample_text(content: bytes, start: int, end: int) -> str:
    """Return the text of the cues of a sample; empty for a pause."""
    sample = _Box(b"", start, end)
    texts = (content[box.start : box.end] for box in _find(content, sample, b"vttc", b"payl"))
    return "\n".join(text.decode("utf-8", "replace").strip() for text in texts)


def _merge_continued(cues: Iterator[Cue]) -> Iterator[Cue]:
    """Yield *cues* with text; a cue that is continued in the next sample is yielded once."""
    previous: Cue | None = None
    for cue in cues:
        if previous and cue.text == previous.text and abs(cue.start - previous.end) <= _JOIN_SECONDS:
            previous = replace(previous, end=cue.end)
            continue
        if previous and previous.text:
            yield previous
        previous = cue
    if previous and previous.text:
        yield previous
