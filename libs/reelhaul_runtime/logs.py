"""Logs: one JSON object a line, each with the request and the trace that it belongs to."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

#: The request being served; given by the caller in ``x-request-id``, else made here.
request_id: ContextVar[str] = ContextVar("request_id", default="")
#: W3C trace context (https://www.w3.org/TR/trace-context/) of the request, or empty.
traceparent: ContextVar[str] = ContextVar("traceparent", default="")

# What logging itself puts on a record; all else came by `extra`.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


# Anything else would swell the log or break its lines.
_REQUEST_ID = re.compile(r"[\w.:/+=@~-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def begin_request(given_id: str, given_trace: str) -> None:
    """Note the request being served: its id, else a new one; its trace, where it has a sound one."""
    request_id.set(given_id if _REQUEST_ID.fullmatch(given_id) else new_request_id())
    traceparent.set(given_trace if _TRACEPARENT.fullmatch(given_trace) else "")


def new_request_id() -> str:
    """A request id of 16 random hex digits."""
    return secrets.token_hex(8)


def configure(
    service: str, style: Literal["json", "text"], level: str, *, stream: SupportsWrite[str] | None = None
) -> None:
    """Send all logs of this process to *stream* (standard error), in *style*, named as *service*'s."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Json(service) if style == "json" else _Text(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # They tell of every request at INFO; ours do that once.
    for chatty in ("alembic", "httpx", "httpcore", "uvicorn.access", "nats"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


class _Json(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "pid": os.getpid(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := request_id.get():
            said["request_id"] = request
        if trace := traceparent.get():
            said["trace_id"] = trace.split("-")[1] if trace.count("-") == 3 else trace
        said |= {key: value for key, value in vars(record).items() if key not in _OWN}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str, ensure_ascii=False)


class _Text(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s {service:<8} %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _OWN)
        text = super().format(record)
        return f"{text} {extra}" if extra else text
