"""Requests of resources: names, masks, durations, and messages that callers give in either form."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf import duration_pb2, field_mask_pb2, json_format
from google.protobuf.message import Message

from reelhaul._core.errors import RequestInvalid
from reelhaul._core.methods import Method

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
M = TypeVar("M", bound=Message)

#: Of lists that are read to their end.
PAGE_SIZE = 100


class Call(Protocol):
    """Calls a method, with retries. Raises CallFailed."""

    async def __call__(self, method: Method[Q, R], request: Q) -> R: ...


async def iterate_pages(call: Call, method: Method[Q, R], request: Q) -> AsyncGenerator[R, None]:
    """Yield the pages of a list, from that of *request* to the last one. AIP-158."""
    following: Any = request
    while True:
        page: Any = await call(method, following)
        yield page
        if not page.next_page_token:
            return
        following.page_token = page.next_page_token


def to_message(message: type[M], value: M | Mapping[str, Any]) -> M:
    """Return a copy of *value*, which is a message or one in JSON. Raises RequestInvalid if it is neither."""
    built = message()
    if isinstance(value, Mapping):
        try:
            json_format.ParseDict(dict(value), built)
        except json_format.ParseError as error:
            raise RequestInvalid("INVALID_ARGUMENT", str(error), reason="FIELD_INVALID") from None
    else:
        built.CopyFrom(value)
    return built


def new_request_id() -> str:
    """Return an idempotency key: with it, a call that is repeated does nothing twice."""
    return str(uuid.uuid4())


def resource_name(collection: str, name: str) -> str:
    """Return the name of a resource; *name* may be its id alone."""
    return f"{collection}/{name.strip().removeprefix(f'{collection}/')}"


def to_mask(fields: Sequence[str]) -> field_mask_pb2.FieldMask:
    """Return *fields*, in snake_case or lowerCamelCase, as a mask."""
    return field_mask_pb2.FieldMask(
        paths=[re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", field) for field in fields]
    )


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Return *seconds*, to the millisecond."""
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(round(seconds * 1000))
    return duration
