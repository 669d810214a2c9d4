"""Server-sent events, parsed as they arrive.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from collections.abc import Iterator

from reelhaul._core.errors import CallFailed

# Of one line; the largest message of the API is a job with its files.
_MAX_LINE_BYTES = 32 * 1024 * 1024


class EventParser:
    """Splits a stream into events."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._name, self._data = "", list[str]()

    def feed(self, chunk: bytes) -> Iterator[tuple[str, str]]:
        """Yield name and data of each event that *chunk* completes. Raises CallFailed for an endless line."""
        # Only \n ends a line of the gateway: text may contain what str.splitlines() takes for an end.
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            event = self._take_line(b"".join([*self._pieces, line]))
            self._pieces.clear()
            self._size = 0
            if event is not None:
                yield event
        self._pieces.append(rest)
        self._size += len(rest)
        if self._size > _MAX_LINE_BYTES:
            raise CallFailed("INTERNAL", "the stream contains something else than events")

    def _take_line(self, line: bytes) -> tuple[str, str] | None:
        """Return the event that *line* ends, if it ends one."""
        text = line.decode(errors="replace").removesuffix("\r")
        if not text:
            event = (self._name, "\n".join(self._data)) if self._data else None
            self._name, self._data = "", []
            return event
        field, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
        elif field == "event":
            self._name = value
        return None
