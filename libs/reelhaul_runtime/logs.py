"""Logs: one JSON object per line, with the request and the trace that it belongs to."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import orjson

from reelhaul.backoff import Backoff
from reelhaul_runtime.redaction import redact_urls

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

#: The id of the request being served: the caller's ``x-request-id``, or a new one.
request_id: ContextVar[str] = ContextVar("request_id", default="")
#: W3C trace context (https://www.w3.org/TR/trace-context/) of the request, or empty.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")
#: The tenant of the request's caller, once it is authenticated.
tenant: ContextVar[str] = ContextVar("tenant", default="")
#: The IP address of the client that sent the request, as far as the gateway and our services report it.
client: ContextVar[str] = ContextVar("client", default="")
#: The job that the request or the attempt is about, ``jobs/{id}``, once it is known.
job: ContextVar[str] = ContextVar("job", default="")

# Fields of a log line, in this order, unless the line sets them itself.
_CONTEXT = {"request_id": request_id, "job": job, "tenant": tenant, "client": client}

# Attributes that logging itself sets on a record; all others came by `extra`.
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# They log every request at INFO, which our own log does once; those of boto3 log signatures at DEBUG.
_VERBOSE_LOGGERS = (
    "alembic",
    "boto3",
    "botocore",
    "httpcore",
    "httpx",
    "nats",
    "s3transfer",
    "urllib3",
    "uvicorn.access",
)

# Anything else could inflate the log or break its lines.
_REQUEST_ID = re.compile(r"[\w.:/+=@~-]{1,128}", re.ASCII)
# Version, trace id, parent id, flags; version ff and ids of zeros are invalid.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


#: The end of the names of loggers whose records are written in batches: one for each request is many.
ACCESS_LOGGER_SUFFIX = ".access"
# Seconds that records wait for others, and the characters of them that do not wait.
_BATCH_SECONDS = 0.05
_MAX_BATCH_CHARACTERS = 64 << 10

# As json.dumps writes them: what only orjson knows becomes text.
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
    service: str, style: Literal["json", "text"], level: str, *, stream: SupportsWrite[str] | None = None
) -> None:
    """Send all logs of this process, as *service*, to *stream* (default: standard error) in *style*."""
    handler = _BatchHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(service) if style == "json" else _TextFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


class _BatchHandler(logging.StreamHandler["SupportsWrite[str]"]):
    """Writes records at once, except those of access logs: a batch of them, at most 50 ms late.

    Records stay in order. The batch is also written at the end of the process, but lost if it is killed.
    """

    def __init__(self, stream: SupportsWrite[str]) -> None:
        super().__init__(stream)
        self._batch: list[str] = []
        self._batch_characters = 0
        self._batch_start = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        is_access = record.name.endswith(ACCESS_LOGGER_SUFFIX)
        if not is_access or not (self._batch or self._start_batch(record.created)):
            self.flush()
            super().emit(record)
            return
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._batch.append(line)
        self._batch_characters += len(line)
        # The timer does not fire if its event loop has stopped.
        is_late = record.created - self._batch_start >= _BATCH_SECONDS
        if is_late or self._batch_characters >= _MAX_BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        with self.lock or nullcontext():
            batch, self._batch, self._batch_characters = self._batch, [], 0
            if batch:
                self.stream.write("\n".join(batch) + self.terminator)
        super().flush()

    def _start_batch(self, now: float) -> bool:
        """Write the records from *now* on after a while; return False if no event loop runs here."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        loop.call_later(_BATCH_SECONDS, self.flush)
        self._batch_start = now
        return True


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "pid": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, variable in _CONTEXT.items():
            if value := variable.get():
                fields[name] = value
        if trace := traceparent.get():
            fields["trace_id"] = trace.split("-")[1] if trace.count("-") == 3 else trace
        fields |= _extra(record)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        for key, field in fields.items():
            if type(field) is not int and type(field) is not float:
                fields[key] = _redact(field)
        try:
            return orjson.dumps(fields, default=_to_text, option=_JSON_OPTIONS).decode()
        except TypeError:
            # Names of files that are no UTF-8, integers of more than 64 bits, keys that are no strings.
            return json.dumps(fields, default=_to_text)


class _TextFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s {service:<8} %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={value}" for key, value in (_request_fields() | _extra(record)).items())
        text = super().format(record)
        return redact_urls(f"{text} {extra}" if extra else text)


def _to_text(value: object) -> str:
    return redact_urls(str(value))


def _redact(value: object) -> object:
    """Return *value*, a field of a record, without the secrets of URLs in it."""
    match value:
        case str():
            return redact_urls(value)
        case dict():
            return {key: _redact(each) for key, each in value.items()}
        case list() | tuple():
            return [_redact(each) for each in value]
    return value


def _request_fields() -> dict[str, object]:
    return {name: value for name, variable in _CONTEXT.items() if (value := variable.get())}


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD_ATTRIBUTES}
