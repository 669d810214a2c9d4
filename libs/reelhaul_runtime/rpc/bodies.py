"""Bodies: what requests and responses contain, for the log, without secrets and within bounds."""

from __future__ import annotations

import logging
import re
from itertools import islice
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from reelhaul.api_keys import PREFIX
from reelhaul_runtime.redaction import redact_urls
from reelhaul_runtime.rpc.policy import method_descriptor

#: Logs at DEBUG. It has a level of its own (`logs.configure`): bodies are data of users.
log = logging.getLogger("reelhaul_runtime.rpc.bodies")

_SECRET = "[secret]"  # noqa: S105 - what is written in place of one
# An API key, wherever a caller has put it, whole or not.
_KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]*")
_MAX_TEXT, _MAX_ITEMS, _MAX_DEPTH = 500, 50, 8
# Fields of one body, nested ones included.
_MAX_FIELDS = 500


def log_bodies(path: str, request: object, response: object) -> None:
    """Log *request* and *response* of a call of *path* as far as they are messages, if that is enabled."""
    if log.isEnabledFor(logging.DEBUG):
        extra: dict[str, object] = {"rpc": path}
        if isinstance(request, Message):
            extra["request"] = describe_message(request)
        if isinstance(response, bytes):
            response = _parse_response(path, response)
        if isinstance(response, Message):
            extra["response"] = describe_message(response)
        log.debug("rpc bodies", extra=extra)


def describe_message(message: Message) -> dict[str, Any]:
    """Return the fields of *message* that are set, as JSON values.

    Fields that are secrets (``debug_redact`` in the protos) are replaced, URLs lose user info, query and
    fragment, bytes are counted, and long texts and lists are cut.
    """
    return _Description().describe(message, 0)


class _Description:
    def __init__(self) -> None:
        self._fields_left = _MAX_FIELDS

    def describe(self, message: Message, depth: int) -> dict[str, Any]:
        if depth >= _MAX_DEPTH:
            return {}
        result: dict[str, Any] = {}
        for field, value in message.ListFields():
            if self._fields_left <= 0:
                break
            result[field.name] = self._describe_field(field, value, depth)
        return result

    def _describe_field(self, field: FieldDescriptor, value: Any, depth: int) -> Any:
        self._fields_left -= 1
        # Tokens of pages and streams tell nothing; callers have put keys there.
        if field.GetOptions().debug_redact or field.name.endswith("_token"):
            return _SECRET
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name["value"]
            return {
                str(key)[:_MAX_TEXT]: self._describe_value(entry, value[key], depth)
                for key in islice(sorted(value), _MAX_ITEMS)
            }
        if field.is_repeated:
            return [self._describe_value(field, each, depth) for each in islice(value, _MAX_ITEMS)]
        return self._describe_value(field, value, depth)

    def _describe_value(self, field: FieldDescriptor, value: Any, depth: int) -> Any:
        if field.message_type is not None:
            return self.describe(value, depth + 1)
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            return known.name if known is not None else value
        if isinstance(value, bytes):
            return f"[{len(value)} bytes]"
        return _KEY.sub(_SECRET, redact_urls(value))[:_MAX_TEXT] if isinstance(value, str) else value


def _parse_response(path: str, response: bytes) -> Message | None:
    """Return the message that a servicer serialized itself."""
    try:
        parsed: Message = GetMessageClass(method_descriptor(path).output_type).FromString(response)
    except DecodeError:
        return None
    return parsed
