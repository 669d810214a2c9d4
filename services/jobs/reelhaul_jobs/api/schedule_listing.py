"""ListSchedules: a tenant has so few that they are filtered, ordered and cut in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from reelhaul.jobs.v1 import schedule_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.schedule_messages import proto_of
from reelhaul_jobs.filters.ast import Field, FieldKind
from reelhaul_jobs.filters.evaluate import Facts, matches
from reelhaul_jobs.filters.parser import parse
from reelhaul_jobs.model.schedule import Schedule, ScheduleState
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.page_tokens import PageTokens

_FIELDS: Mapping[str, Field] = {
    "state": Field(FieldKind.ENUM, {state.name: int(state) for state in ScheduleState}),
    "job_template.url": Field(FieldKind.PATTERN),
    "create_time": Field(FieldKind.TIME),
    "next_run_time": Field(FieldKind.TIME),
}
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def page_of(
    request: schedule_service_pb2.ListSchedulesRequest,
    found: Sequence[Schedule],
    tokens: PageTokens,
) -> schedule_service_pb2.ListSchedulesResponse:
    """The page of *found* that *request* asks for. FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID."""
    size, where = fields.page_size(request.page_size), parse(request.filter, _FIELDS)
    field, descending = _order_of(request.order_by)
    arguments = repr(("schedules", request.filter, request.order_by.split()))
    kept = [one for one in found if where is None or matches(where, _facts_of(one))]
    kept.sort(key=lambda one: _place_of(one, field), reverse=descending)
    if last := tokens.read(arguments, request.page_token):
        kept = [one for one in kept if (_place_of(one, field) < last) is descending]
        kept = [one for one in kept if _place_of(one, field) != last]
    answer = schedule_service_pb2.ListSchedulesResponse(schedules=[proto_of(one) for one in kept[:size]])
    if kept[size:]:
        answer.next_page_token = tokens.create(arguments, *_place_of(kept[size - 1], field))
    return answer


def _order_of(text: str) -> tuple[str, bool]:
    words = text.split() or ["create_time", "desc"]
    if words[0] not in ("create_time", "next_run_time") or words[1:] not in ([], ["asc"], ["desc"]):
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            "schedules are ordered by create_time or next_run_time, each also with desc",
            metadata={"field": text[:64]},
        )
    return words[0], words[1:] == ["desc"]


def _place_of(schedule: Schedule, field: str) -> tuple[datetime, str]:
    time = schedule.create_time if field == "create_time" else _next_run(schedule)
    return time or _NEVER, schedule.id


def _next_run(schedule: Schedule) -> datetime | None:
    return schedule.next_run_time if schedule.state is ScheduleState.ENABLED else None


def _facts_of(schedule: Schedule) -> Facts:
    return {
        "state": int(schedule.state),
        "job_template.url": schedule.template.url,
        "create_time": schedule.create_time,
        "next_run_time": _next_run(schedule),
    }
