"""Request bodies: the body sets the whole request, one field of it, or raw bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.codec.decoder import Decoder, Setter
from reelhaul_transcoding.codec.strict_json import parse_json, parse_json_stream
from reelhaul_transcoding.errors import FieldError, UnsupportedMediaType
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.rules import HttpRule, RouteError

HTTP_BODY = "google.api.HttpBody"
_JSON_TYPE = re.compile(
    rb'application/(?:json|[^;\s]+\+json|x-ndjson)\s*(?:;\s*charset="?utf-?8"?\s*)?', re.IGNORECASE
)
# Messages in one client stream.
_MAX_MESSAGES = 10_000


class BodyReader:
    """Reads the request bodies of one rule."""

    def __init__(self, rule: HttpRule, options: Options, decoder: Decoder) -> None:
        self._rule, self._options = rule, options
        self._field = self._body_field()
        body_type = rule.method.input_type if rule.body == "*" else self._field and self._field.message_type
        self._is_raw = body_type is not None and body_type.full_name == HTTP_BODY
        self._set: Setter | None = None
        if self._field is not None:
            self._set = decoder.compile_field(self._field)
        elif rule.body:
            self._set = decoder.compile(rule.method.input_type)

    @property
    def field_name(self) -> str:
        """The field that the body sets; empty if it sets the whole request or nothing."""
        return str(self._field.name) if self._field is not None else ""

    def parse(self, headers: Mapping[bytes, bytes], body: bytes) -> list[tuple[Any, bool]]:
        """Return one pair for each request message: the value in *body*, and whether there is one.

        A client stream is a JSON array, or JSON values that follow each other. Raises
        TranscodingError.
        """
        if not self._rule.body:
            if body and not self._options.ignore_unbound_body:
                raise FieldError("", f"{self._rule.name} takes no body at this path")
            return [(None, False)]
        if self._is_raw:
            return [(body, True)]
        if not body:
            return [] if self._rule.method.client_streaming else [(None, False)]
        content_type = headers.get(b"content-type")
        if content_type is not None and _JSON_TYPE.fullmatch(content_type.strip()) is None:
            raise UnsupportedMediaType(
                f"content-type {content_type.decode('latin-1')[:100]!r} is not supported;"
                " send application/json"
            )
        if self._rule.method.client_streaming:
            return [(value, True) for value in _parse_stream(body)]
        return [(parse_json(body), True)]

    def set(self, request: Any, value: Any, headers: Mapping[bytes, bytes]) -> None:
        """Set *request* from a *value* of ``parse``. Raises FieldError."""
        if self._is_raw:
            target = getattr(request, self._field.name) if self._field is not None else request
            target.data = value
            target.content_type = headers.get(b"content-type", b"").decode("latin-1")
        elif self._set is not None:
            self._set(request, value, self.field_name)

    def set_empty(self, request: Any) -> None:
        """Set *request* from an empty body: the field that bodies set becomes an empty message.

        As in Envoy. A scalar, a repeated field or a type with a JSON form of its own stays unset.
        """
        field = self._field
        if field is None or field.message_type is None or field.is_repeated:
            return
        if field.message_type.full_name not in field_types.WELL_KNOWN:
            getattr(request, field.name).SetInParent()

    def _body_field(self) -> FieldDescriptor | None:
        if self._rule.body in ("", "*"):
            return None
        field: FieldDescriptor | None = self._rule.method.input_type.fields_by_name.get(self._rule.body)
        if field is None:
            raise RouteError(f"{self._rule.name}: body {self._rule.body!r} is not a field of the request")
        return field


def _parse_stream(body: bytes) -> list[Any]:
    """Return the values of a client stream; its first byte tells the format."""
    is_array = body.lstrip()[:1] == b"["
    values: list[Any] = parse_json(body) if is_array else parse_json_stream(body, _MAX_MESSAGES)
    if len(values) > _MAX_MESSAGES:
        raise FieldError("", f"the stream has more than {_MAX_MESSAGES} messages")
    return values
