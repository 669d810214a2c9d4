"""What a list asks for, and the tokens that lead from page to page."""

from __future__ import annotations

import uuid
from datetime import datetime

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.convert import names
from reelhaul_jobs.filters.fields import JOB_FIELDS
from reelhaul_jobs.filters.parsing import parse
from reelhaul_jobs.ports import Page, Query
from reelhaul_jobs.service.tokens import Tokens
from reelhaul_runtime.errors import ReelhaulError

_ORDERS = {"": True, "create_time desc": True, "create_time": False, "create_time asc": False}


def query_of(
    request: job_service_pb2.ListJobsRequest, tenant: str | None, tokens: Tokens, now: datetime
) -> Query:
    """The page that *request* asks for. FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID."""
    order = " ".join(request.order_by.split())
    if order not in _ORDERS:
        raise ReelhaulError(
            ErrorReason.ORDER_BY_INVALID,
            "jobs are ordered by create_time, or by create_time desc",
            metadata={"field": order[:64]},
        )
    after = None
    if request.page_token:
        moment, key = tokens.after(_arguments(request, tenant), request.page_token, now)
        after = moment, str(uuid.UUID(bytes=key))
    return Query(
        tenant=tenant,
        limit=names.page_size(request.page_size),
        descending=_ORDERS[order],
        after=after,
        skip=names.between(request.skip, "skip", 0, 10_000),
        where=parse(request.filter, JOB_FIELDS),
    )


def next_token(
    request: job_service_pb2.ListJobsRequest, tenant: str | None, page: Page, tokens: Tokens, now: datetime
) -> str:
    """The token of the page after *page*; empty at the end."""
    if not page.more:
        return ""
    last = page.jobs[-1]
    return tokens.page(_arguments(request, tenant), (last.create_time, uuid.UUID(last.id).bytes), now)


def _arguments(request: job_service_pb2.ListJobsRequest, tenant: str | None) -> str:
    """What must be the same from page to page."""
    return repr((tenant, request.filter, " ".join(request.order_by.split())))


def below(job_id: str, token: str, tokens: Tokens, now: datetime) -> int | None:
    """The attempt number that a page of attempts stays under; None for the first page."""
    if not token:
        return None
    return int.from_bytes(tokens.after(f"attempts of {job_id}", token, now)[1])


def below_token(job_id: str, last: int, tokens: Tokens, now: datetime) -> str:
    """The token of the attempts under number *last*."""
    return tokens.page(f"attempts of {job_id}", (now, last.to_bytes(16)), now)
