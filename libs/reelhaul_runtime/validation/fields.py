"""Field options: rules that the protos state for fields, read from the descriptors."""

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

_OUTPUT_BEHAVIORS = {field_behavior_pb2.OUTPUT_ONLY, field_behavior_pb2.IDENTIFIER}


def clear_output(message: Message) -> None:
    """Clear output-only fields and identifiers at every depth (AIP-203)."""
    for field, value in message.ListFields():
        if _is_output(field):
            message.ClearField(field.name)
        else:
            for nested in _nested_messages(field, value):
                clear_output(nested)


def check_grants(
    message: Message, path: str, caller: Callable[[], Caller], names: FieldNames = same_name
) -> None:
    """Raise PERMISSION_INSUFFICIENT if a field is set that *caller* has no grant for.

    The field is reported by the name that *names* returns.
    """
    for field, value in message.ListFields():
        grant = _required_grant(field)
        if grant and caller().level < PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS:
            raise _insufficient(names(f"{path}.{field.name}"), grant, caller())
        for nested in _nested_messages(field, value):
            check_grants(nested, f"{path}.{field.name}", caller, names)


def check_enums(message: Message, path: str, violations: FieldViolations) -> None:
    """Add a violation for each field with a number that is no value of its enum, which proto3 accepts."""
    for field, value in message.ListFields():
        if field.enum_type is not None:
            known = field.enum_type.values_by_number
            unknown = (number for number in (value if field.is_repeated else [value]) if number not in known)
            if (number := next(unknown, None)) is not None:
                violations.add(f"{path}.{field.name}", f"{number} is not a {field.enum_type.name}")
        for nested in _nested_messages(field, value):
            check_enums(nested, f"{path}.{field.name}", violations)


def _nested_messages(field: descriptor.FieldDescriptor, value: object) -> Iterator[Message]:
    """Yield the messages in *field*; none of a map, whose values are all scalars in our protos."""
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return
    yield from value if field.is_repeated else [value]  # type: ignore[misc]


@cache
def _is_output(field: descriptor.FieldDescriptor) -> bool:
    behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return not _OUTPUT_BEHAVIORS.isdisjoint(behaviors)


@cache
def _required_grant(field: descriptor.FieldDescriptor) -> Grant.ValueType:
    grant: Grant.ValueType = field.GetOptions().Extensions[method_policy_pb2.grant]
    return grant


def _insufficient(path: str, grant: Grant.ValueType, caller: Caller) -> ReelhaulError:
    name = Grant.Name(grant).removeprefix("GRANT_")
    return ReelhaulError(
        ErrorReason.PERMISSION_INSUFFICIENT,
        f"{path} requires the grant {name}",
        metadata={
            "required": name,
            "granted": PermissionLevel.Name(caller.level).removeprefix("PERMISSION_LEVEL_"),
        },
        violations=[Violation(path, f"requires the grant {name}")],
    )
