"""Settings of traces."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

# The names of gRPC metadata; values are printable ASCII without commas.
_HEADER = re.compile(r"[a-z0-9_.-]{1,64}=[\x21-\x2b\x2d-\x7e][\x20-\x2b\x2d-\x7e]{0,4095}")
_MAX_HEADERS = 16


class TracingSettings(BaseSettings):
    """Where spans go, and of which traces."""

    #: The OTLP receiver (gRPC) that traces are exported to, ``http://host:4317`` or ``https://…``. Empty:
    #: tracing is off.
    otlp_endpoint: str = ""
    #: Headers of the export, for example the key of a service: ``name=value``, comma separated.
    otlp_headers: str = Field(default="", repr=False)
    #: The share of the traces that begin here which is recorded, 0 to 1. A request that belongs to a trace
    #: already is recorded if its trace is.
    trace_sample_ratio: float = Field(default=0.05, ge=0, le=1)
    #: Whether the gateway accepts the header X-Amzn-Trace-Id of AWS X-Ray beside traceparent, and webhooks
    #: get it.
    trace_xray: bool = False

    @field_validator("otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if not value:
            return value
        text = (
            "must be http://host:port or https://host:port, without a path, for example http://127.0.0.1:4317"
        )
        try:
            url = urlsplit(value)
            valid = url.scheme in ("http", "https") and url.hostname and url.port is not None
        except ValueError:
            raise ValueError(text) from None
        if not valid or url.path.strip("/") or url.query or url.fragment or "@" in url.netloc:
            raise ValueError(text)
        return value

    @field_validator("otlp_headers")
    @classmethod
    def _check_headers(cls, value: str) -> str:
        headers = [header.strip() for header in value.split(",")] if value else []
        if len(headers) > _MAX_HEADERS or not all(_HEADER.fullmatch(header) for header in headers):
            raise ValueError("must be name=value, comma separated, with lower-case names")
        return value

    @property
    def otlp_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers of the export."""
        pairs = (header.strip().partition("=") for header in self.otlp_headers.split(",") if header.strip())
        return tuple((name, value) for name, _, value in pairs)
