"""A child of the warm parent: one order in, what is learnt and the end out, then death."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any

from reelhaul.type.v1.media_pb2 import MediaInfo, Progress
from reelhaul_fetcher.model.orders import FetchOrder
from reelhaul_fetcher.ytdlp import cage, failures, fetching, probing, wire
from reelhaul_fetcher.ytdlp.downloader import Answers
from reelhaul_runtime.errors import ReelhaulError, to_status


class Line:
    """Where a child tells the fetcher; from any thread."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def progress(self, progress: Progress) -> None:
        """Newest progress."""
        self.say({"type": "progress", "progress": wire.packed(progress)})

    def media(self, media: MediaInfo) -> None:
        """Metadata, once it is read."""
        self.say({"type": "media", "media": wire.packed(media)})

    def say(self, frame: wire.Frame) -> None:
        """Send *frame*. A fetcher that is gone ends this process."""
        with self._lock:
            try:
                self._stream.sendall(wire.framed(frame))
            except OSError:
                os._exit(1)


def live(stream: socket.socket) -> None:
    """Do the order that comes over *stream*; does not return."""
    order = wire.order_of(wire.read(stream))
    line, answers = Line(stream), Answers()
    place = _Place()
    try:
        folder = order.folder if isinstance(order, FetchOrder) else Path("/")
        limit = order.size_limit if isinstance(order, FetchOrder) else 0
        cage.enter(folder, order.proxy_url, size_limit=limit, cpu_seconds=order.cpu_seconds)
        if isinstance(order, FetchOrder):
            end = wire.report_frame(fetching.fetch(order, line, answers, place))
        else:
            end = {"type": "done", "media": wire.packed(probing.probe(order, answers))}
    except BaseException as error:
        end = _failed(failures.classified(error, answers, order.url, place.extractor))
    line.say({**end, "statuses": answers.statuses})
    os._exit(0)


class _Place:
    """How far a fetch came, for telling of its failure."""

    extractor = ""


def _failed(error: ReelhaulError) -> dict[str, Any]:
    return {"type": "failed", "status": wire.packed(to_status(error))}
