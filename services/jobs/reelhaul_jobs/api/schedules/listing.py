"""ListSchedules: a tenant has so few that they are filtered, ordered and paged in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from reelhaul.jobs.v1 import schedule_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.schedules.messages import schedule_to_proto
from reelhaul_jobs.model.schedule import Schedule, ScheduleState
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.ast import Field, FieldKind
from reelhaul_runtime.filters.evaluate import Facts, matches
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size

_FIELDS: Mapping[str, Field] = {
    "state": Field(FieldKind.ENUM, {state.name: int(state) for state in ScheduleState}),
    "job_template.url": Field(FieldKind.PATTERN),
    "create_time": Field(FieldKind.TIME),
    "next_run_time": Field(FieldKind.TIME),
}
_NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def list_response(
    request: schedule_service_pb2.ListSchedulesRequest, schedules: Sequence[Schedule], tokens: PageTokens
) -> schedule_service_pb2.ListSchedulesResponse:
    """Return the requested page of a tenant's *schedules*.

    FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID.
    """
    size, where = limit_page_size(request.page_size), parse(request.filter, _FIELDS)
    order, descending = _parse_order(request.order_by)
    arguments = repr(("schedules", request.filter, request.order_by.split()))
    matching = [each for each in schedules if where is None or matches(where, _facts_of(each))]
    matching.sort(key=lambda each: _position(each, order), reverse=descending)
    if last := tokens.read(arguments, request.page_token):
        matching = [each for each in matching if (_position(each, order) < last) is descending]
        matching = [each for each in matching if _position(each, order) != last]
    page = matching[:size]
    return schedule_service_pb2.ListSchedulesResponse(
        schedules=[schedule_to_proto(each) for each in page],
        next_page_token=tokens.create(arguments, *_position(page[-1], order)) if matching[size:] else "",
    )


def _parse_order(text: str) -> tuple[str, bool]:
    """Return the field that *text* orders by, and whether it is descending."""
    words = text.split() or ["create_time", "desc"]
    if words[0] not in ("create_time", "next_run_time") or words[1:] not in ([], ["asc"], ["desc"]):
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            "schedules are ordered by create_time or next_run_time, each also with desc",
            metadata={"field": text[:64]},
        )
    return words[0], words[1:] == ["desc"]


def _position(schedule: Schedule, order: str) -> tuple[datetime, str]:
    time = schedule.create_time if order == "create_time" else _next_run(schedule)
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
