"""A filter matches the same jobs in memory, on SQLite and on PostgreSQL."""

from __future__ import annotations

from datetime import timedelta

from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.job_stores import NOW, job

from reelhaul.type.v1 import media_pb2
from reelhaul_jobs.filters import JOB_FIELDS, job_facts
from reelhaul_jobs.model.job import Job
from reelhaul_jobs.model.states import Priority, State
from reelhaul_jobs.ports.jobs import Query
from reelhaul_runtime.filters.evaluate import matches
from reelhaul_runtime.filters.parser import parse


def failed(reason: str) -> status_pb2.Status:
    status = status_pb2.Status(code=5)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="reelhaul.dev"))
    return status


JOBS: list[Job] = [
    job(1, state=State.FAILED, error=failed("MEDIA_NOT_FOUND"), end_time=NOW),
    job(2, priority=Priority.HIGH, labels={"team": "a", "a-b": "100%_"}, batch_id="b1"),
    job(3, url="https://Other.example/100%_\\*", labels={}),
    job(4, media=media_pb2.MediaInfo(title="A 'Title'", extractor="generic"), state=State.SUCCEEDED),
]
TERMS = [
    "state = FAILED",
    "state != SUCCEEDED",
    "priority = HIGH",
    "error.reason = MEDIA_NOT_FOUND",
    "labels.team = a",
    "labels.team != a",
    "labels:a-b",
    'labels.a-b = "100%_"',
    'labels.album = "Ünïcode"',
    'url = "*VIDEOS.*"',
    'url = "*100%_*"',
    'url = "*_\\\\\\*"',
    'url = "https://other*"',
    'media.title = "a \'T*"',
    "media.extractor = generic",
    "batch_id = b1",
    f"create_time > {(NOW + timedelta(seconds=2)).isoformat()}",
    f"create_time <= {(NOW + timedelta(seconds=3)).isoformat()}",
    f"end_time = {NOW.isoformat()}",
    f"end_time != {NOW.isoformat()}",
    "end_time < 2100-01-01",
]
FILTERS = st.recursive(
    st.sampled_from(TERMS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        inner.map(lambda text: f"NOT ({text})"),
    ),
    max_leaves=4,
)


async def matching(store, text: str) -> set[str]:
    node = parse(text, JOB_FIELDS)
    page = await store.list_page(Query(tenant=None, limit=10, where=node))
    assert page.total == len(page.jobs)
    return {found.id for found in page.jobs}


async def test_every_term(store):
    """Each kind of term matches the same jobs as in memory, and none matches all or nothing."""
    await store.add(JOBS)
    for text in TERMS:
        node = parse(text, JOB_FIELDS)
        expected = {one.id for one in JOBS if node is not None and matches(node, job_facts(one))}
        assert await matching(store, text) == expected, text
        assert 0 < len(expected) < len(JOBS), text


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(FILTERS, min_size=5, max_size=10))
async def test_any_combination(store, texts):
    """However terms are combined and negated, with unset fields too, the store agrees with memory."""
    if not (await store.list_page(Query(tenant=None, limit=1))).jobs:
        await store.add(JOBS)
    for text in texts:
        node = parse(text, JOB_FIELDS)
        assert node is not None
        expected = {one.id for one in JOBS if matches(node, job_facts(one))}
        assert await matching(store, text) == expected, text


async def test_other_tenants_jobs_stay_hidden(store):
    """No filter matches jobs of another tenant."""
    await store.add([*JOBS, job(5, tenant="other")])
    node = parse("NOT state = CANCELLED", JOB_FIELDS)
    page = await store.list_page(Query(tenant="other", limit=10, where=node))
    assert [found.tenant for found in page.jobs] == ["other"]
