"""Headers: which of a request become metadata, and which metadata become headers of the answer."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Sequence

from reelhaul_transcoding.errors import FieldFault

#: gRPC metadata: values of keys that end in ``-bin`` are bytes.
Metadata = Sequence[tuple[str, str | bytes]]
RawHeaders = Iterable[tuple[bytes, bytes]]

_PREFIX = "grpc-metadata-"
_KEY = re.compile(r"[0-9a-z_.\-]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

# https://www.iana.org/assignments/message-headers, as grpc-gateway picked from it.
# fmt: off
_PERMANENT = frozenset({
    "accept", "accept-charset", "accept-language", "accept-ranges", "authorization",
    "cache-control", "content-type", "cookie", "date", "expect", "from", "host", "if-match",
    "if-modified-since", "if-none-match", "if-schedule-tag-match", "if-unmodified-since",
    "max-forwards", "origin", "pragma", "referer", "user-agent", "via", "warning",
})
# fmt: on
# Of gRPC and of HTTP/2 themselves: never a caller's to set.
_RESERVED = frozenset({"content-type", "te", "host", "content-length", "connection", "user-agent"})


class HeaderPolicy:
    """What passes between HTTP headers and gRPC metadata.

    ``Grpc-Metadata-X`` passes as ``x``, base64 decoded where X ends in ``-Bin``; headers
    of *allowed* pass under their own names; with *permanent_prefix* the well-known ones
    pass under it. Keys that begin with one of *denied* never pass, by no way. Answers:
    metadata of *plain* keep their names, the others get ``Grpc-Metadata-``.
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

    def metadata(self, headers: RawHeaders) -> list[tuple[str, str | bytes]]:
        """The metadata that a request's *headers* stand for.

        Names and values that gRPC cannot carry are left out; FieldFault where a ``-Bin``
        value is no base64.
        """
        taken: list[tuple[str, str | bytes]] = []
        for raw_name, raw_value in headers:
            name = raw_name.decode("latin-1").lower()
            if name in self._allowed:
                self._take(taken, name, raw_value)
            elif name.startswith(_PREFIX):
                key = name.removeprefix(_PREFIX)
                # By prefix one may add, not speak for a header that has a meaning.
                if key not in self._allowed and key not in _RESERVED and not key.startswith(self._denied):
                    self._take(taken, key, raw_value)
            elif self._permanent_prefix and name in _PERMANENT:
                self._take(taken, self._permanent_prefix + name, raw_value)
        return taken

    def headers(self, metadata: Metadata) -> list[tuple[bytes, bytes]]:
        """The headers that an answer's *metadata* stands for."""
        told: list[tuple[bytes, bytes]] = []
        for key, value in metadata:
            if key.startswith(self._denied) or key in _RESERVED or key == HTTP_CODE_KEY:
                continue
            name = key if key in self._plain else _PREFIX + key
            text = base64.b64encode(value).decode() if isinstance(value, bytes) else value
            if _PRINTABLE.fullmatch(text):
                told.append((name.encode(), text.encode()))
        return told

    @staticmethod
    def _take(taken: list[tuple[str, str | bytes]], key: str, raw: bytes) -> None:
        if _KEY.fullmatch(key) is None:
            return
        if key.endswith("-bin"):
            taken.append((key, _binary(key, raw)))
        elif _PRINTABLE.fullmatch(text := raw.decode("latin-1").strip()):
            taken.append((key, text))


#: Metadata by which an upstream asks for another 2xx or 3xx status than 200.
HTTP_CODE_KEY = "x-http-code"


def http_code(metadata: Metadata) -> int:
    """The HTTP status of a success: 200, or what the upstream asked for."""
    for key, value in metadata:
        if key == HTTP_CODE_KEY and isinstance(value, str) and re.fullmatch(r"[23]\d\d", value):
            return int(value)
    return 200


def timeout_of(header: str) -> float:
    """Seconds of a ``Grpc-Timeout``. Raises FieldFault.

    https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md: at most eight digits.
    """
    found = _TIMEOUT.fullmatch(header)
    if found is None:
        raise FieldFault("grpc-timeout", "must be up to eight digits and one of H M S m u n")
    return int(found[1]) * _UNITS[found[2]]


def _binary(key: str, raw: bytes) -> bytes:
    text = raw.strip().rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FieldFault(key, "must be base64") from error
