"""Limits of a tenant name themselves in their errors, and the last request within each limit is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contracts.test_schedule_store import request as schedule_request
from tests.contracts.test_schedule_store import schedule
from tests.job_stores import NOW, SqlStore, job, postgresql_store, request, sqlite_store
from tests.postgresql import fresh_database

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.storage.v1 import artifact_pb2
from reelhaul.storage.v1 import storage_service_pb2 as storage_pb
from reelhaul.type.v1 import media_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.api.downloads import requests as downloads
from reelhaul_jobs.api.jobs.validation import validate_and_normalize
from reelhaul_jobs.filters import JOB_FIELDS
from reelhaul_jobs.model import playlist_expansion, queue_transitions
from reelhaul_jobs.model import schedule as schedule_model
from reelhaul_jobs.model.job import Expansion
from reelhaul_jobs.model.job import Job as JobRecord
from reelhaul_jobs.model.playlist_expansion import MAX_LIVE_PER_TENANT
from reelhaul_jobs.model.states import Kind, QueueStage, State
from reelhaul_jobs.model.transition import Transition
from reelhaul_jobs.ports.jobs import Query
from reelhaul_jobs.service.event_hub import MAX_WATCHES_PER_TENANT, EventHub
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.filters.parser import MAX_TERMS, parse
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.page_tokens import PageTokens
from reelhaul_runtime.sql import migrations
from reelhaul_storage.api import queries
from reelhaul_storage.api import requests as storage_requests
from reelhaul_storage.catalog import uploads
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.model import NewArtifact, Upload

TOKENS = PageTokens("secret")
NUL = "a\0b"


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlStore]:
    """The stores of jobs, on a new database."""
    async with sqlite_store(tmp_path) if request.param == "sqlite" else postgresql_store() as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    """The catalog of storage, on a new database."""
    if request.param == "sqlite":
        async with open_catalog(f"sqlite:///{tmp_path}/storage.db") as opened:
            yield opened
    else:
        with fresh_database() as url:
            async with open_catalog(url) as opened:
                yield opened


@asynccontextmanager
async def open_catalog(url: str) -> AsyncIterator[SqlCatalog]:
    await asyncio.to_thread(migrations.migrate_if_behind, url, "reelhaul_storage")
    async with SqlCatalog.open(url) as opened:
        yield opened


def expansion(number: int, **fields: object):
    return job(number, kind=Kind.EXPANSION, expansion=Expansion(max_entries=10), **fields)


def assert_quota(failure: pytest.ExceptionInfo[ReelhaulError], metric: str) -> None:
    assert failure.value.reason == ErrorReason.QUOTA_EXCEEDED
    assert metric == failure.value.metadata["quotaMetric"]


def test_watches() -> None:
    """A tenant has a limited number of watches; another tenant, and the first after one ended, may watch."""
    hub = EventHub()
    with ExitStack() as watches:
        for _ in range(MAX_WATCHES_PER_TENANT - 1):
            watches.enter_context(hub.watcher_slot("acme"))
        with hub.watcher_slot("acme"):
            with pytest.raises(ReelhaulError) as failure, hub.watcher_slot("acme"):
                pass
            assert_quota(failure, "watches")
            with hub.watcher_slot("other"), hub.watcher_slot(None):
                pass
        with hub.watcher_slot("acme"):
            pass


async def test_live_expansions(store: SqlStore) -> None:
    """A tenant creates a limited number of playlist jobs that have not ended, each alone or many at once."""
    await store.add([expansion(number) for number in range(MAX_LIVE_PER_TENANT - 1)])
    last = expansion(MAX_LIVE_PER_TENANT)
    await store.add([last], request())
    for key in (None, request(2)):
        with pytest.raises(ReelhaulError) as failure:
            await store.add([expansion(MAX_LIVE_PER_TENANT + 1)], key)
        assert_quota(failure, "live_expansions")
    assert (await store.list_page(Query(tenant="acme", limit=1))).total == MAX_LIVE_PER_TENANT
    # A repeated call returns its job; single videos and other tenants are not concerned.
    assert [last] == list(await store.add([expansion(MAX_LIVE_PER_TENANT + 2)], request()))
    await store.add([job(5001)])
    await store.add([expansion(5002, tenant="other")])


async def test_ended_expansions(store: SqlStore) -> None:
    """Playlist jobs that have ended take no place; to retry one takes one."""
    ended = {"state": State.CANCELLED, "queue_stage": QueueStage.IDLE, "due": None, "end_time": NOW}
    live = [expansion(number) for number in range(MAX_LIVE_PER_TENANT)]
    await store.add([replace(live[0], **ended), *live[1:]])

    def retry(before: JobRecord) -> Transition:
        return queue_transitions.retry(before, NOW)

    assert (await store.change(live[0].id, retry)).job.state is State.QUEUED
    await store.change(live[1].id, lambda before: Transition(before=before, job=before.bump(NOW, **ended)))
    await store.add([expansion(MAX_LIVE_PER_TENANT)])
    for call in (store.change(live[1].id, retry), store.change_many([live[1].id], retry)):
        with pytest.raises(ReelhaulError) as failure:
            await call
        assert_quota(failure, "live_expansions")
    assert (await store.get(live[1].id)).state is State.CANCELLED


async def test_schedules(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant has a limited number of schedules; another tenant, and after a deletion this one, adds one."""
    monkeypatch.setattr(schedule_model, "MAX_PER_TENANT", 2)
    await store.schedules.add(schedule("one"), None)
    await store.schedules.add(schedule("two"), schedule_request())
    for key in (None, schedule_request(2)):
        with pytest.raises(ReelhaulError) as failure:
            await store.schedules.add(schedule("three"), key)
        assert_quota(failure, "schedules")
    # A repeated call returns its schedule.
    assert (await store.schedules.add(schedule("four"), schedule_request())).id == "two"
    await store.schedules.add(schedule("three", tenant="other"), None)
    await store.schedules.delete("acme", "one", lambda _: None)
    await store.schedules.add(schedule("three"), None)


