"""Operations: the rules of a transcoder as operations of OpenAPI."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from reelhaul_transcoding.binding.field_path import contains_path, resolve_field_path
from reelhaul_transcoding.binding.request_body import HTTP_BODY
from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.codec.text_scalars import text_parser
from reelhaul_transcoding.openapi.comments import split_summary
from reelhaul_transcoding.openapi.options import DocumentOptions, ErrorCase, Object
from reelhaul_transcoding.openapi.paths import ExpandedPath, PathParameter
from reelhaul_transcoding.openapi.schemas import Schemas, field_behaviors
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.rules import HttpRule

# Text parameters that hold JSON.
_JSON_TEXT = frozenset({"google.protobuf.Struct", "google.protobuf.Value"})
_PHRASES = {
    400: "The request is invalid.",
    401: "The credential is missing or invalid.",
    403: "The caller may not do this.",
    404: "The resource does not exist.",
    409: "The request conflicts with the state of the resource, or with another request.",
    413: "The body is too large.",
    415: "The media type or the encoding of the body is not supported.",
    416: "The range lies outside of the content.",
    424: "Another server that the request depends on failed.",
    429: "Too many requests, or a quota is used up.",
    431: "The head of the request is too large.",
    499: "The client cancelled the request.",
    500: "The server failed.",
    501: "The server does not support this.",
    502: "Another server failed.",
    503: "The server is not available.",
    504: "The request took too long.",
}
_STREAM = """A stream of messages, whose form the Accept header selects:

