"""Logs: one JSON object per line, with the request and the trace that it belongs to."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import orjson

from reelhaul.backoff import Backoff
from reelhaul_runtime.pipe_stream import standard_error
from reelhaul_runtime.redaction import redact_urls

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

#: The id of the request being served: the caller's ``x-request-id``, or a new one.
request_id: ContextVar[str] = ContextVar("request_id", default="")
#: W3C trace context (https://www.w3.org/TR/trace-context/) of the current span, which calls of other services
#: pass on; without tracing, of the request as it came. Valid (see `is_traceparent`), or empty.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
#: The tenant of the request's caller, once it is authenticated.
tenant: ContextVar[str] = ContextVar("tenant", default="")
#: The IP address of the client that sent the request, as far as the gateway and our services report it.
client: ContextVar[str] = ContextVar("client", default="")
#: The job that the request or the attempt is about, ``jobs/{id}``, once it is known.
job: ContextVar[str] = ContextVar("job", default="")
#: The number of the attempt that the request or the worker is about, from 1; 0 if it is about none.
attempt: ContextVar[int] = ContextVar("attempt", default=0)

# Fields of a log line, in this order, unless the line sets them itself.
_CONTEXT: dict[str, ContextVar[str] | ContextVar[int]] = {
    "request_id": request_id,
    "job": job,
    "attempt": attempt,
    "tenant": tenant,
    "client": client,
}

# Fields that every line has.
_FIXED = frozenset({"time", "level", "service", "pid", "logger", "message"})

# Attributes that logging itself sets on a record; all others came by `extra`.
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Libraries log every request or statement, those of boto3 and of HTTP with signatures and headers.
_LIBRARIES = (
    "aiohttp",
    "aiosqlite",
    "alembic",
    "asyncio",
    "boto3",
    "botocore",
    "grpc",
    "hpack",
    "httpcore",
    "httpx",
    "nats",
    "opentelemetry",
    "psycopg",
    "redis",
    "s3transfer",
    "sqlalchemy",
    "urllib3",
    "uvicorn",
    "websockets",
)
# Logs requests and responses of RPCs, which are data of users: only if that is enabled.
_BODIES = "reelhaul_runtime.rpc.bodies"

# CloudWatch rejects events of more than 256 KiB, Loki lines of more than 256 KB. Characters of a field, of
# the stack of an exception (its end), and bytes of a line.
_MAX_FIELD, _MAX_STACK, _MAX_LINE = 8 << 10, 32 << 10, 200 << 10
_MAX_ITEMS, _MAX_DEPTH = 100, 4
_CUT = "…"
# Of text: control characters could forge lines and change the terminal, those of direction what a line shows.
_ESCAPES = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]}
_ESCAPES |= {code: f"\\u{code:04x}" for code in [*range(0x2028, 0x202F), *range(0x2066, 0x206A)]}

# Anything else could inflate the log or break its lines.
_REQUEST_ID = re.compile(r"[\w.:/+=@~-]{1,128}", re.ASCII)
# Version, trace id, parent id, flags; version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

_ACCESS_LOGGER_SUFFIX = ".access"
# Seconds that lines of an access log wait for others, and the characters of them that do not wait.
_BATCH_SECONDS = 0.05
_MAX_BATCH_CHARACTERS = 64 << 10

# As json.dumps writes them: types that only orjson supports become text.
_JSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME

# An outage is logged at once, again after so many seconds, and then at intervals that double.
_FIRST_INTERVAL_SECONDS, _LONGEST_INTERVAL_SECONDS = 10.0, 600.0
# Processes start in any order: what is missing for so long is no reason to warn.
_START_SECONDS = 10.0


def begin_request(request_id_header: str, traceparent_header: str, client_address: str = "") -> str:
    """Set id, trace and client of the request; return the id.

    An invalid id is replaced, an invalid trace dropped.
    """
    tenant.set("")
    job.set("")
    attempt.set(0)
    client.set(client_address)
    valid_id = request_id_header and _REQUEST_ID.fullmatch(request_id_header)
    new_id = request_id_header if valid_id else new_request_id()
    request_id.set(new_id)
    valid_trace = traceparent_header and is_traceparent(traceparent_header)
    traceparent.set(traceparent_header if valid_trace else "")
    return new_id


def is_traceparent(value: str) -> bool:
    """Return whether *value* is a W3C traceparent: https://www.w3.org/TR/trace-context/#traceparent-header."""
    return _TRACEPARENT.fullmatch(value) is not None


