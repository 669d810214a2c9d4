"""Schemas: messages, enums and fields as JSON Schema 2020-12, as proto3 JSON writes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from google.api import field_behavior_pb2, field_info_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.rpc import status_pb2

from reelhaul_transcoding.binding.request_body import HTTP_BODY
from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.openapi.comments import to_markdown
from reelhaul_transcoding.openapi.options import DocumentOptions, Object
from reelhaul_transcoding.routing.rules import HttpRule

_SCALARS: dict[int, Object] = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "format": "byte", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number", "format": "float"},
}

# Formats: https://spec.openapis.org/registry/format/
_WELL_KNOWN: dict[str, Object] = {
    "google.protobuf.Timestamp": {
        "type": "string",
        "format": "date-time",
        "examples": ["2026-05-01T12:00:00Z"],
    },
    "google.protobuf.Duration": {
        "type": "string",
        "format": "google-duration",
        "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$",
        "examples": ["3.5s"],
    },
    "google.protobuf.FieldMask": {"type": "string", "format": "google-fieldmask"},
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {
        "type": "object",
        "required": ["@type"],
        "properties": {"@type": {"type": "string", "description": "The type of the message, as a URL."}},
        "additionalProperties": True,
    },
    "google.protobuf.Empty": {"type": "object", "additionalProperties": False},
    HTTP_BODY: {},
}

# Field types whose zero is no valid value of a required field, so that responses always hold it.
_NEVER_ZERO = frozenset(
    {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE, FieldDescriptor.TYPE_ENUM}
)
_INFO_FORMATS = {
    field_info_pb2.FieldInfo.UUID4: "uuid",
    field_info_pb2.FieldInfo.IPV4: "ipv4",
    field_info_pb2.FieldInfo.IPV6: "ipv6",
}


class Schemas:
    """The schemas of a document; ``components`` grows as they are referenced.

    A component has the name of its message, with those of the messages around it: ``DownloadStatus`` for
    Download.Status. Of several messages with one name, all but the first get the name of their package.
    """

    def __init__(
        self,
        rules: Iterable[HttpRule],
        options: DocumentOptions,
        *,
        full_responses: Collection[str],
        strict: bool,
    ) -> None:
        """*full_responses*: full names of methods whose responses hold fields at their default as well.

        *strict*: requests must not hold unknown fields.
        """
        self.components: dict[str, Object] = {}
        self._options = options
        self._strict = strict
        self._names: dict[tuple[str, frozenset[str], bool], str] = {}
        rules = list(rules)
        self._inputs = _reachable(rule.method.input_type for rule in rules)
        self._full_outputs = _reachable(
            rule.method.output_type for rule in rules if rule.method.full_name in full_responses
        )
        self._partial_outputs = _reachable(
            rule.method.output_type for rule in rules if rule.method.full_name not in full_responses
        )
        self._field_names = _request_field_names(rules)

    def describe(self, name: str, package: str) -> str:
        """Return the comment of *name* as Markdown; empty if it has none."""
        return to_markdown(self._options.comments.get(name, ""), self._field_names.get(package, {}))

    def message(
        self, message_type: Descriptor, *, omit: Collection[str] = (), partial: bool = False
    ) -> Object:
        """Return the schema of *message_type*: a reference, unless it is a well-known type.

        *omit*: fields that it has not here. *partial*: a change of a resource, in which no field is required.
        """
        name = message_type.full_name
        if name in field_types.WRAPPERS:
            return self._element(message_type.fields_by_name["value"])
        if name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[name])
        key = (name, frozenset(omit), partial)
        if key not in self._names:
            self._names[key] = component = self._component_name(message_type, partial=partial)
            # Registered before its fields, since messages may contain themselves.
            self.components[component] = {}
            self.components[component] = self._message_schema(message_type, omit, partial=partial)
        return {"$ref": f"#/components/schemas/{self._names[key]}"}

    def error(self) -> Object:
        """Return the schema of google.rpc.Status, with the types of details that the options name."""
        reference = self.message(status_pb2.Status.DESCRIPTOR)
        details: Object = self.components[_component_of(reference)]["properties"]["details"]
        if "anyOf" not in details["items"] and self._options.error_details:
            known = [self._packed(message_type) for message_type in self._options.error_details]
            details["items"] = {"anyOf": [*known, details["items"]]}
        return reference

    def _packed(self, message_type: Descriptor) -> Object:
        """Return the schema of *message_type* in a google.protobuf.Any."""
        reference = self.message(message_type)
        schema = self.components[_component_of(reference)]
        type_url = {"type": "string", "const": f"type.googleapis.com/{message_type.full_name}"}
        schema["properties"] = {"@type": type_url, **schema["properties"]}
        # Only what is set is in it.
        schema["required"] = ["@type"]
        return reference

    def field(self, field: FieldDescriptor) -> Object:
        """Return the schema of *field* with its description and constraints."""
        comment = self._options.comments.get(field.full_name, "")
        schema = self._field_schema(field)
        constraints = self._options.constrain(field, comment)
        (schema["items"] if schema.get("type") == "array" else schema).update(constraints)
        if text := to_markdown(comment, self._names_in_comment(field)):
            schema["description"] = text
        behaviors = field_behaviors(field)
        if field_behavior_pb2.OUTPUT_ONLY in behaviors:
            schema["readOnly"] = True
        if field_behavior_pb2.INPUT_ONLY in behaviors:
            schema["writeOnly"] = True
        if field.GetOptions().deprecated:
            schema["deprecated"] = True
        return schema

    def _names_in_comment(self, field: FieldDescriptor) -> Mapping[str, str]:
        # Filters and orders name fields as the protos do.
        if field.name in ("filter", "order_by") or field.containing_type is None:
            return {}
        return self._field_names.get(field.containing_type.file.package, {})

    def _field_schema(self, field: FieldDescriptor) -> Object:
        if field_types.is_map(field):
            _, value = field_types.map_entry_fields(field)
            return {"type": "object", "additionalProperties": self._element(value)}
        if field.is_repeated:
            return {"type": "array", "items": self._element(field)}
        return self._element(field)

    def _element(self, field: FieldDescriptor) -> Object:
        """Return the schema of one value of *field*."""
        if field.message_type is not None:
            return self.message(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.type in field_types.INT_BOUNDS:
            return _integer(field.type)
        schema = dict(_SCALARS[field.type])
        info = field.GetOptions().Extensions[field_info_pb2.field_info]
        if info.format in _INFO_FORMATS:
            schema["format"] = _INFO_FORMATS[info.format]
        return schema

    def _enum(self, enum: EnumDescriptor) -> Object:
        if enum.full_name == field_types.NULL_VALUE:
            return {"type": "null"}
        key = (enum.full_name, frozenset[str](), False)
        if key not in self._names:
            self._names[key] = component = self._component_name(enum)
            self.components[component] = self._enum_schema(enum)
        return {"$ref": f"#/components/schemas/{self._names[key]}"}

    def _enum_schema(self, enum: EnumDescriptor) -> Object:
        package = enum.file.package
        # An unspecified value stands for an absent field, which has no value in JSON.
        names = [value.name for value in enum.values if value.number or not _is_unspecified(value.name)]
        parts = [self.describe(enum.full_name, package)]
        comments = {name: self.describe(f"{enum.full_name}.{name}", package) for name in names}
        parts.append("\n".join(f"- `{name}`: {text}" for name, text in comments.items() if text))
        description = "\n\n".join(filter(None, parts))
        return {"type": "string", "enum": names} | ({"description": description} if description else {})

    def _message_schema(self, message_type: Descriptor, omit: Collection[str], *, partial: bool) -> Object:
        fields = [field for field in message_type.fields if field.name not in omit]
        schema: Object = {"type": "object"}
        parts = [self.describe(message_type.full_name, message_type.file.package)]
        parts += [_describe_oneof(names) for names in _oneofs(fields)]
        if description := "\n\n".join(filter(None, parts)):
            schema["description"] = description
        required = [] if partial else [field.json_name for field in fields if self._is_required(field)]
        if required:
            schema["required"] = required
        schema["properties"] = {field.json_name: self.field(field) for field in fields}
        name = message_type.full_name
        if self._strict and name not in self._full_outputs and name not in self._partial_outputs:
            schema["additionalProperties"] = False
        if message_type.GetOptions().deprecated:
            schema["deprecated"] = True
        return schema

    def _is_required(self, field: FieldDescriptor) -> bool:
        """Return whether every value of the message holds *field*, in requests and in responses."""
        assert field.containing_type is not None
        message = field.containing_type.full_name
        if field_behavior_pb2.REQUIRED in field_behaviors(field):
            is_output = message in self._partial_outputs or message in self._full_outputs
            return not is_output or (field.type in _NEVER_ZERO and not field.is_repeated)
        if message in self._inputs or message in self._partial_outputs:
            return False
        # Encoders write enums at zero never, other fields without presence always.
        return field.is_repeated or (not field.has_presence and field.enum_type is None)

    def _component_name(self, descriptor: Descriptor | EnumDescriptor, *, partial: bool = False) -> str:
        package = descriptor.file.package
        name = descriptor.full_name.removeprefix(f"{package}.").replace(".", "")
        name += "Update" if partial else ""
        if name in self.components:
            parts = [part for part in package.split(".") if not part.startswith("v")]
            name = parts[-1].capitalize() + name
        while name in self.components:
            name += "Body"
        return name


def _component_of(reference: Object) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def field_behaviors(field: FieldDescriptor) -> Collection[int]:
    """Return the google.api.FieldBehavior values of *field*."""
    behaviors: Collection[int] = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return behaviors


def _integer(field_type: int) -> Object:
    minimum, _ = field_types.INT_BOUNDS[field_type]
    if field_type in field_types.INT64_TYPES:
        pattern = r"^[0-9]{1,20}$" if minimum == 0 else r"^-?[0-9]{1,19}$"
        return {"type": "string", "format": "int64" if minimum else "uint64", "pattern": pattern}
    if minimum:
        return {"type": "integer", "format": "int32"}
    return {"type": "integer", "format": "uint32", "minimum": 0}


def _is_unspecified(name: str) -> bool:
    return name.endswith("UNSPECIFIED")


def _oneofs(fields: Iterable[FieldDescriptor]) -> Iterable[list[str]]:
    oneofs: dict[str, list[str]] = {}
    for field in fields:
        oneof = field.containing_oneof
        # An optional field is alone in a oneof of its own.
        if oneof is not None and len(oneof.fields) > 1:
            oneofs.setdefault(oneof.name, []).append(field.json_name)
    return oneofs.values()


def _describe_oneof(names: list[str]) -> str:
    return f"At most one of {', '.join(f'`{name}`' for name in names)} is set."


def _request_field_names(rules: Iterable[HttpRule]) -> dict[str, dict[str, str]]:
    """Return the JSON names of the fields of requests and of list responses, by package and proto name."""
    names: dict[str, dict[str, str]] = {}
    for rule in rules:
        for message_type in (rule.method.input_type, rule.method.output_type):
            if message_type.name.endswith(("Request", "Response")):
                package = names.setdefault(message_type.file.package, {})
                package.update({field.name: field.json_name for field in message_type.fields})
    return names


def _reachable(roots: Iterable[Descriptor]) -> set[str]:
    """Return the full names of the messages in *roots* and in their fields."""
    found: set[str] = set()
    pending: list[Any] = list(roots)
    while pending:
        message_type = pending.pop()
        if message_type.full_name not in found:
            found.add(message_type.full_name)
            pending += [field.message_type for field in message_type.fields if field.message_type is not None]
    return found
