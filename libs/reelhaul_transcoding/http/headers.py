"""Headers: HTTP request headers to gRPC metadata, and metadata to response headers."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence

from reelhaul_transcoding.errors import FieldError

#: gRPC metadata; the values of keys that end in ``-bin`` are bytes.
Metadata = Sequence[tuple[str, str | bytes]]
RawHeaders = Iterable[tuple[bytes, bytes]]

_PREFIX = "grpc-metadata-"
_TRAILER_PREFIX = "grpc-trailer-"
_KEY = re.compile(r"[0-9a-z_.\-]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# The selection that grpc-gateway makes from https://www.iana.org/assignments/message-headers.
# fmt: off
_PERMANENT = frozenset({
    "accept", "accept-charset", "accept-language", "accept-ranges", "authorization",
    "cache-control", "content-type", "cookie", "date", "expect", "from", "host", "if-match",
    "if-modified-since", "if-none-match", "if-schedule-tag-match", "if-unmodified-since",
    "max-forwards", "origin", "pragma", "referer", "user-agent", "via", "warning",
})
# fmt: on
# Set by gRPC and HTTP/2 themselves; callers must not set them.
_RESERVED = frozenset({"content-type", "te", "host", "content-length", "connection", "user-agent"})

#: Response metadata with which an upstream selects a 2xx or 3xx status other than 200.
HTTP_CODE_KEY = "x-http-code"


class HeaderPolicy:
    """Selects what passes between HTTP headers and gRPC metadata.

    Requests: ``Grpc-Metadata-X`` becomes ``x``, base64-decoded if X ends in ``-Bin``; headers
    in *allowed* keep their names; with *permanent_prefix* the well-known headers are passed
    with that prefix. Keys that start with one of *denied* are always dropped.
    Responses: metadata in *plain* keep their names; all others get ``Grpc-Metadata-``.
    """

    def __init__(
        self,
        *,
        allowed: Iterable[str] = ("authorization",),
        denied: Iterable[str] = (),
        permanent_prefix: str = "",
        plain: Iterable[str] = ("location", "etag", "retry-after", "set-cookie"),
    ) -> None:
        self._allowed = frozenset(name.lower() for name in allowed)
        self._denied = ("grpc-", ":", *denied)
        self._permanent_prefix = permanent_prefix
        self._plain = frozenset(plain)

    def to_metadata(self, headers: RawHeaders) -> list[tuple[str, str | bytes]]:
        """Return the metadata for the *headers* of a request.

        Names and values that gRPC cannot carry are dropped. Raises FieldError if a ``-Bin``
        value is not base64.
        """
        metadata: list[tuple[str, str | bytes]] = []
        for raw_name, raw_value in headers:
            name = raw_name.decode("latin-1").lower()
            if name in self._allowed:
                _append(metadata, name, raw_value)
            elif name.startswith(_PREFIX):
                key = name.removeprefix(_PREFIX)
                # The prefix may add metadata, but not override headers that have a meaning.
                if key not in self._allowed and key not in _RESERVED and not key.startswith(self._denied):
                    _append(metadata, key, raw_value)
            elif self._permanent_prefix and name in _PERMANENT:
                _append(metadata, self._permanent_prefix + name, raw_value)
        return metadata

    def to_headers(self, metadata: Metadata, *, trailing: bool = False) -> list[tuple[bytes, bytes]]:
        """Return the headers for the *metadata* of a response; *trailing* ones get ``Grpc-Trailer-``."""
        headers: list[tuple[bytes, bytes]] = []
        for key, value in metadata:
            if key.startswith(self._denied) or key in _RESERVED or key == HTTP_CODE_KEY:
                continue
            name = _TRAILER_PREFIX + key if trailing else key if key in self._plain else _PREFIX + key
            text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
            if _PRINTABLE.fullmatch(text):
                headers.append((name.encode(), text.encode()))
        return headers


def combine_headers(headers: RawHeaders) -> dict[bytes, bytes]:
    """Return *headers* by name; the values of a repeated one are joined by commas (RFC 9110 section 5.3)."""
    headers = list(headers)
    combined = dict(headers)
    if len(combined) < len(headers):
        values: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            values.setdefault(name, []).append(value)
        combined = {name: b", ".join(parts) for name, parts in values.items()}
    return combined


def accepts_trailers(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether the client asks for trailing metadata (``TE: trailers``, RFC 9110 section 10.1.4)."""
    return b"te" in headers and b"trailers" in headers[b"te"].lower()


def http_status_from_metadata(metadata: Metadata) -> int:
    """Return the HTTP status of a success: 200, or the one that the upstream selected."""
    for key, value in metadata:
        if key == HTTP_CODE_KEY and isinstance(value, str) and re.fullmatch(r"[23]\d\d", value):
            return int(value)
    return 200


def parse_grpc_timeout(header: str) -> float:
    """Return the seconds of a ``Grpc-Timeout``. Raises FieldError.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: at most eight digits, and a unit in
    exactly this case: ``M`` is a minute and ``m`` a millisecond.
    """
    match = _TIMEOUT.fullmatch(header)
    if match is None:
        raise FieldError(
            "grpc-timeout", "must be one to eight digits and a unit (H M S m u n; m: milliseconds)"
        )
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _append(metadata: list[tuple[str, str | bytes]], key: str, raw_value: bytes) -> None:
    if _KEY.fullmatch(key) is None:
        return
    if key.endswith("-bin"):
        # gRPC joins several binary values by commas, which base64 does not contain.
        metadata.extend((key, _decode_base64(key, value)) for value in raw_value.split(b","))
    elif _PRINTABLE.fullmatch(value := raw_value.decode("latin-1").strip()):
        metadata.append((key, value))


def _decode_base64(key: str, raw_value: bytes) -> bytes:
    value = raw_value.strip().rstrip(b"=")
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FieldError(key, "must be base64") from error
