"""Engine, as the fetcher sees it: keeps a zygote running and carries out each request in a child of it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from reelhaul.backoff import Backoff
from reelhaul.fetcher.v1.extractor_pb2 import Extractor
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import Format, MediaInfo, PlaylistEntry
from reelhaul.work.v1.engine_pb2 import (
    EngineCommand,
    EngineEvent,
    EngineLogLine,
    EngineResult,
    EngineTranslation,
    EngineTranslationRequest,
)
from reelhaul_fetcher import metrics
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
from reelhaul_runtime.child_process import logged_stderr, module_command
from reelhaul_runtime.errors import ReelhaulError, Unavailable, from_status, to_status

log = logging.getLogger(__name__)
# Messages of yt-dlp, in the context of the request or attempt that it works for.
child_log = logging.getLogger("reelhaul_fetcher.ytdlp")

OnEntries = Callable[[Sequence[PlaylistEntry]], None]

_WARM_SECONDS = 60.0
_CHECK_SECONDS = 4.0
# A zygote that ran this long resets the restart back-off.
_STABLE_SECONDS = 10.0
_FIRST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS = 0.5, 10.0
_STOP_SECONDS = 5
# Lines of one child that are logged, and characters of each: a site may control the child.
_MAX_LOG_LINES, _MAX_LOG_TEXT = 1000, 2000
_LOG_LEVELS = frozenset({logging.DEBUG, logging.INFO})


@dataclass(slots=True)
class _Child:
    """A child process, whose process id is also its process group."""

    #: Where its products must be. None: it makes none, or its media file was announced already.
    folder: Path | None = None
    #: 0 until the zygote has forked it.
    pid: int = 0
    #: Exit code; None if the zygote died first.
    exit_code: int | None = None
    #: How many lines of it were logged.
    log_lines: int = 0
    #: Set when no process of its group is left.
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class YtDlpEngine:
    """The engine port. Restarts the zygote when it dies."""

    def __init__(
        self,
        environment: Mapping[str, str],
        worker: str,
        options: EngineOptions | None = None,
        translator: Translator | None = None,
        namespace: EngineNamespace | None = None,
    ) -> None:
        self._namespace = [namespace.user, namespace.network] if namespace else []
        self._environment, self._worker = dict(environment), worker
        self._options, self._translator = options or EngineOptions(), translator or NoTranslator()
        self._control: socket.socket | None = None
        self._children: dict[str, _Child] = {}
        self._warm = asyncio.Event()
        self._version = ""
        self._zygote_pid = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        environment: Mapping[str, str],
        worker: str,
        options: EngineOptions | None = None,
        translator: Translator | None = None,
        namespace: EngineNamespace | None = None,
    ) -> AsyncIterator[YtDlpEngine]:
        """Run an engine for the block; it is warm a second later.

        *environment* is the complete environment of its processes. *translator* translates subtitles
        that sites do not. *namespace* is the network that it runs in, if not in the fetcher's.
        """
        engine = cls(environment, worker, options, translator, namespace)
        running = asyncio.create_task(engine._keep_zygote())
        try:
            yield engine
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    @property
    def version(self) -> str:
        """Engine and version; empty until it was warm once."""
        return self._version

    @property
    def zygote_pid(self) -> int:
        """Process id of the zygote; 0 while there is none."""
        return self._zygote_pid

    @property
    def child_pids(self) -> Sequence[int]:
        """Process ids of the children, which are also their sessions."""
        return [child.pid for child in self._children.values() if child.pid and not child.ended.is_set()]

    async def check(self) -> None:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._warm.wait()
        except TimeoutError:
            raise Unavailable("fetcher", "the engine is not ready") from None

    async def wait_until_warm(self) -> None:
        """Return when the zygote is warm."""
        await self._warm.wait()

    async def fetch(self, request: FetchRequest, listener: Listener) -> FetchResult:
        result = protocol.fetch_result_from_proto(await self._execute(request, listener))
        for product in result.products:
            # A compromised child could name any file of ours as its product.
            if not _is_file_in(request.folder, product):
                raise self._lost("a product is not a file in the work directory")
        return result

    async def expand(self, request: ExpandRequest, listener: ListListener) -> ExpandResult:
        result = await self._execute(request, listener, listener.on_entries)
        return ExpandResult(result.media, result.truncated, tuple(result.warnings))

    async def probe(self, request: ProbeRequest) -> MediaInfo:
        return (await self._execute(request, None)).media

    async def list_extractors(self) -> Sequence[Extractor]:
        return list((await self._execute(ExtractorListRequest(), None)).extractors)

    def select_formats(self, selector: str, offered: Sequence[Format]) -> list[Format]:
        # Loads yt-dlp, which this process does not need otherwise, without its plugins: here they would come
        # from the user's folders, and read our secrets.
        os.environ["YTDLP_NO_PLUGINS"] = "1"
        from reelhaul_fetcher.ytdlp import format_selector

        return format_selector.select_formats(selector, offered)

    async def _execute(
        self, request: EngineRequest, listener: Listener | None, on_entries: OnEntries | None = None
    ) -> EngineResult:
        """Carry out *request* in a child. No process of the child is left when this returns or raises."""
        try:
            async with asyncio.timeout(_WARM_SECONDS):
                await self._warm.wait()
        except TimeoutError:
            raise Unavailable("fetcher", "the engine was not ready") from None
        name = str(uuid.uuid4())
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        child = self._children[name] = _Child(request.folder if isinstance(request, FetchRequest) else None)
        try:
            with theirs:
                self._send({"start": name, "inspector": isinstance(request, FetchRequest)}, theirs)
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                _write(writer, EngineCommand(request=protocol.request_to_proto(request, self._options)))
                async with _forwarding_stop(listener, writer):
                    return await self._receive(reader, writer, child, listener, on_entries)
            finally:
                writer.close()
        finally:
            await asyncio.shield(self._stop(name, child))

    async def _receive(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        child: _Child,
        listener: Listener | None,
        on_entries: OnEntries | None,
    ) -> EngineResult:
        """Handle the events of *child* until its last. Raises its failure, or WORKER_LOST if it died."""
        while True:
            try:
                event = await self._read_event(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                await child.ended.wait()
                raise self._lost(_describe_exit(child.exit_code)) from None
            kind = event.WhichOneof("event")
            if kind in ("result", "failure") and listener is not None:
                listener.status_counts.http_statuses.update(event.http_statuses)
            if kind == "result":
                return event.result
            if kind == "failure":
                raise from_status(event.failure)
            if kind == "log_line":
                _log_line(event.log_line, child)
            elif kind == "translation_request":
                _write(writer, EngineCommand(translation=await self._translate(event.translation_request)))
            elif kind == "resumed_bytes":
                metrics.FETCH_RESUMED_BYTES.inc(max(0, event.resumed_bytes))
            elif kind == "entries" and on_entries is not None:
                on_entries(list(event.entries.entries))
            elif listener is not None:
                _notify(listener, event, child)

    async def _read_event(self, reader: asyncio.StreamReader) -> EngineEvent:
        length = protocol.HEADER.unpack(await reader.readexactly(protocol.HEADER.size))[0]
        if length > protocol.MAX_FRAME_BYTES:
            raise self._lost(f"the child sent a frame of {length} bytes")
        try:
            return EngineEvent.FromString(await reader.readexactly(length))
        except DecodeError:
            raise self._lost("the child sent a message that cannot be read") from None

    async def _translate(self, request: EngineTranslationRequest) -> EngineTranslation:
        try:
            texts = await self._translator.translate(list(request.texts), request.source, request.target)
        except ReelhaulError as error:
            return EngineTranslation(failure=to_status(error))
        return EngineTranslation(texts=texts)

    async def _stop(self, name: str, child: _Child) -> None:
        """Kill the process group of *child* and wait until it is gone."""
        try:
            if not child.ended.is_set():
                self._send({"stop": name})
        except Unavailable:
            child.ended.set()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await child.ended.wait()
        except TimeoutError:
            log.error("a child did not exit after the stop request", extra={"child_pid": child.pid})
        self._children.pop(name, None)

    def _send(self, message: dict[str, Any], descriptor: socket.socket | None = None) -> None:
        """Send *message* to the zygote. Raises Unavailable if there is none."""
        if self._control is None:
            raise Unavailable("fetcher", "the engine is restarting")
        try:
            descriptors = [] if descriptor is None else [descriptor.fileno()]
            socket.send_fds(self._control, [json.dumps(message).encode()], descriptors)
        except OSError as error:
            raise Unavailable("fetcher", "the engine is restarting") from error

    async def _keep_zygote(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = Backoff(_FIRST_RESTART_SECONDS, _LONGEST_RESTART_SECONDS)
        while True:
            started_at = loop.time()
            try:
                await self._run_zygote()
            except OSError:
                log.exception("the engine's zygote could not be started")
            self._end_children()
            log.warning("the engine's zygote ended; starting another")
            metrics.ENGINE_RESTARTS.labels("zygote").inc()
            if loop.time() - started_at > _STABLE_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.next_delay())

    async def _run_zygote(self) -> None:
        """Run one zygote from start to end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        with ours:
            with theirs, logged_stderr("zygote") as stderr:
                descriptors = [theirs.fileno(), *self._namespace]
                process = await asyncio.create_subprocess_exec(
                    *module_command("reelhaul_fetcher.ytdlp.process.zygote", *map(str, descriptors)),
                    pass_fds=descriptors,
                    env=self._environment,
                    stdin=asyncio.subprocess.DEVNULL,
                    stderr=stderr,
                    start_new_session=True,
                )
            self._control, self._zygote_pid = ours, process.pid
            try:
                await self._handle_zygote_messages(ours)
            finally:
                self._control, self._zygote_pid = None, 0
                with suppress(ProcessLookupError):
                    process.kill()
                self._end_children()
                await process.wait()

    async def _handle_zygote_messages(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while packet := await loop.sock_recv(control, 4096):
            message = json.loads(packet)
            if "warm" in message:
                self._version = message["warm"]
                self._warm.set()
                log.info("engine is warm", extra={"engine": self._version})
            elif "started" in message and (child := self._children.get(message["started"])):
                child.pid = message["pid"]
            elif "ended" in message and (child := self._children.get(message["ended"])):
                child.exit_code = message["exit_code"]
                child.ended.set()

    def _end_children(self) -> None:
        """Kill the children of a zygote that is gone."""
        self._warm.clear()
        for child in self._children.values():
            if child.pid and not child.ended.is_set():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            child.ended.set()

    def _lost(self, text: str) -> ReelhaulError:
        return ReelhaulError(ErrorReason.WORKER_LOST, text, metadata={"worker": self._worker})


@asynccontextmanager
async def _forwarding_stop(listener: Listener | None, writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """During the block, tell the child when *listener* wants its recording to stop."""

    async def forward(listener: Listener) -> None:
        await listener.stop_recording.wait()
        _write(writer, EngineCommand(stop_recording=listener.stop_reason))

    task = asyncio.create_task(forward(listener)) if listener is not None else None
    try:
        yield
    finally:
        if task is not None:
            task.cancel()


def _write(writer: asyncio.StreamWriter, command: EngineCommand) -> None:
    writer.write(protocol.encode_frame(command))


def _log_line(line: EngineLogLine, child: _Child) -> None:
    child.log_lines += 1
    if child.log_lines > _MAX_LOG_LINES or line.level not in _LOG_LEVELS:
        return
    extra: dict[str, object] = {"child_pid": child.pid}
    if line.exception_type:
        extra["exception"] = {"type": line.exception_type[:_MAX_LOG_TEXT], "stack": line.stack}
    child_log.log(line.level, "%s", line.message[:_MAX_LOG_TEXT], extra=extra)


def _notify(listener: Listener, event: EngineEvent, child: _Child) -> None:
    match event.WhichOneof("event"):
        case "progress":
            listener.on_progress(event.progress)
        case "media":
            listener.on_media(event.media)
        case "recording":
            listener.on_recording()
        case "media_file" if child.folder is not None:
            product, folder, child.folder = protocol.product_from_proto(event.media_file), child.folder, None
            if _is_file_in(folder, product):
                listener.on_media_file(product)


def _is_file_in(folder: Path, product: Product) -> bool:
    path = product.path
    return path.parent == folder and path.is_file() and not path.is_symlink()


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is None:
        return "the engine died during the download"
    if exit_code < 0:
        return f"the download was killed by signal {-exit_code}"
    return f"the download process exited with code {exit_code}"
