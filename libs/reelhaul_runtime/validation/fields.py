"""What the protos' own options say of fields: read from descriptors, so that no list can go stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

from google.api import field_behavior_pb2
from google.protobuf import descriptor
from google.protobuf.message import Message

from reelhaul.type.v1 import method_policy_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import Grant, PermissionLevel
from reelhaul_runtime.errors import ReelhaulError, Violation
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.validation.violations import FieldNames, FieldViolations, same_name

_NOT_FOR_CALLERS = {field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER}


def clear_output(message: Message) -> None:
    """Clear what only the server writes, at every depth (AIP-203)."""
    for field, value in message.ListFields():
        if _is_output(field):
            message.ClearField(field.name)
        else:
            for inner in _messages(field, value):
                clear_output(inner)


def check_grants(
    message: Message, path: str, caller: Callable[[], Caller], names: FieldNames = same_name
) -> None:
    """Raise PERMISSION_INSUFFICIENT where a field is set that *caller* has no grant for.

    The field is reported as *names* calls it.
    """
    for field, value in message.ListFields():
        grant = _grant_of(field)
        if grant and caller().level < PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS:
            raise _ungranted(names(f"{path}.{field.name}"), grant, caller())
        for inner in _messages(field, value):
            check_grants(inner, f"{path}.{field.name}", caller, names)


def check_enums(message: Message, path: str, findings: FieldViolations) -> None:
    """Find numbers that name no value of their enum; proto3 lets them through."""
    for field, value in message.ListFields():
        if field.enum_type is not None:
            for number in value if field.is_repeated else [value]:
                if number not in field.enum_type.values_by_number:
                    findings.add(f"{path}.{field.name}", f"{number} is no {field.enum_type.name}")
        for inner in _messages(field, value):
            check_enums(inner, f"{path}.{field.name}", findings)


def _messages(field: descriptor.FieldDescriptor, value: object) -> Iterator[Message]:
    """The messages that *field* holds; none of a map, which ours have of scalars only."""
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return
    yield from value if field.is_repeated else [value]  # type: ignore[misc]


@cache
def _is_output(field: descriptor.FieldDescriptor) -> bool:
    behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return not _NOT_FOR_CALLERS.isdisjoint(behaviors)


@cache
def _grant_of(field: descriptor.FieldDescriptor) -> Grant.ValueType:
    grant: Grant.ValueType = field.GetOptions().Extensions[method_policy_pb2.grant]
    return grant


def _ungranted(path: str, grant: Grant.ValueType, who: Caller) -> ReelhaulError:
    name = Grant.Name(grant).removeprefix("GRANT_")
    return ReelhaulError(
        ErrorReason.PERMISSION_INSUFFICIENT,
        f"{path} needs the grant {name}",
        metadata={
            "required": name,
            "granted": PermissionLevel.Name(who.level).removeprefix("PERMISSION_LEVEL_"),
        },
        violations=[Violation(path, f"it needs the grant {name}")],
    )
