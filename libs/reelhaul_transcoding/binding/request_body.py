"""Request bodies: the body sets the whole request, one field of it, or raw bytes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.codec.decoder import Decoder, Setter
from reelhaul_transcoding.codec.json_stream import JsonSplitter
from reelhaul_transcoding.codec.strict_json import parse_json
from reelhaul_transcoding.errors import FieldError, UnsupportedMediaType
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.rules import HttpRule, RouteError

HTTP_BODY = "google.api.HttpBody"
_JSON_TYPE = re.compile(
    rb'application/(?:json|[^;\s]+\+json|x-ndjson)\s*(?:;\s*charset="?utf-?8"?\s*)?', re.IGNORECASE
)
# An HttpBody in a stream is cut into messages of this size.
_RAW_MESSAGE_BYTES = 1 << 20
# What is scanned for values at a time.
_PIECE_BYTES = 16 << 10


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

    def parse(self, headers: Mapping[bytes, bytes], body: bytes) -> tuple[Any, bool]:
        """Return the value in *body*, and whether there is one. Raises TranscodingError."""
        if not self._rule.body:
            if body and not self._options.ignore_unbound_body:
                raise FieldError("", f"{self._rule.name} takes no body at this path")
            return None, False
        if self._is_raw:
            return body, True
        if not body:
            return None, False
        _check_json_type(headers)
        return parse_json(body), True

    def parse_stream(
        self, headers: Mapping[bytes, bytes], chunks: AsyncIterator[bytes]
    ) -> AsyncIterator[tuple[Any, bool]]:
        """Yield what ``parse`` returns for each message of a client stream, while its body arrives.

        The body is one JSON array, JSON values that follow each other, or the bytes of an
        HttpBody, which are cut into messages. Raises TranscodingError.
        """
        if b"content-encoding" in headers:
            raise UnsupportedMediaType("content-encoding is not supported for a stream; send it as it is")
        if not self._rule.body:
            return self._reject_stream(chunks)
        if self._is_raw:
            return _collect_raw(chunks, min(_RAW_MESSAGE_BYTES, self._options.max_request_bytes))
        _check_json_type(headers)
        return _split_json(chunks, self._options.max_request_bytes)

    async def _reject_stream(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[Any, bool]]:
        async for chunk in chunks:
            self.parse({}, chunk)
        yield None, False

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


def _check_json_type(headers: Mapping[bytes, bytes]) -> None:
    content_type = headers.get(b"content-type")
    if content_type is not None and _JSON_TYPE.fullmatch(content_type.strip()) is None:
        raise UnsupportedMediaType(
            f"content-type {content_type.decode('latin-1')[:100]!r} is not supported; send application/json"
        )


async def _split_json(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[tuple[Any, bool]]:
    splitter = JsonSplitter(max_bytes)
    async for chunk in chunks:
        for start in range(0, len(chunk), _PIECE_BYTES):
            for text in splitter.split(chunk[start : start + _PIECE_BYTES]):
                yield parse_json(text), True
            # Other requests go on while a large chunk is scanned.
            await asyncio.sleep(0)
    for text in splitter.split(b"", is_last=True):
        yield parse_json(text), True


async def _collect_raw(chunks: AsyncIterator[bytes], max_bytes: int) -> AsyncIterator[tuple[Any, bool]]:
    """Yield the bytes of *chunks* in messages of *max_bytes*, the last one shorter; at least one message."""
    buffer = bytearray()
    has_message = False
    async for chunk in chunks:
        buffer += chunk
        while len(buffer) >= max_bytes:
            yield bytes(buffer[:max_bytes]), True
            has_message = True
            del buffer[:max_bytes]
    if buffer or not has_message:
        yield bytes(buffer), True
