"""Binding: one HTTP rule of a method, compiled to build requests and to write responses."""

from __future__ import annotations

import copy
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from reelhaul_transcoding.binding.field_path import FieldPath, resolve_field_path
from reelhaul_transcoding.binding.query import QueryBinder
from reelhaul_transcoding.binding.request_body import HTTP_BODY, BodyReader
from reelhaul_transcoding.binding.update_mask import find_mask_field, paths_in_json
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.errors import FieldError
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.rules import HttpRule, RouteError
from reelhaul_transcoding.routing.templates import Template

_JSON_TYPE = b"application/json"
# Messages in one client stream.
_MAX_MESSAGES = 10_000


class StreamEvent(NamedTuple):
    """One message of a stream."""

    #: The SSE id and event name; empty: none.
    id: str
    name: str
    #: The message in JSON.
    data: bytes


class Binding:
    """A rule with its compiled readers and writers. Raises RouteError if the rule does not fit the method."""

    def __init__(
        self, rule: HttpRule, template: Template, options: Options, decoder: Decoder, encoder: Encoder
    ) -> None:
        method = rule.method
        self.method = method
        #: The RPC path.
        self.path = f"/{method.containing_service.full_name}/{method.name}"
        self.max_timeout = options.max_timeout(method)
        self.client_streaming: bool = method.client_streaming
        self.server_streaming: bool = method.server_streaming
        #: Whether responses are google.api.HttpBody: raw bytes and their media type.
        self.raw_response = method.output_type.full_name == HTTP_BODY and not rule.response_body
        self._rule = rule
        self._options = options
        self._request_class = GetMessageClass(method.input_type)
        self._response_class = GetMessageClass(method.output_type)
        self._variables = {v.field: self._resolve_variable(v.field) for v in template.variables}
        self._body = BodyReader(rule, options, decoder)
        self._query = QueryBinder(
            method.input_type,
            [*(path.name for path in self._variables.values()), *filter(None, [self._body.field_name])],
            whole_body=rule.body == "*",
            ignore_unknown=options.ignore_unknown_parameters(method),
            ignored=options.ignored_parameters,
            case_insensitive_enums=options.case_insensitive_enums,
            reject_conflicts=options.reject_conflicts,
        )
        self._header_paths = {
            header.encode(): path
            for header, field in options.header_fields.items()
            if (path := self._resolve_string_field(field)) is not None
        }
        self._last_event_id = (
            self._resolve_string_field(options.event_id_field) if self.server_streaming else None
        )
        self._event_id_field = _string_field_name(
            method.output_type.fields_by_name.get(options.event_id_field)
        )
        self._event_names = {
            field.name: field.json_name
            for oneof in method.output_type.oneofs
            if oneof.name == options.event_name_oneof
            for field in oneof.fields
        }
        # The default event name of an EventSource.
        self._default_event_name = "message" if options.event_name_oneof else ""
        infers_mask = options.infer_update_mask and rule.http_method == "PATCH" and rule.body not in ("", "*")
        self._mask_field = find_mask_field(method.input_type) if infers_mask else None
        self._encode = self._response_encoder(encoder)

    def build_request(
        self, variables: list[tuple[str, str]], query: bytes, headers: Mapping[bytes, bytes], body: bytes
    ) -> bytes:
        """Return the serialized request message. Raises TranscodingError."""
        value, has_value = self._body.parse(headers, body)
        request = self._request_class()
        if has_value:
            self._body.set(request, value, headers)
        else:
            self._body.set_empty(request)
        self._bind(request, variables, query, headers, value)
        return bytes(request.SerializeToString())

    def build_stream(
        self,
        variables: list[tuple[str, str]],
        query: bytes,
        headers: Mapping[bytes, bytes],
        chunks: AsyncIterator[bytes],
    ) -> AsyncGenerator[bytes, None]:
        """Yield the serialized messages of a client stream while the *chunks* of its body arrive.

        Path and query set fields of the first message. Raises TranscodingError.
        """
        values = self._body.parse_stream(headers, chunks)
        return self._build_messages(values, variables, query, headers)

    async def _build_messages(
        self,
        values: AsyncIterator[tuple[Any, bool]],
        variables: list[tuple[str, str]],
        query: bytes,
        headers: Mapping[bytes, bytes],
    ) -> AsyncGenerator[bytes, None]:
        number = 1
        try:
            async for value, has_value in values:
                _check_count(number)
                request = self._request_class()
                if has_value:
                    self._body.set(request, value, headers)
                else:
                    self._body.set_empty(request)
                if number == 1:
                    self._bind(request, variables, query, headers, value)
                yield request.SerializeToString()
                number += 1
        except FieldError as error:
            field, description = error.violations[0].field, error.violations[0].description
            raise FieldError(field, f"{description}, in message {number} of the stream") from error

    def response_body(self, message: bytes) -> tuple[bytes, bytes]:
        """Return content type and body for a response *message*."""
        if self.raw_response:
            response: Any = self._response_class.FromString(message)
            return response.content_type.encode() or b"application/octet-stream", response.data
        return _JSON_TYPE, self._encode(message)

    def encode(self, message: bytes) -> bytes:
        """Return a response *message*, or the field that is its body, in JSON."""
        return self._encode(message)

    def stream_event(self, message: bytes) -> StreamEvent:
        """Return one *message* of a stream as an event."""
        response: Any = self._response_class.FromString(message)
        event_id = getattr(response, self._event_id_field) if self._event_id_field else ""
        field = response.WhichOneof(self._options.event_name_oneof) if self._event_names else ""
        return StreamEvent(
            event_id,
            self._event_names.get(field or "", self._default_event_name),
            self._encode(message),
        )

    def _bind(
        self,
        request: Any,
        variables: list[tuple[str, str]],
        query: bytes,
        headers: Mapping[bytes, bytes],
        body_value: Any,
    ) -> None:
        for field, text in variables:
            self._bind_variable(request, self._variables[field], text)
        if query:
            self._query.bind(request, query)
        for header, path in self._header_paths.items():
            if value := headers.get(header):
                self._bind_header(request, path, header.decode(), value.decode("latin-1"))
        if self._last_event_id is not None and (value := headers.get(b"last-event-id")):
            # An EventSource reconnects with its first URL: the header is newer than the query.
            setattr(request, self._last_event_id.name, value.decode("latin-1"))
        if self._mask_field is not None and not getattr(request, self._mask_field.name).paths:
            self._fill_mask(request, self._mask_field, body_value)

    def _bind_variable(self, request: Any, path: FieldPath, text: str) -> None:
        before = path.get(request) if self._rule.body else None
        if path.field.message_type is not None and before is not None:
            # The message itself is changed below; one that is empty may also be absent.
            before = copy.deepcopy(before) if before.ByteSize() else None
        path.set(request, [text])
        if before and self._options.reject_conflicts and before != path.get(request):
            raise FieldError(path.name, "differs between the path and the body")

    def _bind_header(self, request: Any, path: FieldPath, header: str, text: str) -> None:
        try:
            text = self._options.header_values.get(header, str)(text)
        except ValueError as error:
            raise FieldError(header, str(error)) from error
        before = path.get(request)
        if before and before != text:
            raise FieldError(path.name, "differs between its header and the request")
        path.set(request, [text])

    def _fill_mask(self, request: Any, mask_field: FieldDescriptor, body_value: Any) -> None:
        body_type = self._rule.method.input_type.fields_by_name[self._rule.body].message_type
        paths = paths_in_json(body_type, body_value) if body_type is not None else []
        excluded = {path.name.removeprefix(f"{self._rule.body}.") for path in self._variables.values()}
        excluded |= self._options.update_mask_exclusions
        if paths := [path for path in paths if path not in excluded]:
            getattr(request, mask_field.name).paths.extend(paths)

    def _resolve_variable(self, field: str) -> FieldPath:
        path = resolve_field_path(
            self._rule.method.input_type,
            field,
            case_insensitive_enums=self._options.case_insensitive_enums,
        )
        if path is None or path.parse is None or path.field.is_repeated:
            raise RouteError(
                f"{self._rule.name}: {self._rule.template!r} binds {field!r},"
                f" which is not a singular scalar field of {self._rule.method.input_type.full_name}"
            )
        return path

    def _resolve_string_field(self, name: str) -> FieldPath | None:
        field = self._rule.method.input_type.fields_by_name.get(name)
        return resolve_field_path(self._rule.method.input_type, name) if _string_field_name(field) else None

    def _response_encoder(self, encoder: Encoder) -> Callable[[bytes], bytes]:
        output_type = self._rule.method.output_type
        if not self._rule.response_body:
            return encoder.compile_serialized(output_type)
        field = output_type.fields_by_name.get(self._rule.response_body)
        if field is None:
            raise RouteError(
                f"{self._rule.name}: response_body {self._rule.response_body!r}"
                " is not a field of the response"
            )
        convert = encoder.compile_field(field)
        return lambda message: orjson.dumps(convert(self._response_class.FromString(message)))


def _check_count(messages: int) -> None:
    if messages > _MAX_MESSAGES:
        raise FieldError("", f"the stream has more than {_MAX_MESSAGES} messages")


def _string_field_name(field: FieldDescriptor | None) -> str:
    """Return the name of *field* if it is a singular string, else an empty string."""
    if field is None or field.is_repeated or field.type != FieldDescriptor.TYPE_STRING:
        return ""
    return str(field.name)
