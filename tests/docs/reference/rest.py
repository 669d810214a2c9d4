"""docs/rest.md: every route of the gateway, from docs/openapi.json."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.docs.reference.markdown import heading, plain, table
from tests.gateway.document import COMMITTED

_INTRODUCTION = """
All routes of the gateway. A running suite shows the same at `/docs`, where they can be tried, and serves
the document at `/openapi.json`; [openapi.json](openapi.json) is a copy, to generate clients from.
[gateway.md](gateway.md) describes what all routes have in common: parameters, headers, streams, browsers.
[errors.md](errors.md) explains the reasons.
"""
_METHODS = ("get", "post", "patch", "put", "delete")
_REASON = re.compile(r"^- `([A-Z_]+)`", re.MULTILINE)

Object = dict[str, Any]


def page() -> str:
    """Return docs/rest.md."""
    document = json.loads(COMMITTED.read_text())
    parts = [heading("REST reference", "docs/openapi.json", _INTRODUCTION), document["info"]["description"]]
    for tag in document["tags"]:
        parts.append(f"## {tag['name']}\n\n{tag['description'].strip()}\n")
        for method, path, operation in _operations(document):
            if tag["name"] in operation["tags"]:
                parts.append(_describe_operation(document, method, path, operation))
    parts.append("## Messages\n\nThe bodies of requests and responses, in alphabetical order.\n")
    parts += [_describe_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "\n".join(parts)


def _operations(document: Object) -> Iterator[tuple[str, str, Object]]:
    for path, methods in document["paths"].items():
        for method in _METHODS:
            if method in methods:
                yield method.upper(), path, methods[method]


def _describe_operation(document: Object, method: str, path: str, operation: Object) -> str:
    parts = [f"### {operation['operationId']}\n", f"`{method} {path}`\n", f"{operation['summary']}.\n"]
    description = operation.get("description", "")
    # The reasons are listed below.
    description = re.sub(r"(?m)^Errors: [^\n]*\n*", "", description).strip()
    if description:
        parts.append(f"{description}\n")
    if parameters := operation.get("parameters"):
        rows = [
            (f"`{each['name']}`", each["in"], _type_of(each["schema"]), _required(each) + _text(each))
            for each in parameters
        ]
        parts.append(table(("parameter", "in", "type", "meaning"), rows))
    if body := operation.get("requestBody"):
        parts.append(f"**Body:** {_content_of(body)}\n")
    parts.append(f"**Response:** {_successes(operation)}\n")
    if reasons := _reasons(document, operation):
        links = ", ".join(f"[{reason}](errors.md#{reason.lower()})" for reason in reasons)
        parts.append(f"**Errors:** {links}\n")
    return "\n".join(parts)


def _successes(operation: Object) -> str:
    successes = [
        (status, response) for status, response in operation["responses"].items() if status.startswith("2")
    ]
    return "; ".join(f"{status}, {_content_of(response) or 'no body'}" for status, response in successes)


def _content_of(body: Object) -> str:
    """Return the media types of *body* with their types; what streams of messages hold is named once."""
    return ", ".join(
        f"`{media}`" + (f": {kind}" if (kind := _type_of(content.get("schema", {}))) != "object" else "")
        for media, content in body.get("content", {}).items()
    )


def _reasons(document: Object, operation: Object) -> list[str]:
    reasons = list[str]()
    for status, response in operation["responses"].items():
        if reference := response.get("$ref"):
            response = document["components"]["responses"][reference.rpartition("/")[2]]
        if not status.startswith("2"):
            reasons += _REASON.findall(response.get("description", ""))
    return sorted(set(reasons))


def _describe_schema(name: str, schema: Object) -> str:
    parts = [f"### {name}\n"]
    if description := schema.get("description", "").strip():
        parts.append(f"{description}\n")
    if properties := schema.get("properties"):
        required = set(schema.get("required", ()))
        rows = [
            (f"`{key}`", _type_of(each), ("Required. " if key in required else "") + _text(each))
            for key, each in properties.items()
        ]
        parts.append(table(("field", "type", "meaning"), rows))
    elif "enum" not in schema and schema.get("type"):
        parts.append(f"{_type_of(schema)}\n")
    return "\n".join(parts)


def _type_of(schema: Object) -> str:
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("oneOf") or schema.get("anyOf") or schema.get("allOf"):
        return " or ".join(_type_of(each) for each in options)
    kind = schema.get("type", "any")
    if isinstance(kind, list):
        kind = " or ".join(kind)
    if kind == "array":
        return f"list of {_type_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(value := schema.get("additionalProperties"), dict):
        return f"map to {_type_of(value)}"
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def _required(parameter: Object) -> str:
    return "Required. " if parameter.get("required") and parameter["in"] != "path" else ""


def _text(described: Object) -> str:
    text: str = described.get("description", "")
    # A list within a cell: its items follow each other.
    return plain(re.sub(r"\n+- ", "; ", text).strip())