def new_request_id() -> str:
    """Return a request id of 16 random hex digits."""
    return secrets.token_hex(8)


class Outage:
    """How to log that something is unavailable, which is noticed again at every attempt to use it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._started = now()
        self._was_available = False
        self._backoff = Backoff(_FIRST_INTERVAL_SECONDS, _LONGEST_INTERVAL_SECONDS)
        self._next = 0.0
        #: Whether it was logged, and has not ended.
        self.logged = False

    def level(self) -> int | None:
        """Return the level to log the outage with now; None if it was logged lately.

        What was never available is missing at INFO at first: at a start it may come later than we.
        """
        now = self._now()
        if self.logged and now < self._next:
            return None
        self.logged, self._next = True, now + self._backoff.next_delay()
        starting = not self._was_available and now - self._started < _START_SECONDS
        return logging.INFO if starting else logging.WARNING

    def end(self) -> None:
        """Note that it is available."""
        self._was_available, self.logged = True, False
        self._backoff.reset()


def configure(
    service: str,
    style: Literal["json", "text"],
    level: str,
    *,
    bodies: bool = False,
    stream: SupportsWrite[str] | None = None,
) -> None:
    """Send all logs of this process, as *service*, to *stream* (default: standard error) in *style*.

    Libraries log from WARNING on. *bodies*: whether requests and responses of RPCs are logged.
    """
    formatter = _JsonFormatter(service) if style == "json" else _TextFormatter(service)

    def describe_loss(lines: int) -> str:
        text = f"{lines} lines were dropped: the output was not read"
        return formatter.format(logging.LogRecord(__name__, logging.WARNING, "", 0, text, None, None))

    handler = _BatchHandler(stream or standard_error(describe_loss))
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _LIBRARIES:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger(_BODIES).setLevel(logging.DEBUG if bodies else logging.INFO)


def to_json(service: str, level: int, logger: str, message: str, **fields: object) -> str:
    """Return the line of a log in JSON: for processes that have not configured theirs."""
    return _JsonFormatter(service).to_json(time.time(), level, logger, message, fields)


class _BatchHandler(logging.StreamHandler["SupportsWrite[str]"]):
    """Writes records at once, and the lines of access logs in batches, at most 50 ms late.

    Lines stay in order. The batch is also written at the end of the process, but lost if it is killed.
    """

    def __init__(self, stream: SupportsWrite[str]) -> None:
        super().__init__(stream)
        self._batch: list[str] = []
        self._batch_characters = 0
        self._batch_start = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.flush()
        super().emit(record)

    def write_later(self, line: str, now: float) -> None:
        """Write *line* soon; at once if no event loop runs. *now* is in seconds since 1970."""
        with self.lock or nullcontext():
            if not self._batch:
                self._batch_start = now if self._set_timer() else 0.0
            self._batch.append(line)
            self._batch_characters += len(line)
            # The timer does not fire if its event loop has stopped.
            is_late = now - self._batch_start >= _BATCH_SECONDS
            if is_late or self._batch_characters >= _MAX_BATCH_CHARACTERS:
                self.flush()

    def flush(self) -> None:
        with self.lock or nullcontext():
            batch, self._batch, self._batch_characters = self._batch, [], 0
            # A full disk or a reader that has ended must not fail what is logged. ValueError: it is closed.
            with suppress(OSError, ValueError):
                if batch:
                    self.stream.write("\n".join(batch) + self.terminator)
                super().flush()

    def _set_timer(self) -> bool:
        try:
            asyncio.get_running_loop().call_later(_BATCH_SECONDS, self.flush)
        except RuntimeError:
            return False
        return True


class AccessLog:
    """Logs a line for each request, as the logger of *name* and ``.access`` does, at a third of the cost.

    Where JSON is all that becomes of a record, the line is written without one.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name + _ACCESS_LOGGER_SUFFIX)

    def log(self, level: int, message: str, fields: dict[str, object]) -> None:
        """Log *message* with *fields*, whose values are text or numbers."""
        if not self._logger.isEnabledFor(level):
            return
        handlers = logging.getLogger().handlers
        handler = handlers[0] if len(handlers) == 1 else None
        formatter = handler.formatter if isinstance(handler, _BatchHandler) else None
        if isinstance(handler, _BatchHandler) and isinstance(formatter, _JsonFormatter):
            now = time.time()
            handler.write_later(formatter.to_json(now, level, self._logger.name, message, fields), now)
        else:
            self._logger.log(level, message, extra=fields)


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields = _extra(record)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = {
                "type": record.exc_info[0].__name__,
                "stack": _cut_stack(self.formatException(record.exc_info)),
            }
        return self.to_json(record.created, record.levelno, record.name, record.getMessage(), fields)

    def to_json(self, created: float, level: int, logger: str, message: str, extra: dict[str, object]) -> str:
        """Return the line of a record that was *created* at a time in seconds since 1970."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds"),
            "level": logging.getLevelName(level),
            "service": self._service,
            "pid": os.getpid(),
            "logger": logger,
            "message": message,
        }
        for name, variable in _CONTEXT.items():
            if value := variable.get():
                fields[name] = value
        if trace := traceparent.get():
            fields["trace_id"], fields["span_id"] = trace[3:35], trace[36:52]
        if _FIXED.isdisjoint(extra):
            fields |= extra
        else:
            # They are the same in every line.
            fields |= {f"{key}_" if key in _FIXED else key: field for key, field in extra.items()}
        for key, field in fields.items():
            if type(field) is str:
                if "//" in field or "?" in field or len(field) > _MAX_FIELD:
                    fields[key] = _bound(redact_urls(field))
            elif type(field) is not int and type(field) is not float:
                fields[key] = _redact(field, _MAX_STACK if key == "exception" else _MAX_FIELD)
        line = _dump(fields)
        if len(line) > _MAX_LINE or (not line.isascii() and len(line.encode()) > _MAX_LINE):
            fixed = {key: field for key, field in fields.items() if key in _FIXED or key in _CONTEXT}
            line = _dump(fixed | {"omitted": sorted(fields.keys() - fixed.keys())[:_MAX_ITEMS]})
        return line


def _dump(fields: dict[str, object]) -> str:
    try:
        return orjson.dumps(fields, default=_to_text, option=_JSON_OPTIONS).decode()
    except TypeError:
        # Names of files that are no UTF-8, integers of more than 64 bits, keys that are no strings.
        return json.dumps(_to_json_value(fields), default=_to_text)


def _to_json_value(value: object) -> object:
    """Return *value*, of a record, with what JSON has no form for as orjson writes it, or as text."""
    match value:
        case dict():
            return {str(key): _to_json_value(each) for key, each in value.items()}
        case list() | tuple():
            return [_to_json_value(each) for each in value]
        case float() if not math.isfinite(value):
            return None
    return value


def escape_control_characters(text: str) -> str:
    """Return *text*, which may be a site's or a caller's, as one line that changes no terminal."""
    return text.translate(_ESCAPES)


class _TextFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s {service:<8} %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = (_request_fields() | _extra(record)).items()
        text = "".join([super().formatMessage(record), *(f" {key}={value}" for key, value in fields)])
        return escape_control_characters(redact_urls(text))

    def formatException(self, ei: Any) -> str:
        rows = redact_urls(super().formatException(ei)).splitlines()
        return "\n".join(f"  {escape_control_characters(row)}" for row in rows)


def _to_text(value: object) -> str:
    return _bound(redact_urls(str(value)))


def _bound(text: str, limit: int = _MAX_FIELD) -> str:
    return text if len(text) <= limit else text[:limit] + _CUT


def _cut_stack(text: str) -> str:
    return text if len(text) <= _MAX_STACK else _CUT + text[1 - _MAX_STACK :]


def _redact(value: object, limit: int, depth: int = 0) -> object:
    """Return *value*, a field of a record, without the secrets of URLs in it, and within bounds."""
    if depth > _MAX_DEPTH:
        return _CUT
    match value:
        case str():
            return _bound(redact_urls(value), limit)
        case dict():
            items = islice(value.items(), _MAX_ITEMS)
            return {key: _redact(each, limit, depth + 1) for key, each in items}
        case list() | tuple():
            return [_redact(each, limit, depth + 1) for each in value[:_MAX_ITEMS]]
    return value


def _request_fields() -> dict[str, object]:
    return {name: value for name, variable in _CONTEXT.items() if (value := variable.get())}


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES}
