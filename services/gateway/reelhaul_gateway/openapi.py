"""OpenAPI: what the document of the gateway's API says beside the routes: errors, permissions, bounds."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
from collections.abc import Collection, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

import yaml
from google.api import field_info_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.rpc import error_details_pb2

from reelhaul.type.v1 import method_policy_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import error_spec
from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.http.status import http_status_of
from reelhaul_transcoding.openapi.comments import read_comments, to_markdown
from reelhaul_transcoding.openapi.document import build_openapi
from reelhaul_transcoding.openapi.options import DocumentOptions, ErrorCase

_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]

_ERROR_DETAILS = [
    message.DESCRIPTOR
    for message in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.Help,
    )
]

# How comments state the bounds of a field: "1..240; 0 means no limit", "at most 500 characters".
_RANGE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)(?![\w.])")
_ZERO = re.compile(r"(?<![\w.])0 (?:means|for|the)\b")
_MAX_LENGTH = re.compile(r"[Aa]t most (\d+) characters")
# The words of a field: '"embed" or "split" (one more file per chapter)', 'as in quality without "worst"'.
_WORDS = re.compile(r'"([a-z0-9]+)"')
_SAME_WORDS = re.compile(r"as in (\w+)((?: without \"\w+\")?)")
_NUMBERS = frozenset({FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_DOUBLE})

_REASON = re.compile(r"\b[A-Z]+(?:_[A-Z]+)+\b")
# "Errors: those of CreateJob", "Errors: as ReadArtifact", "those of POST /api/v1/download".
_REFERENCE = re.compile(r"(?:those of|as) (?:POST (/\S+[a-z])|([A-Z]\w+))")
# The reasons for which sites are the cause.
_SITE_REASONS = re.compile(
    r"MEDIA_.*|UPSTREAM_.*|COOKIES_(?:EXPIRED|REFUSED)|FORMAT_UNAVAILABLE|EXTRACTOR_FAILED|SUBTITLES_UNAVAILABLE"
)
_SITE_REPORTS = "what the site reports"
# What any call may fail with.
_COMMON_REASONS = (
    "FIELD_INVALID",
    "OVERLOADED",
    "SERVICE_UNAVAILABLE",
    "REQUEST_TIMED_OUT",
    "INTERNAL_ERROR",
)
_CREDENTIAL_REASONS = (
    "CREDENTIAL_MISSING",
    "CREDENTIAL_INVALID",
    "PERMISSION_INSUFFICIENT",
    "ADDRESS_FORBIDDEN",
    "RATE_LIMIT_EXCEEDED",
)
# A sentence that only lists reasons: they have their own places in the document, with their notes, e.g.
# "QUOTA_EXCEEDED (watches)".
_LISTED_ERRORS = re.compile(
    r"\s*\bErrors:\s+[A-Z_]+(?:\s+\([^()]*\))?(?:,\s+[A-Z_]+(?:\s+\([^()]*\))?)*\.(?=\s|$)"
)
_NOTE = re.compile(r"\b([A-Z]+(?:_[A-Z]+)+)\s+\(([^()]*)\)")
# https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/
_RATE_LIMIT_HEADERS: dict[str, Any] = {
    "RateLimit-Policy": {
        "description": "The limits of the key and of its tenant: units (q) in a window of seconds (w).",
        "schema": {"type": "string"},
        "example": '"key";q=600;w=60, "tenant";q=5000;w=60',
    },
    "RateLimit": {
        "description": "Units that are left (r), and seconds until all are there again (t).",
        "schema": {"type": "string"},
        "example": '"key";r=590;t=42, "tenant";r=4711;t=17',
    },
    "Retry-After": {
        "description": "Seconds to wait before a retry. Missing if waiting alone does not help.",
        "schema": {"type": "integer"},
    },
}
_HEAD_TOO_LARGE = "The URL and the headers are larger than 32 KiB, or there are more than 100 headers."
_NOT_FOUND = "RESOURCE_NOT_FOUND"
_JOB_ONLY = "(Job.error only)"


def build_document(transcoder: Transcoder) -> dict[str, Any]:
    """Return the OpenAPI document of everything that the gateway serves, except unimplemented services."""
    comments = read_comments(importlib.resources.files("reelhaul").joinpath("protos.binpb").read_bytes())
    written = yaml.safe_load(
        importlib.resources.files("reelhaul_gateway").joinpath("openapi.yaml").read_bytes()
    )
    with_resource = {rule.method.full_name for rule in transcoder.rules if rule.parse_template().variables}
    tags = written["tags"]
    reasons = _Reasons(comments, with_resource)
    document = build_openapi(
        transcoder,
        DocumentOptions(
            info={**written["info"], "version": importlib.metadata.version("reelhaul")},
            comments={name: _LISTED_ERRORS.sub("", text) for name, text in comments.items()},
            tag=lambda service: tags[service.name]["name"],
            tags=list(tags.values()),
            note=_note,
            errors=reasons.of,
            error_details=_ERROR_DETAILS,
            constrain=partial(_constrain, comments),
            security_schemes=written["securitySchemes"],
            security=lambda method: [] if _is_public(method) else _SECURITY,
            examples=written["examples"],
            operations=written["paths"],
        ),
    )
    _add_batch_options(document["components"]["schemas"])
    _add_rate_limit_headers(document)
    return document


def _add_batch_options(schemas: dict[str, Any]) -> None:
    """Give the options of a batch a schema of their own: they must not set all fields of a request."""
    request = schemas["CreateDownloadRequest"]
    unset = ("url", "request_id", "validate_only")
    schemas["DownloadOptions"] = {
        "type": "object",
        "description": "Options of downloads, as in CreateDownloadRequest.",
        "properties": {name: each for name, each in request["properties"].items() if name not in unset},
        "additionalProperties": False,
    }
    options = schemas["BatchCreateDownloadsRequest"]["properties"]["options"]
    options["$ref"] = "#/components/schemas/DownloadOptions"


def _add_rate_limit_headers(document: dict[str, Any]) -> None:
    """Describe the headers that state rate limits: of every response to a key, of which a few list them."""
    components = document["components"]
    components["headers"] = _RATE_LIMIT_HEADERS
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                names = [name for name in _RATE_LIMIT_HEADERS if name != "Retry-After"]
                if status == "429":
                    names = list(_RATE_LIMIT_HEADERS)
                elif not status.startswith("2") or not operation["security"]:
                    continue
                # Equal responses are one component.
                shared = components["responses"].get(response.get("$ref", "").rpartition("/")[2], response)
                references = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
                shared["headers"] = shared.get("headers", {}) | references


def _policy(method: MethodDescriptor) -> method_policy_pb2.MethodPolicy:
    policy: method_policy_pb2.MethodPolicy = method.GetOptions().Extensions[method_policy_pb2.policy]
    return policy


def _is_public(method: MethodDescriptor) -> bool:
    return _policy(method).permission == method_policy_pb2.PERMISSION_LEVEL_PUBLIC


def _note(method: MethodDescriptor) -> str:
    policy = _policy(method)
    level = method_policy_pb2.PermissionLevel.Name(policy.permission).removeprefix("PERMISSION_LEVEL_")
    needed = "Needs no credential" if _is_public(method) else f"Needs the level `{level}`"
    return f"{needed}; takes {policy.quota_cost or 1} of the caller's units per minute."


def _constrain(comments: Mapping[str, str], field: FieldDescriptor, comment: str) -> dict[str, Any]:
    """Return the bounds of *field* that its comment states."""
    text = " ".join(comment.split())
    if field.type in _NUMBERS and (bounds := _RANGE.search(text)):
        minimum, maximum = float(bounds[1]), float(bounds[2])
        return {"minimum": 0 if _ZERO.search(text) else _whole(minimum), "maximum": _whole(maximum)}
    if field.type == FieldDescriptor.TYPE_STRING:
        constraints: dict[str, Any] = {}
        # That of an idempotency key is about its header.
        if not field.GetOptions().HasExtension(field_info_pb2.field_info) and (
            length := _MAX_LENGTH.search(text)
        ):
            constraints["maxLength"] = int(length[1])
        if words := _words(comments, field, text):
            constraints["enum"] = words
        return constraints
    return {}


def _whole(number: float) -> float:
    return int(number) if number.is_integer() else number


def _words(comments: Mapping[str, str], field: FieldDescriptor, text: str) -> list[str]:
    """Return the words that a field of a request accepts, if its comment begins with them."""
    message = field.containing_type
    if message is None or not message.name.endswith("Request"):
        return []
    excluded: list[str] = []
    if same := _SAME_WORDS.search(text):
        excluded = _WORDS.findall(same[2])
        # A field of the same message, or the field of the same name in another one.
        is_field = same[1] in message.fields_by_name
        other = (
            f"{message.full_name}.{same[1]}" if is_field else f"{message.file.package}.{same[1]}.{field.name}"
        )
        text = " ".join(comments.get(other, "").split())
    clause = re.split(r"[.;(]", text, maxsplit=1)[0]
    words = _WORDS.findall(clause) if clause.startswith('"') else []
    return [word for word in words if word not in excluded] if len(words) > 1 else []


class _Reasons:
    """The error reasons of methods, as the comments of methods and services list them.

    *with_resource*: full names of the methods whose path names a resource.
    """

    def __init__(self, comments: Mapping[str, str], with_resource: Collection[str]) -> None:
        self._comments, self._with_resource = comments, with_resource
        enum = ErrorReason.DESCRIPTOR.full_name
        self._descriptions = {
            name: to_markdown(comments.get(f"{enum}.{name}", ""), {}) for name in ErrorReason.keys()[1:]
        }

    def of(self, method: MethodDescriptor) -> list[ErrorCase]:
        """Return the errors of *method*, in the order of ErrorReason."""
        # Services list it for all of their methods, also for those that create or list resources.
        names = {*_COMMON_REASONS, *self._named(method.containing_service.full_name)} - {_NOT_FOUND}
        names |= self._of_method(method)
        if method.full_name in self._with_resource:
            names.add(_NOT_FOUND)
        names |= {*_CREDENTIAL_REASONS}
        if _is_public(method):
            # Callers without a credential are limited by address.
            names -= {*_CREDENTIAL_REASONS} - {"RATE_LIMIT_EXCEEDED"}
        notes = dict(_NOTE.findall(" ".join(self._comments.get(method.full_name, "").split())))
        return [
            ErrorCase(_http_status(name), name, f"{text} Here: {notes[name]}." if name in notes else text)
            for name, text in self._descriptions.items()
            if name in names and _JOB_ONLY not in text
        ] + [ErrorCase(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "FIELD_INVALID", _HEAD_TOO_LARGE)]

    def _of_method(self, method: MethodDescriptor) -> set[str]:
        comment = " ".join(self._comments.get(method.full_name, "").split())
        names = self._named(method.full_name)
        for reference in _REFERENCE.finditer(comment):
            other = method.containing_service.methods_by_name.get(reference[2] or "CreateDownload")
            if other is not None and other is not method:
                names |= self._of_method(other)
        if _SITE_REPORTS in comment:
            names |= {name for name in self._descriptions if _SITE_REASONS.fullmatch(name)}
        return names

    def _named(self, name: str) -> set[str]:
        return {word for word in _REASON.findall(self._comments.get(name, "")) if word in self._descriptions}


def _http_status(reason: str) -> int:
    spec = error_spec(ErrorReason.Value(reason))
    return spec.http_status or http_status_of(spec.code)