- `application/x-ndjson`, the default: each line is an object, whose `result` is a message.
- `text/event-stream`: the `data` of each event is a message. An event `stream_error` ends a stream that
  failed, and holds the google.rpc.Status."""
_ARRAY = "\n- `application/json`: an array of messages. A failure aborts the connection."


class Operations:
    """Writes the operations of one document."""

    def __init__(self, schemas: Schemas, options: Options, document: DocumentOptions) -> None:
        self._schemas, self._options, self._document = schemas, options, document
        #: Full names of methods by operation ids, and the numbers of their routes so far.
        self._methods: dict[str, str] = {}
        self._route_counts: Counter[str] = Counter()

    def write(self, rule: HttpRule, path: ExpandedPath) -> Object:
        """Return the operation of *rule* at *path*; each has an id of its own."""
        method = rule.method
        operation: Object = {
            "operationId": self._id(rule),
            "tags": [self._document.tag(method.containing_service)],
        }
        summary, description = split_summary(
            self._schemas.describe(method.full_name, method.containing_service.file.package)
            or str(method.name)
        )
        operation["summary"] = summary
        if text := "\n\n".join(filter(None, [description, self._document.note(method)])):
            operation["description"] = text
        if parameters := [*self._path_parameters(rule, path), *self._query(rule, path), *self._headers(rule)]:
            operation["parameters"] = parameters
        if rule.body:
            operation["requestBody"] = self._request_body(rule, path)
        operation["responses"] = self._responses(rule)
        operation["security"] = [dict(each) for each in self._document.security(method)]
        if method.GetOptions().deprecated:
            operation["deprecated"] = True
        return operation

    def error_responses(self, cases: Iterable[ErrorCase]) -> Object:
        """Return one response for each HTTP status of *cases*, and the default."""
        by_status: dict[int, list[ErrorCase]] = {}
        for case in cases:
            by_status.setdefault(case.http_status, []).append(case)
        responses = {str(int(code)): self._error(code, by_status[code]) for code in sorted(by_status)}
        return responses | {"default": {"$ref": "#/components/responses/Error"}}

    def error_content(self) -> Object:
        """Return the content of every error: google.rpc.Status."""
        return {"application/json": {"schema": self._schemas.error()}}

    def _id(self, rule: HttpRule) -> str:
        """Return getJob for GetJob; for its second route getJob2, for another service's jobServiceGetJob."""
        method = rule.method
        name = _lower_first(method.name)
        if self._methods.setdefault(name, method.full_name) != method.full_name:
            name = _lower_first(method.containing_service.name) + method.name
        self._route_counts[method.full_name] += 1
        count = self._route_counts[method.full_name]
        return name if count == 1 else f"{name}{count}"

    def _path_parameters(self, rule: HttpRule, path: ExpandedPath) -> Iterator[Object]:
        for parameter in path.parameters:
            field = resolve_field_path(rule.method.input_type, parameter.field)
            assert field is not None, "the transcoder has compiled this route"
            schema = self._schemas.field(field.field)
            description = schema.pop("description", "")
            if parameter.format != f"{{{parameter.name}}}":
                description = f"The `{{{parameter.name}}}` of the name `{parameter.format}`."
                schema = {"type": "string"}
            for key in ("readOnly", "writeOnly"):
                schema.pop(key, None)
            yield {
                "name": parameter.name,
                "in": "path",
                "required": True,
                "description": _path_description(description, parameter),
                "schema": _path_schema(schema, parameter),
            }

    def _query(self, rule: HttpRule, path: ExpandedPath) -> Iterator[Object]:
        if rule.body == "*":
            return
        bound = [parameter.field for parameter in path.parameters] + ([rule.body] if rule.body else [])
        for name, field in _query_fields(rule.method.input_type, bound, "", "", ()):
            schema = self._schemas.field(field)
            parameter: Object = {"name": name, "in": "query"}
            if "description" in schema:
                parameter["description"] = schema.pop("description")
            if _is_required(field) and "." not in name:
                parameter["required"] = True
            if schema.pop("deprecated", False):
                parameter["deprecated"] = True
            for key in ("readOnly", "writeOnly"):
                schema.pop(key, None)
            if field_types.is_map(field):
                parameter |= {"style": "deepObject", "explode": True}
            if field.message_type is not None and field.message_type.full_name in _JSON_TEXT:
                yield parameter | {"content": {"application/json": {"schema": schema}}}
            else:
                yield parameter | {"schema": schema}

    def _headers(self, rule: HttpRule) -> Iterator[Object]:
        headers = dict(self._options.header_fields)
        if rule.method.server_streaming and self._options.event_id_field:
            headers["last-event-id"] = self._options.event_id_field
        for header, name in headers.items():
            field = rule.method.input_type.fields_by_name.get(name)
            if field is None or field.is_repeated or field.type != FieldDescriptor.TYPE_STRING:
                continue
            schema = self._schemas.field(field)
            description = schema.pop("description", "")
            # A header may hold any text: it is not parsed as the field's format.
            schema.pop("format", None)
            yield {
                "name": header.title(),
                "in": "header",
                "description": f"Sets `{field.json_name}`. {description}".strip(),
                "schema": schema,
            }

    def _request_body(self, rule: HttpRule, path: ExpandedPath) -> Object:
        schema, required = self._body_schema(rule, [parameter.field for parameter in path.parameters])
        media: Object = {"schema": schema}
        examples = self._document.examples.get(rule.method.full_name, {})
        if "request" in examples:
            media["example"] = examples["request"]
        content: Object = {"application/json": media}
        if not schema:
            # google.api.HttpBody.
            content = {"*/*": {}}
        elif rule.method.client_streaming:
            array = {"type": "array", "items": schema}
            content = {"application/x-ndjson": media, "application/json": {"schema": array}}
        return {"content": content} | ({"required": True} if required else {})

    def _body_schema(self, rule: HttpRule, bound: Collection[str]) -> tuple[Object, bool]:
        """Return the schema of the body without the fields that the path sets, and whether it is required."""
        request_type = rule.method.input_type
        if rule.body == "*":
            schema = self._schemas.message(request_type, omit=[name for name in bound if "." not in name])
            return schema, any(
                _is_required(field) for field in request_type.fields if field.name not in bound
            )
        field = request_type.fields_by_name[rule.body]
        if rule.http_method == "PATCH" and field.message_type is not None and not field.is_repeated:
            omitted = [name.removeprefix(f"{rule.body}.") for name in bound if contains_path(rule.body, name)]
            return self._schemas.message(field.message_type, omit=omitted, partial=True), _is_required(field)
        schema = self._schemas.field(field)
        schema.pop("description", None)
        return schema, _is_required(field)

    def _responses(self, rule: HttpRule) -> Object:
        cases = [ErrorCase(400, "", "")]
        if rule.body:
            cases += [ErrorCase(413, "", ""), ErrorCase(415, "", "")]
        cases += self._document.errors(rule.method)
        success = self._stream_responses(rule) if rule.method.server_streaming else self._success(rule)
        return success | self.error_responses(cases)

    def _success(self, rule: HttpRule) -> Object:
        output_type = rule.method.output_type
        if output_type.full_name == HTTP_BODY and not rule.response_body:
            return {"200": {"description": "The content.", "content": {"*/*": {}}}}
        if rule.response_body:
            schema = self._schemas.field(output_type.fields_by_name[rule.response_body])
        else:
            schema = self._schemas.message(output_type)
        description = schema.pop("description", "") if rule.response_body else ""
        media: Object = {"schema": schema}
        examples = self._document.examples.get(rule.method.full_name, {})
        if "response" in examples:
            media["example"] = examples["response"]
        return {"200": {"description": description or "OK.", "content": {"application/json": media}}}

    def _stream_responses(self, rule: HttpRule) -> Object:
        """Return the responses of a stream: by the Accept header NDJSON, Server-Sent Events, or an array."""
        output_type = rule.method.output_type
        if output_type.full_name == HTTP_BODY:
            return {"200": {"description": "The content.", "content": {"*/*": {}}}}
        message = self._schemas.message(output_type)
        line: Object = {
            "type": "object",
            "description": "One line. A line with `error` is the last one, of a stream that failed.",
            "properties": {"result": message, "error": self._schemas.error()},
        }
        content: Object = {
            "application/x-ndjson": {"schema": line},
            "text/event-stream": {"schema": message},
        }
        if self._options.json_arrays:
            content["application/json"] = {"schema": {"type": "array", "items": message}}
        return {
            "200": {
                "description": _STREAM + (_ARRAY if self._options.json_arrays else ""),
                "content": content,
            },
            "204": {
                "description": "The stream has ended, and has no further messages: an EventSource stops."
            },
        }

    def _error(self, http_status: int, cases: Iterable[ErrorCase]) -> Object:
        lines = [f"- `{case.reason}`: {case.description}" for case in cases if case.reason]
        parts = [_PHRASES.get(http_status, "The request failed."), "\n".join(lines)]
        response: Object = {"description": "\n\n".join(filter(None, parts)), "content": self.error_content()}
        if http_status == 401 and self._options.challenge:
            response["headers"] = {"WWW-Authenticate": _header("How to authenticate.", "string")}
        elif http_status in (429, 503):
            response["headers"] = {"Retry-After": _header("Seconds to wait before a retry.", "integer")}
        return response


