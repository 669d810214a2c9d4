"""The engine, seen from the fetcher: orders to a warm parent, and each child on its own line."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.rpc import status_pb2

from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, MediaInfo, PlaylistEntry, Progress
from reelhaul_fetcher.clients.libretranslate import NoTranslator
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import (
    EngineRequest,
    ExpandRequest,
    ExpandResult,
    ExtractorListRequest,
    FetchRequest,
    FetchResult,
    ProbeRequest,
    Product,
)
from reelhaul_fetcher.ports import Listener, ListListener, Translator
from reelhaul_fetcher.ytdlp.process import protocol
from reelhaul_fetcher.ytdlp.process.namespace import EngineNamespace
from reelhaul_runtime.errors import ReelhaulError, Unavailable, from_status, to_status
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

HearEntries = Callable[[Sequence[PlaylistEntry]], None]

_WARM_SECONDS = 60.0
_CHECK_SECONDS = 4.0
_RESTART_SECONDS = 0.5


@dataclass(slots=True)
class _Run:
    """A child: its process group once it is known, and whether all of it is gone."""

    #: Where its products must lie; None: it makes none, or has told already of one that is ready.
    folder: Path | None = None
    pid: int = 0
    status: int | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)


class YtDlpEngine:
    """Keeps a parent alive and warm, and runs orders in its children."""

    def __init__(
        self,
        environment: Mapping[str, str],
        worker: str,
        access: EngineOptions | None = None,
        translator: Translator | None = None,
        namespace: EngineNamespace | None = None,
    ) -> None:
        self._namespace = [namespace.user, namespace.network] if namespace else []
        self._environment, self._worker = dict(environment), worker
        self._access, self._translator = access or EngineOptions(), translator or NoTranslator()
        self._control: socket.socket | None = None
        self._runs: dict[str, _Run] = {}
        self._warm = asyncio.Event()
        self._version = ""
        self._pid = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        environment: Mapping[str, str],
        worker: str,
        access: EngineOptions | None = None,
        translator: Translator | None = None,
        namespace: EngineNamespace | None = None,
    ) -> AsyncIterator[YtDlpEngine]:
        """An engine whose parent has *environment* and nothing else; warm a second later.

        *access* is how it gets at sites, *translator* what it asks for what they do not translate;
        *namespace* the network that it lives in, where it is not this one.
        """
        engine = cls(environment, worker, access, translator, namespace)
        keeping = asyncio.create_task(engine._keep_parent())
        try:
            yield engine
        finally:
            await cancel_and_wait(keeping)

    @property
    def version(self) -> str:
        """Engine and version; empty until it was warm once."""
        return self._version

    @property
    def zygote_pid(self) -> int:
        """The present parent; 0 while there is none."""
        return self._pid

    async def check(self) -> None:
        """Return when the parent is warm. Raises Unavailable where that takes long."""
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._warm.wait()
        except TimeoutError:
            raise Unavailable("fetcher", "the engine is not warm") from None

    async def wait_until_warm(self) -> None:
        """Return when the parent is warm."""
        await self._warm.wait()

    async def fetch(self, order: FetchRequest, listener: Listener) -> FetchResult:
        """As ``ports.Engine.fetch``."""
        report = protocol.report_of(await self._do(order, listener))
        for product in report.products:
            # A child that a site has taken over could name any file of ours as its product.
            if not _lies_in(order.folder, product):
                raise _lost(self._worker, "the child's product is none")
        return report

    async def expand(self, order: ExpandRequest, listener: ListListener) -> ExpandResult:
        """As ``ports.Engine.expand``."""
        done = await self._do(order, listener, listener.on_entries)
        return ExpandResult(protocol.unpacked(MediaInfo, done["media"]), done["truncated"])

    async def probe(self, order: ProbeRequest) -> MediaInfo:
        """As ``ports.Engine.probe``."""
        media: MediaInfo = protocol.unpacked(MediaInfo, (await self._do(order, None))["media"])
        return media

    async def list_extractors(self) -> Sequence[Extractor]:
        """As ``ports.Engine.sites``."""
        done = await self._do(ExtractorListRequest(), None)
        return [protocol.unpacked(Extractor, told) for told in done["sites"]]

    def select_formats(self, selector: str, offered: Sequence[Format]) -> list[Format]:
        """As ``ports.Engine.select_formats``."""
        # Loads yt-dlp, which this process does not need otherwise.
        from reelhaul_fetcher.ytdlp import format_selector

        return format_selector.select_formats(selector, offered)

    async def _do(
        self, order: EngineRequest, listener: Listener | None, entries: HearEntries | None = None
    ) -> protocol.Frame:
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await self._warm.wait()
        except TimeoutError:
            raise Unavailable("fetcher", "the engine does not get warm") from None
        run = str(uuid.uuid4())
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        known = self._runs[run] = _Run(order.folder if isinstance(order, FetchRequest) else None)
        try:
            with theirs:
                self._send({"start": run, "tastes": isinstance(order, FetchRequest)}, theirs)
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                writer.write(protocol.framed(protocol.order_frame(order, self._access)))
                async with _ending(writer, listener):
                    return await self._hear(reader, writer, known, listener, entries)
            finally:
                writer.close()
        finally:
            await asyncio.shield(self._end(run, known))

    async def _hear(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        run: _Run,
        listener: Listener | None,
        entries: HearEntries | None,
    ) -> protocol.Frame:
        """Frames until the last; a line that ends without one is a child that died."""
        while True:
            try:
                length = protocol.HEADER.unpack(await reader.readexactly(protocol.HEADER.size))[0]
                if length > protocol.MAX_FRAME:
                    raise _lost(self._worker, "the child talks nonsense")
                frame: protocol.Frame = json.loads(await reader.readexactly(length))
            except (asyncio.IncompleteReadError, ConnectionError):
                await run.gone.wait()
                raise _lost(self._worker, _cause(run.status)) from None
            if frame["type"] in ("done", "failed") and listener is not None:
                counted = {int(status): times for status, times in frame["statuses"].items()}
                listener.status_counts.http_statuses.update(counted)
            if frame["type"] == "done":
                return frame
            if frame["type"] == "failed":
                raise from_status(protocol.unpacked(status_pb2.Status, frame["status"]))
            if frame["type"] == "translate":
                writer.write(protocol.framed(await self._translated(frame)))
            elif frame["type"] == "entries" and entries is not None:
                entries([protocol.unpacked(PlaylistEntry, told) for told in frame["entries"]])
            elif listener is not None:
                _pass_on(frame, listener, run)

    async def _translated(self, frame: protocol.Frame) -> protocol.Frame:
        """What the translator makes of a child's question. Raises WORKER_LOST where it is none."""
        told = [*frame["texts"], frame["source"], frame["target"]]
        if not all(isinstance(text, str) for text in told):
            raise _lost(self._worker, "the child talks nonsense")
        try:
            texts = await self._translator.translate(frame["texts"], frame["source"], frame["target"])
        except ReelhaulError as error:
            return {"status": protocol.packed(to_status(error))}
        return {"texts": texts}

    async def _end(self, run: str, known: _Run) -> None:
        """Stop the child's whole group, and wait until it is gone."""
        try:
            if not known.gone.is_set():
                self._send({"stop": run})
        except Unavailable:
            known.gone.set()
        try:
            async with asyncio.timeout(5):
                await known.gone.wait()
        except TimeoutError:
            log.error("a child does not end", extra={"child": known.pid})
        self._runs.pop(run, None)

    def _send(self, message: dict[str, Any], descriptor: socket.socket | None = None) -> None:
        if self._control is None:
            raise Unavailable("fetcher", "the engine is being started again")
        try:
            fds = [] if descriptor is None else [descriptor.fileno()]
            socket.send_fds(self._control, [json.dumps(message).encode()], fds)
        except OSError as error:
            raise Unavailable("fetcher", "the engine is being started again") from error

    async def _keep_parent(self) -> None:
        while True:
            try:
                await self._parent()
            except OSError:
                log.exception("the engine's parent could not be started")
            self._fall()
            log.warning("the engine's parent ended; starting another")
            await asyncio.sleep(_RESTART_SECONDS)

    async def _parent(self) -> None:
        """One parent from start to end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs:
                descriptors = [theirs.fileno(), *self._namespace]
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "reelhaul_fetcher.ytdlp.process.zygote",
                    *map(str, descriptors),
                    pass_fds=descriptors,
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    start_new_session=True,
                )
            self._control, self._pid = ours, process.pid
            try:
                await self._listen(ours)
            finally:
                self._control, self._pid = None, 0
                with suppress(ProcessLookupError):
                    process.kill()
                self._fall()
                await process.wait()

    async def _listen(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while message := await loop.sock_recv(control, 4096):
            told = json.loads(message)
            if "warm" in told:
                self._version = told["warm"]
                self._warm.set()
                log.info("engine is warm", extra={"engine": self._version})
            elif "started" in told and (run := self._runs.get(told["started"])):
                run.pid = told["pid"]
            elif "ended" in told and (run := self._runs.get(told["ended"])):
                run.status = told["status"]
                run.gone.set()

    def _fall(self) -> None:
        """The parent is gone: so must be its children."""
        self._warm.clear()
        for run in self._runs.values():
            if run.pid and not run.gone.is_set():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(run.pid, signal.SIGKILL)
            run.gone.set()


@asynccontextmanager
async def _ending(writer: asyncio.StreamWriter, listener: Listener | None) -> AsyncIterator[None]:
    """Within the block the child is told when *listener* has enough of its recording."""

    async def tell(told: Listener) -> None:
        await told.stop_recording.wait()
        writer.write(protocol.framed({"enough": told.stop_reason}))

    task = asyncio.create_task(tell(listener)) if listener is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def _lies_in(folder: Path, product: Product) -> bool:
    path = product.path
    return path.parent == folder and path.is_file() and not path.is_symlink()


def _pass_on(frame: protocol.Frame, listener: Listener, run: _Run) -> None:
    if frame["type"] == "progress":
        listener.on_progress(protocol.unpacked(Progress, frame["progress"]))
    elif frame["type"] == "ready" and run.folder is not None:
        product, folder, run.folder = protocol.product_of(frame), run.folder, None
        if _lies_in(folder, product):
            listener.on_media_file(product)
    elif frame["type"] == "recording":
        listener.on_recording()
    elif frame["type"] == "media":
        listener.on_media(protocol.unpacked(MediaInfo, frame["media"]))


def _cause(status: int | None) -> str:
    if status is None:
        return "the engine died under the fetch"
    return f"the fetch was killed by signal {-status}" if status < 0 else f"the fetch ended with {status}"


def _lost(worker: str, text: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.WORKER_LOST, text, metadata={"worker": worker})