async def test_unfinished_uploads(catalog: SqlCatalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant has a limited number of unfinished uploads; deleting one makes room."""
    monkeypatch.setattr(uploads, "MAX_UPLOADS_PER_TENANT", 3)

    def upload(number: int, tenant: str = "one", request_id: str = "") -> Upload:
        draft = NewArtifact(tenant=tenant, expire_time=NOW + timedelta(hours=1))
        end = NOW + timedelta(days=1)
        upload_id = f"00000000-0000-4000-8000-{number:012}"
        return Upload(upload_id, draft, NOW, end, request_id=request_id, request_digest=request_id)

    for number in (1, 2):
        await catalog.add_upload(upload(number))
    last = await catalog.add_upload(upload(3, request_id="r"))
    with pytest.raises(ReelhaulError) as failure:
        await catalog.add_upload(upload(4))
    assert_quota(failure, "unfinished_uploads")
    assert len(await catalog.list_uploads("one", None, 9)) == 3
    # Another tenant, a repeated call and, once one is gone, a new one are served.
    await catalog.add_upload(upload(5, tenant="two"))
    assert last.id == (await catalog.add_upload(upload(6, request_id="r"))).id
    await catalog.delete_uploads([last.id])
    await catalog.add_upload(upload(7))


def test_filter_terms() -> None:
    """A filter of the most terms is parsed; one more is FILTER_INVALID and names the limit."""
    terms = ['url = "a"'] * MAX_TERMS
    assert parse(" AND ".join(terms), JOB_FIELDS)
    with pytest.raises(ReelhaulError) as failure:
        parse(" AND ".join([*terms, terms[0]]), JOB_FIELDS)
    assert failure.value.reason == ErrorReason.FILTER_INVALID
    assert str(MAX_TERMS) in failure.value.text


@pytest.mark.parametrize(
    "text",
    [f'url = "{NUL}"', f'labels.team = "{NUL}"', f'media.title = "*{NUL}*"', "state = QUEUED AND \0"],
)
def test_nul_in_filters(text: str) -> None:
    """NUL in a filter is FILTER_INVALID with its position; the same filter without it is parsed."""
    with pytest.raises(ReelhaulError) as failure:
        parse(text, JOB_FIELDS)
    assert failure.value.reason == ErrorReason.FILTER_INVALID
    assert str(text.index("\0")) == failure.value.metadata["position"]
    assert parse(text.replace(" AND \0", "").replace("\0", ""), JOB_FIELDS)


@pytest.mark.parametrize("field", ["url_contains", "batch_id"])
async def test_nul_in_lists_of_downloads(store: SqlStore, field: str) -> None:
    """NUL in a text to search for is FIELD_INVALID and names the field; a text without it is searched for."""
    with pytest.raises(ReelhaulError) as failure:
        downloads.list_query(flat.ListDownloadsRequest(**{field: NUL}), "acme", TOKENS)
    assert failure.value.reason == ErrorReason.FIELD_INVALID
    assert field == failure.value.metadata["field"]
    query = downloads.list_query(flat.ListDownloadsRequest(**{field: "\x01ab"}), "acme", TOKENS)
    assert not (await store.list_page(query)).jobs


def test_nul_in_labels_of_jobs() -> None:
    """NUL in a label's value is FIELD_INVALID and names the label; other control characters are kept."""
    identity.set_caller(Caller("acme", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS))
    url = "https://videos.example/1"
    with pytest.raises(ReelhaulError) as failure:
        validate_and_normalize(Job(url=url, labels={"team": NUL}), NOW)
    assert failure.value.reason == ErrorReason.FIELD_INVALID
    assert failure.value.metadata["field"] == "job.labels.team"
    assert validate_and_normalize(Job(url=url, labels={"team": "a\nb"}), NOW).labels["team"] == "a\nb"


def test_nul_in_storage() -> None:
    """NUL in labels, filters and tenants of storage is refused; the same values without it are not."""
    artifact = artifact_pb2.Artifact(labels={"team": NUL})
    hour = timedelta(hours=1)
    with pytest.raises(ReelhaulError) as failure:
        storage_requests.new_artifact_from_proto(artifact, "artifact", NOW, hour)
    assert failure.value.reason == ErrorReason.FIELD_INVALID
    artifact.labels["team"] = "ab"
    assert storage_requests.new_artifact_from_proto(artifact, "artifact", NOW, hour).labels == {"team": "ab"}
    caller = Caller("local", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS)
    with pytest.raises(ReelhaulError) as failure:
        queries.query_from_proto(storage_pb.ListArtifactsRequest(filter=f'job = "{NUL}"'), 1, caller)
    assert failure.value.reason == ErrorReason.FILTER_INVALID
    assert queries.query_from_proto(storage_pb.ListArtifactsRequest(filter='job = "ab"'), 1, caller).where
    with pytest.raises(ReelhaulError) as failure:
        storage_requests.sha256_from_proto(storage_pb.FindArtifactsRequest(sha256=[bytes(32)], tenant=NUL))
    assert failure.value.reason == ErrorReason.FIELD_INVALID
    assert storage_requests.sha256_from_proto(
        storage_pb.FindArtifactsRequest(sha256=[bytes(32)], tenant="acme")
    )


async def test_nul_in_what_a_worker_reports(store: SqlStore) -> None:
    """NUL in the name of an extractor and in a title is dropped: the entries become jobs, once each."""
    new = Expansion(max_entries=10, new_entries_only=True)
    parent = job(1, kind=Kind.EXPANSION, expansion=new, state=State.RUNNING, schedule="nightly")
    parent = replace(parent, media=media_pb2.MediaInfo(extractor="Vi\0deos", title="A\0list"))
    entries = [
        media_pb2.PlaylistEntry(url="https://videos.example/1", media_id=media_id, position=position)
        for position, media_id in enumerate(("one", "two"), 1)
    ]
    change = playlist_expansion.add_children(
        Transition(before=parent, job=parent), entries, {("Videos", "two")}, NOW
    )
    assert change.seen_entries == (("Videos", "one"),)
    await store.add([parent, *change.children])
