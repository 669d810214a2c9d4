"""What a list asks for, and the tokens that lead from page to page."""

from __future__ import annotations

from collections.abc import Iterable

from reelhaul.jobs.v1 import job_pb2, job_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api import fields
from reelhaul_jobs.api.jobs import messages as to_jobs
from reelhaul_jobs.filters import ast
from reelhaul_jobs.filters.fields import ADMIN_FIELDS, JOB_FIELDS
from reelhaul_jobs.filters.parser import parse
from reelhaul_jobs.model.lists import Order
from reelhaul_jobs.ports.jobs import Page, Query
from reelhaul_jobs.service.jobs import JobView, Owner
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.page_tokens import PageTokens

# A client takes answers of 4 MiB by default.
_HEAVIEST = 3_500_000


def query_of(request: job_service_pb2.ListJobsRequest, who: Caller, tokens: PageTokens) -> Query:
    """The page that *request* asks for. FILTER_INVALID, ORDER_BY_INVALID, PAGE_TOKEN_INVALID."""
    owner, where = reach_of(request.filter, who)
    order, descending = _order_of(request.order_by, owner)
    after = total = None
    if position := tokens.read(_arguments(request, owner), request.page_token):
        time, job_id, total = position
        after = time, job_id
    return Query(
        tenant=owner,
        limit=fields.page_size(request.page_size),
        order=order,
        descending=descending,
        after=after,
        skip=fields.between(request.skip, "skip", 0, 10_000),
        where=where,
        total=total,
    )


def reach_of(text: str, who: Caller) -> tuple[Owner, ast.Node | None]:
    """Whose jobs a filter is about, and which of them. FILTER_INVALID.

    One's own, but for who may see every tenant's and names ``tenant``, and for services of ours.
    """
    sees_all = who.suite or who.level >= PermissionLevel.PERMISSION_LEVEL_ADMIN
    where = parse(text, ADMIN_FIELDS if sees_all else JOB_FIELDS)
    if only := ast.required_value(where, "tenant"):
        return only, where
    everyone = who.suite or (where is not None and ast.mentions_field(where, "tenant"))
    return None if everyone else who.tenant, where


def answer_of(
    request: job_service_pb2.ListJobsRequest,
    query: Query,
    page: Page,
    shown: Iterable[JobView],
    tokens: PageTokens,
) -> job_service_pb2.ListJobsResponse:
    """*page*, told as *shown*: fewer jobs than asked where they would be too heavy for one answer."""
    view = request.view or job_service_pb2.JOB_VIEW_BASIC
    answer, heavy = job_service_pb2.ListJobsResponse(total_size=page.total), 0
    for seen in shown:
        job = to_jobs.proto_of(seen, view)
        heavy += job.ByteSize()
        if answer.jobs and heavy > _HEAVIEST:
            break
        answer.jobs.append(job)
    if page.has_more or len(answer.jobs) < len(page.jobs):
        position = query.order.sort_key(page.jobs[len(answer.jobs) - 1])
        answer.next_page_token = tokens.create(_arguments(request, query.tenant), *position, page.total)
    return answer


def light_enough(jobs: list[job_pb2.Job]) -> list[job_pb2.Job]:
    """*jobs*, if one answer can hold them. FIELD_INVALID."""
    if sum(job.ByteSize() for job in jobs) > _HEAVIEST:
        raise FieldInvalid("names", "these jobs are too large for one answer: ask for fewer")
    return jobs


def _order_of(text: str, owner: Owner) -> tuple[Order, bool]:
    """The order that *text* asks for, and whether the latest come first."""
    words = text.split() or [Order.CREATED.value, "desc"]
    known = {order.value: order for order in Order}
    if words[0] not in known or words[1:] not in ([], ["asc"], ["desc"]):
        raise _no_order(text, f"jobs are ordered by one of {', '.join(known)}, each also with desc")
    order = known[words[0]]
    if owner is None and order is not Order.CREATED:
        raise _no_order(text, "jobs of several tenants are ordered by create_time only")
    return order, words[1:] == ["desc"]


def _no_order(text: str, why: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.ORDER_BY_INVALID, why, metadata={"field": text[:64]})


def _arguments(request: job_service_pb2.ListJobsRequest, owner: Owner) -> str:
    """What must be the same from page to page."""
    return repr((owner, request.filter, request.order_by.split()))


def below(job_id: str, token: str, tokens: PageTokens) -> int | None:
    """Return the attempt number that a page of attempts stays under; None for the first page."""
    position = tokens.read(f"attempts of {job_id}", token)
    return position[0] if position else None


def below_token(job_id: str, last: int, tokens: PageTokens) -> str:
    """Return the token of the attempts under number *last*."""
    return tokens.create(f"attempts of {job_id}", last)
