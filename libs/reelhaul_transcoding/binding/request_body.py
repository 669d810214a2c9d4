"""Bodies: what a request's body means for its message: all of it, one field, or raw bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.setters import Fill
from reelhaul_transcoding.codec.strict_json import value_of
from reelhaul_transcoding.errors import FieldFault, Unsupported
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.router import RouteError
from reelhaul_transcoding.routing.rules import Rule

_HTTP_BODY = "google.api.HttpBody"
_JSON_TYPE = re.compile(
    rb'application/(?:json|[^;\s]+\+json|x-ndjson)\s*(?:;\s*charset="?utf-?8"?\s*)?', re.IGNORECASE
)
# Messages of one client stream.
_MAX_MESSAGES = 10_000


class BodyReader:
    """Reads bodies for one rule."""

    def __init__(self, rule: Rule, options: Options, decoder: Decoder) -> None:
        self._rule, self._options = rule, options
        self._field = self._bound_field()
        kind = rule.method.input_type if rule.body == "*" else self._field and self._field.message_type
        self._raw = kind is not None and kind.full_name == _HTTP_BODY
        self._fill: Fill | None = None
        if self._field is not None:
            self._fill = decoder.field(self._field)
        elif rule.body:
            self._fill = decoder.of(rule.method.input_type)

    @property
    def field_name(self) -> str:
        """The field that the body is; empty where it is all or nothing."""
        return str(self._field.name) if self._field is not None else ""

    def values(self, headers: Mapping[bytes, bytes], body: bytes) -> list[tuple[Any, bool]]:
        """What *body* holds, one for each message, and whether it holds it. Raises Fault.

        A client's stream is an array, or one value after the other.
        """
        if not self._rule.body:
            if body and not self._options.ignore_unbound_body:
                raise FieldFault("", f"{self._rule.name} takes no body here")
            return [(None, False)]
        if self._raw:
            return [(body, True)]
        if not body:
            return [] if self._rule.method.client_streaming else [(None, False)]
        given = headers.get(b"content-type")
        if given is not None and _JSON_TYPE.fullmatch(given.strip()) is None:
            raise Unsupported(
                f"content-type {given.decode('latin-1')[:100]!r} is not taken here; send application/json"
            )
        if self._rule.method.client_streaming:
            return [(value, True) for value in _stream_of(body)]
        return [(value_of(body), True)]

    def fill(self, request: Any, value: Any, headers: Mapping[bytes, bytes]) -> None:
        """Put a *value* of ``values`` into *request*. Raises FieldFault."""
        if self._raw:
            target = getattr(request, self._field.name) if self._field is not None else request
            target.data = value
            target.content_type = headers.get(b"content-type", b"").decode("latin-1")
        elif self._fill is not None:
            self._fill(request, value, self.field_name)

    def _bound_field(self) -> FieldDescriptor | None:
        if self._rule.body in ("", "*"):
            return None
        field: FieldDescriptor | None = self._rule.method.input_type.fields_by_name.get(self._rule.body)
        if field is None:
            raise RouteError(f"{self._rule.name}: body {self._rule.body!r} is no field of its request")
        return field


def _stream_of(body: bytes) -> list[Any]:
    """The values of a client's stream, by its first byte."""
    if body.lstrip()[:1] == b"[":
        values: list[Any] = value_of(body)
    else:
        values = [value_of(line) for line in _documents(body)]
    if len(values) > _MAX_MESSAGES:
        raise FieldFault("", f"a stream of more than {_MAX_MESSAGES} messages")
    return values


def _documents(body: bytes) -> list[bytes]:
    """*body* cut into its JSON values, which stand one after the other."""
    found: list[bytes] = []
    try:
        text = body.decode()
        at = _after_space(text, 0)
        while at < len(text) and len(found) <= _MAX_MESSAGES:
            _, end = _CUTTER.raw_decode(text, at)
            found.append(text[at:end].encode())
            at = _after_space(text, end)
    except ValueError as error:
        raise FieldFault("", "the body is no stream of JSON values") from error
    return found


def _after_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


_CUTTER = json.JSONDecoder()
_SPACE = re.compile(r"\s*")
