"""Audit entries: what the audit log says of a call, read from its messages by their descriptors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from google.api import resource_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import status_pb2

from reelhaul.admin.v1.audit_entry_pb2 import AuditEntry
from reelhaul_runtime import logs
from reelhaul_runtime.auth.calls import IncomingCall
from reelhaul_runtime.uuid7 import new_id

#: Entries of one call: a batch has one per resource.
MAX_PER_CALL = 1000
# Names are those of the request, which may be anything.
_MAX_NAME, _MAX_PATHS, _MAX_TEXT = 300, 50, 512


def entries_of(call: IncomingCall, status: status_pb2.Status, now: datetime) -> Sequence[AuditEntry]:
    """Return the entries of *call*, which ended with *status*: one for each resource, at least one."""
    entry = AuditEntry(
        method=call.path.removeprefix("/"),
        address=call.peer.address,
        status=status_pb2.Status(
            code=status.code, message=status.message[:_MAX_TEXT], details=status.details[:1]
        ),
        changed_paths=_changed_paths(call.request),
        call_id=logs.request_id.get(),
    )
    entry.create_time.FromDatetime(now)
    if call.caller is not None:
        entry.principal, entry.tenant = call.caller.principal, call.caller.tenant
        if entry.principal.startswith("apiKeys/"):
            entry.api_key = entry.principal
    entries = []
    for name in list(islice(resources_of(call), MAX_PER_CALL)) or [""]:
        copy = AuditEntry()
        copy.CopyFrom(entry)
        copy.name = f"auditEntries/{new_id(now)}"
        copy.resource = name[:_MAX_NAME]
        entries.append(copy)
    return entries


def resources_of(call: IncomingCall) -> Iterable[str]:
    """Return the names of the resources that *call* is about: of its request, else of its response."""
    request = call.request
    if isinstance(request, Message) and (names := list(_names_in(request))):
        return names
    return _results_in(call.response) if isinstance(call.response, Message) else ()


def _names_in(request: Message) -> Iterator[str]:
    for field, value in request.ListFields():
        reference = field.GetOptions().Extensions[resource_pb2.resource_reference]
        if reference.type or reference.child_type:
            yield from value if field.is_repeated else (value,)
        elif field.name == "job_id" and not field.is_repeated and not _creates(request):
            # DownloadService names jobs by their bare ids.
            yield f"jobs/{value}"
        elif _is_resource(field) and not field.is_repeated and value.name:
            yield value.name


def _creates(request: Message) -> bool:
    return request.DESCRIPTOR.name.startswith("Create")


def _results_in(response: Any) -> Iterator[str]:
    if "name" in response.DESCRIPTOR.fields_by_name:
        yield response.name
        return
    for field, value in response.ListFields():
        if _is_resource(field) and field.is_repeated:
            yield from (each.name for each in value)


def _is_resource(field: FieldDescriptor) -> bool:
    if (message := field.message_type) is None or message.GetOptions().map_entry:
        return False
    return bool(message.GetOptions().Extensions[resource_pb2.resource].type)


def _changed_paths(request: Any) -> list[str]:
    """Return the fields that an update changes: those of its mask, or else those that it sets."""
    if not isinstance(request, Message) or "update_mask" not in request.DESCRIPTOR.fields_by_name:
        return []
    paths: Iterable[str] = request.update_mask.paths  # type: ignore[attr-defined]
    if not paths:
        resources = (value for field, value in request.ListFields() if _is_resource(field))
        paths = [field.name for each in resources for field, _ in each.ListFields()]
    return [path[:_MAX_NAME] for path in islice(paths, _MAX_PATHS) if path not in ("name", "etag")]
