"""Bindings: one HttpRule of one method, compiled: requests in, answers out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.binding import update_mask
from reelhaul_transcoding.binding.field_path import FieldPath, resolved
from reelhaul_transcoding.binding.query import Query
from reelhaul_transcoding.binding.request_body import BodyReader
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.errors import FieldFault
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.router import RouteError
from reelhaul_transcoding.routing.rules import Rule
from reelhaul_transcoding.routing.templates import Template

_HTTP_BODY = "google.api.HttpBody"
JSON_TYPE = b"application/json"


class Binding:
    """A rule and all that was compiled for it."""

    def __init__(
        self, rule: Rule, template: Template, options: Options, decoder: Decoder, encoder: Encoder
    ) -> None:
        self.rule = rule
        self.path = f"/{rule.method.containing_service.full_name}/{rule.method.name}"
        self.timeout = options.timeout_of(rule.method)
        self.client_streaming: bool = rule.method.client_streaming
        self.server_streaming: bool = rule.method.server_streaming
        self.raw_answer = rule.method.output_type.full_name == _HTTP_BODY and not rule.response_body
        self._options = options
        self._request = GetMessageClass(rule.method.input_type)
        self._response = GetMessageClass(rule.method.output_type)
        self._variables = {v.field: self._variable(v.field) for v in template.variables}
        self._body = BodyReader(rule, options, decoder)
        self._query = Query(
            rule.method.input_type,
            [*(path.name for path in self._variables.values()), *filter(None, [self._body.field_name])],
            whole_body=rule.body == "*",
            unknown=options.ignore_unknown_parameters,
            ignored=options.ignored_parameters,
            strict=options.refuse_conflicts,
        )
        self._header_fields = {
            header: path
            for header, name in options.header_fields.items()
            if (path := self._text_field(name)) is not None
        }
        self._last_event = self._text_field(options.event_id_field) if self.server_streaming else None
        self._event_id = _text_field(rule.method.output_type.fields_by_name.get(options.event_id_field))
        self._mask = update_mask.mask_field(rule.method.input_type) if self._takes_mask else None
        self._encode = self._encoder(encoder)

    def messages(
        self, variables: list[tuple[str, str]], query: bytes, headers: Mapping[bytes, bytes], body: bytes
    ) -> list[bytes]:
        """The request messages that path, query, headers and body say. Raises Fault."""
        values = self._body.values(headers, body)
        made = []
        for place, (value, given) in enumerate(values):
            request = self._request()
            if given:
                self._body.fill(request, value, headers)
            # What path and query say of a client's stream goes into its first message.
            if place == 0:
                self._bind(request, variables, query, headers, value)
            made.append(request.SerializeToString())
        return made

    def value(self, message: bytes) -> Any:
        """What orjson takes for an answer's *message*."""
        return self._encode(self._response.FromString(message))

    def body(self, message: bytes) -> tuple[bytes, bytes]:
        """Content type and body for an answer's *message*."""
        if self.raw_answer:
            answer: Any = self._response.FromString(message)
            return answer.content_type.encode() or b"application/octet-stream", answer.data
        return JSON_TYPE, orjson.dumps(self.value(message))

    def event(self, message: bytes) -> tuple[str, bytes]:
        """SSE's id (empty for none) and JSON of one *message* of a stream."""
        answer: Any = self._response.FromString(message)
        token = getattr(answer, self._event_id) if self._event_id else ""
        return token, orjson.dumps(self._encode(answer))

    def _bind(
        self,
        request: Any,
        variables: list[tuple[str, str]],
        query: bytes,
        headers: Mapping[bytes, bytes],
        value: Any,
    ) -> None:
        for field, text in variables:
            self._bind_variable(request, self._variables[field], text)
        if query:
            self._query.apply(request, query)
        for header, path in self._header_fields.items():
            if given := headers.get(header.encode()):
                self._bind_header(request, path, given.decode("latin-1"))
        if self._last_event is not None and (given := headers.get(b"last-event-id")):
            # An EventSource comes back to the URL it began with: the header is newer.
            setattr(request, self._last_event.name, given.decode("latin-1"))
        if self._mask is not None and not getattr(request, self._mask.name).paths:
            self._fill_mask(request, value)

    def _bind_variable(self, request: Any, path: FieldPath, text: str) -> None:
        before = path.value_in(request) if self.rule.body else None
        was_set = bool(before) if path.field.message_type is None else False
        path.put(request, [text])
        if was_set and self._options.refuse_conflicts and before != path.value_in(request):
            raise FieldFault(path.name, "differs between the path and the body")

    def _bind_header(self, request: Any, path: FieldPath, text: str) -> None:
        before = path.value_in(request)
        if before and before != text:
            raise FieldFault(path.name, "differs between its header and the request")
        path.put(request, [text])

    @property
    def _takes_mask(self) -> bool:
        return self._options.patch_masks and self.rule.verb == "PATCH" and self.rule.body not in ("", "*")

    def _fill_mask(self, request: Any, value: Any) -> None:
        assert self._mask is not None
        kind = self.rule.method.input_type.fields_by_name[self.rule.body].message_type
        paths = update_mask.paths_of(kind, value) if kind is not None else []
        bound = {path.name.removeprefix(f"{self.rule.body}.") for path in self._variables.values()}
        kept = [path for path in paths if path not in bound and path not in self._options.unmasked_fields]
        if kept:
            getattr(request, self._mask.name).paths.extend(kept)

    def _variable(self, field: str) -> FieldPath:
        path = resolved(self.rule.method.input_type, field)
        if path is None or path.read is None or path.field.is_repeated:
            raise RouteError(
                f"{self.rule.name}: {self.rule.template!r} binds {field!r},"
                f" which is no singular scalar field of {self.rule.method.input_type.full_name}"
            )
        return path

    def _text_field(self, name: str) -> FieldPath | None:
        field = self.rule.method.input_type.fields_by_name.get(name)
        return resolved(self.rule.method.input_type, name) if _text_field(field) else None

    def _encoder(self, encoder: Encoder) -> Any:
        if not self.rule.response_body:
            return encoder.of(self.rule.method.output_type)
        field = self.rule.method.output_type.fields_by_name.get(self.rule.response_body)
        if field is None:
            raise RouteError(f"{self.rule.name}: response_body {self.rule.response_body!r} is no field")
        return encoder.field(field)


def _text_field(field: FieldDescriptor | None) -> str:
    """The name of *field* where it is one string, else nothing."""
    if field is None or field.is_repeated or field.type != FieldDescriptor.TYPE_STRING:
        return ""
    return str(field.name)