def _query_fields(
    message_type: Descriptor,
    bound: Collection[str],
    proto_prefix: str,
    json_prefix: str,
    around: tuple[str, ...],
) -> Iterator[tuple[str, FieldDescriptor]]:
    """Yield the names and the fields of the query parameters that the binder accepts.

    A message inside itself is left out: its parameters would be infinitely many.
    """
    around = (*around, message_type.full_name)
    for field in message_type.fields:
        if any(contains_path(name, proto_prefix + field.name) for name in bound):
            continue
        name = json_prefix + field.json_name
        inner = field.message_type
        if field_types.is_map(field):
            if all(text_parser(part) is not None for part in field_types.map_entry_fields(field)):
                yield name, field
        elif text_parser(field) is not None:
            yield name, field
        elif (
            inner is not None
            and not field.is_repeated
            and _has_fields(inner)
            and inner.full_name not in around
        ):
            yield from _query_fields(inner, bound, f"{proto_prefix}{field.name}.", f"{name}.", around)


def _header(description: str, schema_type: str) -> Object:
    return {"description": description, "schema": {"type": schema_type}}


def _lower_first(name: str) -> str:
    return name[0].lower() + name[1:]


def _has_fields(message_type: Descriptor) -> bool:
    return message_type.full_name not in field_types.WELL_KNOWN and message_type.full_name != HTTP_BODY


def _is_required(field: FieldDescriptor) -> bool:
    return field_behavior_pb2.REQUIRED in field_behaviors(field)


def _path_schema(schema: Object, parameter: PathParameter) -> Object:
    if schema.get("type") != "string" or "enum" in schema or "pattern" in schema:
        return schema
    return schema | ({"pattern": "^.*$"} if parameter.multiple else {"minLength": 1, "pattern": "^[^/]+$"})


def _path_description(description: str, parameter: PathParameter) -> str:
    return f"{description} It may hold slashes.".strip() if parameter.multiple else description
