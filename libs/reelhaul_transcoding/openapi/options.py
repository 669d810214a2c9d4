"""Options of OpenAPI documents: what the protos do not say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor, ServiceDescriptor

#: A part of the document: an object of OpenAPI or JSON Schema.
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ErrorCase:
    """One way in which a method fails."""

    http_status: int
    #: A word to branch on, e.g. ErrorInfo.reason.
    reason: str
    #: Markdown.
    description: str


@dataclass(frozen=True)
class DocumentOptions:
    """What a document holds beside the routes. The defaults suit any service."""

    info: Mapping[str, Any]
    servers: Sequence[Mapping[str, Any]] = ({"url": "/"},)
    #: From ``read_comments``.
    comments: Mapping[str, str] = field(default_factory=dict)
    #: Whether the document describes a method.
    include: Callable[[MethodDescriptor], bool] = lambda method: True
    #: Tag of the operations of a service, under which documents group them; default: its name.
    tag: Callable[[ServiceDescriptor], str] = lambda service: str(service.name)
    #: Markdown after the description of a method.
    note: Callable[[MethodDescriptor], str] = lambda method: ""
    #: The errors of a method, beside those of the transcoder itself.
    errors: Callable[[MethodDescriptor], Sequence[ErrorCase]] = lambda method: ()
    #: Messages that the details of errors hold.
    error_details: Sequence[Descriptor] = ()
    #: Keywords of JSON Schema for a field, from its descriptor and comment: bounds, formats, examples.
    constrain: Callable[[FieldDescriptor, str], Mapping[str, Any]] = lambda field, comment: {}
    security_schemes: Mapping[str, Any] = field(default_factory=dict)
    #: The security requirements of a method; empty: it needs no credential.
    security: Callable[[MethodDescriptor], Sequence[Mapping[str, Sequence[str]]]] = lambda method: ()
    #: Examples of request and response bodies by the full name of a method: {"request": …, "response": …}.
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Operations that the host serves itself, by path and HTTP method: added, or in place of the routes'.
    operations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Tags in the order of the document; those of other services follow. One without a description gets the
    #: comment of its service.
    tags: Sequence[Mapping[str, Any]] = ()
