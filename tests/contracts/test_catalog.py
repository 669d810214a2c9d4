"""Contract of Catalog, run on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from tests.postgresql import migrated_database
from tests.sqlite import create_migrated_file

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.filters.parser import parse
from reelhaul_runtime.sql import migrations
from reelhaul_storage.api.queries import ADMIN_FIELDS, FIELDS
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable, BlobsMoved, OffsetConflict
from reelhaul_storage.model import (
    Artifact,
    BlobHealth,
    BlobLocation,
    Destination,
    NewArtifact,
    Query,
    TenantUsage,
    Upload,
    build_artifact,
)
from reelhaul_storage.ports import Catalog

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", "postgresql"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    if request.param == "sqlite":
        create_migrated_file("reelhaul_storage", tmp_path / "storage.db")
        async with SqlCatalog.open(f"sqlite:///{tmp_path}/storage.db") as opened:
            yield opened
    else:
        with migrated_database("reelhaul_storage") as url:
            async with SqlCatalog.open(url) as opened:
                yield opened


def _id(n: int) -> str:
    return str(UUID(int=n, version=4))


def _content(n: int) -> Digests:
    return Digests(n, f"{n:064x}", n)


def _upload(n: int, **draft: object) -> Upload:
    fields = {"tenant": "one", "expire_time": NOW + HOUR, "labels": {"k": "ü"}} | draft
    return Upload(_id(n), NewArtifact(**fields), NOW + timedelta(seconds=n), NOW + 24 * HOUR)


async def _finish_artifact(
    catalog: Catalog, n: int, content: Digests | None = None, **draft: object
) -> Artifact:
    """Create and finish artifact *n*, of *content* or of content of its own."""
    content = content or _content(n)
    upload = await catalog.add_upload(_upload(n, **draft))
    key = await catalog.claim_blob(upload.id, content, f"key-{n}", NOW, NOW + HOUR)
    now = NOW + timedelta(seconds=n)
    artifact = build_artifact(upload, content, key, id=_id(1000 + n), now=now, verify_time=now)
    return await catalog.finish_upload(upload.id, artifact)


def _allow(_: Artifact) -> None:
    """Allow every deletion."""


async def test_artifact_round_trip(catalog: Catalog):
    """An artifact is read back as it was written, to the microsecond."""
    artifact = await _finish_artifact(
        catalog,
        1,
        job="jobs/1",
        kind=ArtifactInfo.Kind.VIDEO,
        epoch=7,
        language_code="de",
        file_name="ü.mp4",
    )
    assert await catalog.get_artifact(artifact.id) == artifact
    with pytest.raises(NotFound):
        await catalog.get_artifact(_id(9))


async def test_upload_round_trip(catalog: Catalog):
    """An upload is read back as it was created, then with its claim, then with its artifact."""
    upload = await catalog.add_upload(_upload(1))
    assert await catalog.get_upload(upload.id) == upload
    assert await catalog.find_unfinished_uploads([upload.id, _id(9)]) == {upload.id}
    await catalog.extend_upload(upload.id, NOW + 48 * HOUR)
    key = await catalog.claim_blob(upload.id, _content(5), "key", NOW, NOW + HOUR)
    claimed = await catalog.get_upload(upload.id)
    assert (claimed.claimed_key, claimed.claimed_content, claimed.expire_time) == (
        key,
        _content(5),
        NOW + 48 * HOUR,
    )
    artifact = await catalog.finish_upload(
        upload.id, build_artifact(upload, _content(5), key, id=_id(2), now=NOW, verify_time=NOW)
    )
    assert (await catalog.get_upload(upload.id)).artifact_id == artifact.id
    assert await catalog.find_unfinished_uploads([upload.id]) == set()
    assert await catalog.list_uploads(None, None, 10) == []


async def test_request_id(catalog: Catalog):
    """One tenant's request_id is one upload, also concurrently; another request is rejected."""
    uploads = [replace(_upload(n), request_id="r", request_digest="d") for n in range(3)]
    results = await asyncio.gather(*map(catalog.add_upload, uploads))
    assert len({upload.id for upload in results}) == 1
    with pytest.raises(ReelhaulError, match="request_id"):
        await catalog.add_upload(replace(_upload(4), request_id="r", request_digest="other"))
    of_other_tenant = replace(_upload(5, tenant="two"), request_id="r", request_digest="d")
    assert (await catalog.add_upload(of_other_tenant)).id == of_other_tenant.id
    assert (await catalog.add_upload(_upload(6))).id != (await catalog.add_upload(_upload(7))).id


async def test_list_uploads(catalog: Catalog):
    """Uploads are listed in the order of their creation, after a cursor, of one tenant or all."""
    for n in (3, 1, 2):
        await catalog.add_upload(_upload(n, tenant="two" if n == 2 else "one"))
    first = await catalog.list_uploads(None, None, 2)
    assert [upload.id for upload in first] == [_id(1), _id(2)]
    rest = await catalog.list_uploads(None, (first[-1].create_time, first[-1].id), 2)
    assert [upload.id for upload in rest] == [_id(3)]
    assert [upload.id for upload in await catalog.list_uploads("two", None, 9)] == [_id(2)]


async def test_finish_twice(catalog: Catalog):
    """Finishing a finished upload returns its artifact."""
    artifact = await _finish_artifact(catalog, 1)
    upload = await catalog.get_upload(_id(1))
    other = build_artifact(upload, _content(1), artifact.key, id=_id(2), now=NOW, verify_time=NOW)
    assert await catalog.finish_upload(upload.id, other) == artifact
    assert await catalog.finish_from_stored(upload.id, artifact.content.sha256, lambda *_: other) == artifact
    with pytest.raises(NotFound):
        await catalog.finish_upload(_id(9), other)


async def test_claim_same_content(catalog: Catalog):
    """Concurrent claims of the same content get the same key."""
    for n in range(4):
        await catalog.add_upload(_upload(n))
    claims = [catalog.claim_blob(_id(n), _content(5), f"key-{n}", NOW, NOW + HOUR) for n in range(4)]
    assert len(set(await asyncio.gather(*claims))) == 1


async def test_finish_from_stored(catalog: Catalog):
    """Content that the tenant stores makes an artifact without bytes; that of another tenant does not."""
    artifact = await _finish_artifact(catalog, 1)
    await catalog.add_upload(_upload(2))
    await catalog.add_upload(_upload(3, tenant="two"))
    sha256 = artifact.content.sha256

    def make(content: Digests, key: str) -> Artifact:
        return build_artifact(_upload(2), content, key, id=_id(2), now=NOW, verify_time=NOW)

    stored = await catalog.finish_from_stored(_id(2), sha256, make)
    assert stored is not None
    assert (stored.key, stored.content) == (artifact.key, artifact.content)
    assert await catalog.finish_from_stored(_id(3), sha256, make) is None


async def test_doomed_with_last_reference(catalog: Catalog):
    """A blob is doomed when its last artifact is deleted, not before."""
    one = await _finish_artifact(catalog, 1, _content(5))
    two = await _finish_artifact(catalog, 2, _content(5))
    await catalog.delete_artifacts([one.id], _allow, NOW)
    assert await catalog.list_doomed_keys(NOW + 9 * HOUR, 10) == []
    await catalog.delete_artifacts([two.id], _allow, NOW)
    assert await catalog.list_doomed_keys(NOW - HOUR, 10) == []
    assert await catalog.list_doomed_keys(NOW, 10) == [one.key]
    assert await catalog.find_known_keys([one.key, "other"]) == {one.key}
    await catalog.delete_doomed_keys([one.key])
    assert await catalog.list_doomed_keys(NOW + 9 * HOUR, 10) == []
    assert await catalog.find_known_keys([one.key]) == set()


async def test_claim_prevents_doom(catalog: Catalog):
    """A claim keeps a blob from being doomed until it lapses; then its writer gets an error."""
    artifact = await _finish_artifact(catalog, 1, _content(5))
    await catalog.add_upload(_upload(2))
    key = await catalog.claim_blob(_id(2), _content(5), "other", NOW, NOW + HOUR)
    assert key == artifact.key
    await catalog.delete_artifacts([artifact.id], _allow, NOW)
    await catalog.doom_unused_blobs(NOW + HOUR, NOW, 10)
    assert await catalog.list_doomed_keys(NOW + 9 * HOUR, 10) == []
    later = NOW + 2 * HOUR
    await catalog.doom_unused_blobs(later, later, 10)
    assert await catalog.list_doomed_keys(NOW + 9 * HOUR, 10) == [key]
    with pytest.raises(BackendUnavailable):
        await catalog.finish_upload(
            _id(2), build_artifact(_upload(2), _content(5), key, id=_id(3), now=NOW, verify_time=NOW)
        )
    assert await catalog.claim_blob(_id(2), _content(5), "other-key", later, later + HOUR) == "other-key"


async def test_delete_all_or_none(catalog: Catalog):
    """If one artifact is missing or the check raises for one, none is deleted."""
    one, two = await _finish_artifact(catalog, 1), await _finish_artifact(catalog, 2)
    with pytest.raises(NotFound) as failure:
        await catalog.delete_artifacts([one.id, _id(9), two.id], _allow, NOW)
    assert failure.value.metadata["resource"] == f"artifacts/{_id(9)}"

    def object_to_two(artifact: Artifact) -> None:
        if artifact.id == two.id:
            raise ValueError("stays")

    with pytest.raises(ValueError, match="stays"):
        await catalog.delete_artifacts([one.id, two.id], object_to_two, NOW)
    assert await catalog.get_artifact(one.id) == one
    await catalog.delete_artifacts([one.id, two.id, one.id], _allow, NOW)
    assert sorted(await catalog.list_doomed_keys(NOW + 9 * HOUR, 10)) == [one.key, two.key]


async def test_concurrent_updates(catalog: Catalog):
    """Concurrent changes all take effect; one that raises changes nothing."""
    artifact = await _finish_artifact(catalog, 1)

    def increment(artifact: Artifact) -> Artifact:
        return replace(artifact, revision=artifact.revision + 1)

    await asyncio.gather(*(catalog.update_artifact(artifact.id, increment) for _ in range(8)))
    assert (await catalog.get_artifact(artifact.id)).revision == 9

    def fail(artifact: Artifact) -> Artifact:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await catalog.update_artifact(artifact.id, fail)
    with pytest.raises(NotFound):
        await catalog.update_artifact(_id(9), increment)


async def test_expiry(catalog: Catalog):
    """Expired artifacts are deleted in batches; others stay."""
    old = [await _finish_artifact(catalog, n, expire_time=NOW) for n in (1, 2, 3)]
    young = await _finish_artifact(catalog, 4)
    assert [await catalog.delete_expired_artifacts(NOW, 2) for _ in range(3)] == [2, 1, 0]
    assert sorted(await catalog.list_doomed_keys(NOW + 9 * HOUR, 10)) == sorted(
        artifact.key for artifact in old
    )
    assert await catalog.get_artifact(young.id) == young
    assert await catalog.list_expired_uploads(NOW, 10) == []
    expired = await catalog.list_expired_uploads(NOW + 24 * HOUR, 10)
    await catalog.delete_uploads(expired)
    assert await catalog.list_expired_uploads(NOW + 24 * HOUR, 10) == []


async def test_get_artifacts(catalog: Catalog):
    """Artifacts with any of the ids; missing ones are left out."""
    artifacts = [await _finish_artifact(catalog, n) for n in (1, 2, 3)]
    ids = [artifacts[0].id, _id(9), artifacts[2].id]
    assert {artifact.id for artifact in await catalog.get_artifacts(ids)} == {ids[0], ids[2]}
    assert await catalog.get_artifacts([]) == []


async def test_crc32s(catalog: Catalog):
    """The CRC-32 of a blob is unknown until it is saved."""
    artifacts = [await _finish_artifact(catalog, n) for n in (1, 2)]
    known, unknown = [artifact.key for artifact in artifacts]
    await catalog.set_crc32(known, artifacts[0].content, 0xFFFFFFFF)
    await catalog.set_crc32("missing", artifacts[0].content, 1)
    # Who stated a false size or CRC32C has read other bytes.
    for false in (replace(artifacts[0].content, size=99), replace(artifacts[0].content, crc32c=99)):
        await catalog.set_crc32(known, false, 1)
    assert await catalog.find_crc32s([known, unknown, "missing"]) == {known: 0xFFFFFFFF}


async def test_find_by_sha256(catalog: Catalog):
    """A tenant's unexpired artifacts are found by digest."""
    artifact = await _finish_artifact(catalog, 1)
    await _finish_artifact(catalog, 2, tenant="two")
    await _finish_artifact(catalog, 3, expire_time=NOW)
    digests = [_content(n).sha256 for n in (1, 2, 3, 4)]
    assert await catalog.find_by_sha256("one", digests, NOW) == {artifact.content.sha256: artifact.id}


@pytest.mark.parametrize("order", ["create_time", "expire_time", "size"])
@pytest.mark.parametrize("descending", [True, False])
async def test_list_artifacts(catalog: Catalog, order: str, descending: bool):
    """In any order, with a filter by job or without, pages contain each artifact once, equal ones by id."""
    for n in range(1, 6):
        await _finish_artifact(
            catalog,
            n,
            Digests(7, f"{n:064x}", 0),
            tenant="two" if n == 5 else "one",
            epoch=n % 2,
            job="jobs/a" if n < 3 else "jobs/b",
        )
    query = Query(limit=3, tenant="one", order=order, descending=descending)
    for where in (None, parse('job = "jobs/a" OR job = "jobs/b"', FIELDS)):
        first = await catalog.list_artifacts(replace(query, where=where))
        second = await catalog.list_artifacts(replace(query, where=where, after=query.cursor(first[-1])))
        ids = [artifact.id for artifact in (*first, *second)]
        assert ids == sorted(map(_id, range(1001, 1005)), reverse=descending)
    odd = await catalog.list_artifacts(replace(query, where=parse("epoch = 1", FIELDS)))
    assert {artifact.id for artifact in odd} == {_id(1001), _id(1003)}
    assert len(await catalog.list_artifacts(Query(limit=9))) == 5


_FILTERS = {
    'job = "jobs/a"': {1, 2},
    'job = "jobs/a" OR job = "jobs/b"': {1, 2, 3},
    'job = "jobs/a" OR job = "jobs/b" AND kind = AUDIO': {2, 3},
    '(job = "jobs/a" AND kind = VIDEO) OR job = "jobs/b"': {1, 3},
    'NOT job = "jobs/a"': {3, 4},
    "size_bytes >= 2 AND size_bytes < 4": {2, 3},
    "size_bytes != 2": {1, 3, 4},
    "epoch > 1": {3, 4},
    "epoch > -5": {1, 2, 3, 4},
    "create_time > 2030-01-01T12:00:02.2Z": {3, 4},
    "expire_time <= 2030-01-01T13:00:00.123456Z": {1, 2, 3},
    'labels.team = "ü"': {1},
    "labels:team": {1, 2},
    "labels.a-b:* AND labels.team != x": {4},
    'media_type = "video/*"': {1},
    'file_name = "*.MP3"': {2, 3},
    'file_name = "100%.mp3"': {3},
    'language_code = "de"': {4},
    "damage_time > 2020-01-01": {4},
    "verify_time < 2030-01-01T12:00:02Z": {1},
    "tenant = two": {4},
    "-tenant = two AND kind = KIND_UNSPECIFIED": set(),
}


async def test_filter_artifacts(catalog: Catalog):
    """Each filter selects the same artifacts on both databases, in lists and in summaries."""
    video = {"kind": ArtifactInfo.VIDEO, "media_type": "Video/mp4", "file_name": "ü.mp4"}
    audio = {"kind": ArtifactInfo.AUDIO, "media_type": "audio/mp3"}
    other = {"kind": ArtifactInfo.SUBTITLE, "language_code": "de", "expire_time": NOW + 2 * HOUR}
    await _finish_artifact(catalog, 1, **video, job="jobs/a", epoch=1, labels={"team": "ü"})
    await _finish_artifact(catalog, 2, **audio, job="jobs/a", file_name="1000.mp3", labels={"team": ""})
    await _finish_artifact(catalog, 3, **audio, job="jobs/b", file_name="100%.mp3", labels={}, epoch=5)
    damaged = await _finish_artifact(catalog, 4, **other, tenant="two", epoch=1 << 40, labels={"a-b": "x"})
    await catalog.mark_damaged(damaged.key, damaged.content, NOW + HOUR, NOW + HOUR)
    for text, expected in _FILTERS.items():
        where = parse(text, ADMIN_FIELDS)
        listed = await catalog.list_artifacts(Query(limit=9, where=where))
        assert {artifact.content.size for artifact in listed} == expected, text
        usages = await catalog.summarize_artifacts(None, where)
        assert sum(usage.artifacts for usage in usages) == len(expected), text
        assert sum(usage.size for usage in usages) == sum(expected), text


async def test_summarize_artifacts(catalog: Catalog):
    """Each tenant's artifacts are counted with their sizes, also if they share their content."""
    for n, tenant in ((1, "one"), (2, "one"), (3, "two")):
        await _finish_artifact(catalog, n, _content(7), tenant=tenant)
    one, two = TenantUsage("one", 2, 14), TenantUsage("two", 1, 7)
    assert await catalog.summarize_artifacts(None, None) == [one, two]
    assert await catalog.summarize_artifacts("two", None) == [two]
    assert await catalog.summarize_artifacts("three", None) == []


async def test_claim_new_blob(catalog: Catalog):
    """A new blob is claimed only while no other upload has its content, and again by the same upload."""
    until = NOW + HOUR
    for n in (1, 2):
        await catalog.add_upload(_upload(n))
    assert await catalog.claim_new_blob(_id(1), _content(5), "key", NOW, until)
    assert await catalog.claim_new_blob(_id(1), _content(5), "key", NOW, until)
    assert not await catalog.claim_new_blob(_id(2), _content(5), "other", NOW, until)
    assert (await catalog.get_upload(_id(2))).claimed_content is None
    assert await catalog.claim_blob(_id(2), _content(5), "other", NOW, until) == "key"
    assert not await catalog.claim_new_blob(_id(1), _content(5), "key", NOW, until)


async def test_claim_of_direct_upload(catalog: Catalog):
    """A blob that only an unfinished direct upload claims is given up for one whose bytes are verified."""
    until = NOW + HOUR
    await catalog.add_upload(replace(_upload(1), direct=True))
    await catalog.add_upload(_upload(2))
    await catalog.add_upload(_upload(3))
    assert await catalog.claim_new_blob(_id(1), _content(5), "stated", NOW, until)
    assert await catalog.claim_blob(_id(2), _content(5), "verified", NOW, until) == "verified"
    assert await catalog.list_doomed_keys(NOW, 10) == ["stated"]
    assert (await catalog.get_upload(_id(1))).claimed_content is None
    with pytest.raises(OffsetConflict):
        await catalog.claim_new_blob(_id(1), _content(5), "stated", NOW, until)
    assert await catalog.claim_blob(_id(3), _content(5), "other", NOW, until) == "verified"


async def test_claim_key_again(catalog: Catalog):
    """A key that an upload has claimed is not claimed again for other content, or after it was doomed."""
    await catalog.add_upload(_upload(1))
    await catalog.claim_blob(_id(1), _content(5), "key", NOW, NOW + HOUR)
    with pytest.raises(OffsetConflict):
        await catalog.claim_blob(_id(1), _content(6), "key", NOW, NOW + HOUR)
    assert await catalog.claim_blob(_id(1), _content(5), "key", NOW, NOW + HOUR) == "key"
    later = NOW + 2 * HOUR
    await catalog.doom_unused_blobs(later, later, 10)
    with pytest.raises(OffsetConflict):
        await catalog.claim_blob(_id(1), _content(5), "key", later, later + HOUR)
    assert await catalog.claim_blob(_id(1), _content(5), "fresh", later, later + HOUR) == "fresh"


async def test_claim_blobs_to_verify(catalog: Catalog):
    """Blobs that were never verified come first, then the oldest; each once a day, and none too early."""
    artifacts = [await _finish_artifact(catalog, n) for n in (1, 2, 3)]
    week, day = timedelta(days=7), timedelta(days=1)
    assert await catalog.claim_blob_to_verify(NOW, NOW) is None
    later = NOW + week
    await catalog.mark_damaged(artifacts[2].key, artifacts[2].content, later, later)
    claims = [await catalog.claim_blob_to_verify(later, later) for _ in range(4)]
    assert [claim and claim.key for claim in claims] == [artifacts[n].key for n in (2, 0, 1)] + [None]
    assert claims[1] is not None
    assert claims[1].content == artifacts[0].content
    await catalog.mark_verified(artifacts[0].key, later)
    assert (await catalog.get_artifact(artifacts[0].id)).verify_time == later
    again = later + day + HOUR
    claims = [await catalog.claim_blob_to_verify(later, again) for _ in range(3)]
    assert [claim and claim.key for claim in claims] == [artifacts[2].key, artifacts[1].key, None]


async def test_concurrent_claims_to_verify(catalog: Catalog):
    """Scrubbers of several replicas never get the same blob."""
    artifacts = [await _finish_artifact(catalog, n) for n in range(1, 9)]
    later = NOW + timedelta(days=7)
    claims = await asyncio.gather(*(catalog.claim_blob_to_verify(later, later) for _ in artifacts))
    keys = [claim.key for claim in claims if claim is not None]
    assert len(keys) == len(set(keys)) > 0


async def test_damaged_blob(catalog: Catalog):
    """A damaged blob is not offered to uploads until its bytes are replaced."""
    artifact = await _finish_artifact(catalog, 1)
    sha256, later = artifact.content.sha256, NOW + HOUR
    assert await catalog.get_blob_health() == BlobHealth(0, artifact.verify_time)
    # Found by a reader of an artifact whose size or CRC32C is false.
    for false in (replace(artifact.content, size=99), replace(artifact.content, crc32c=99)):
        await catalog.mark_damaged(artifact.key, false, later, later)
    assert (await catalog.get_artifact(artifact.id)).damage_time is None
    await catalog.mark_damaged(artifact.key, artifact.content, later, later)
    assert (await catalog.get_artifact(artifact.id)).damage_time == later
    assert await catalog.get_blob_health() == BlobHealth(1, None)
    assert await catalog.find_by_sha256("one", [sha256], NOW) == {}
    await catalog.add_upload(_upload(2))

    def make(content: Digests, key: str) -> Artifact:
        return build_artifact(_upload(2), content, key, id=_id(2), now=later, verify_time=later)

    assert await catalog.finish_from_stored(_id(2), sha256, make) is None
    key = await catalog.claim_blob(_id(2), artifact.content, "new", NOW, later)
    assert (await catalog.get_upload(_id(2))).claimed_content is None
    await catalog.finish_upload(_id(2), make(artifact.content, key))
    assert (await catalog.get_artifact(artifact.id)).damage_time is None
    assert (await catalog.get_artifact(artifact.id)).verify_time == artifact.verify_time
    # A read that began before the bytes were replaced found the old ones.
    await catalog.mark_damaged(artifact.key, artifact.content, later - HOUR, later)
    assert await catalog.get_blob_health() == BlobHealth(0, later)
    await catalog.mark_damaged("deleted meanwhile", artifact.content, later, later)


async def test_migrations_match_tables(tmp_path: Path):
    """The migrations create exactly the tables that the catalog describes."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine

    from reelhaul_storage.catalog.tables import metadata

    url = f"sqlite:///{tmp_path}/storage.db"
    await asyncio.to_thread(migrations.migrate, url, "reelhaul_storage")
    engine = create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": False})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_destinations(catalog: SqlCatalog):
    """Destinations are kept by tenant and id, with all their fields; a taken id is not overwritten."""
    store = catalog.destinations
    first = Destination(
        tenant="acme",
        id="media",
        bucket="acme-media",
        create_time=NOW,
        update_time=NOW,
        display_name="Médias",
        prefix="in/",
        endpoint_url="https://s3.example",
        region="eu-central-1",
        path_style=True,
        server_side_encryption="AES256",
        access_key_id="id",
        sealed_secret=b"\0sealed",
    )
    others = [replace(first, tenant="other"), replace(first, id="archive", role_arn="arn", external_id="x")]
    for destination in (first, *others):
        await store.add(destination)
    with pytest.raises(ReelhaulError) as error:
        await store.add(replace(first, bucket="another"))
    assert error.value.metadata == {"resource": "destinations/media"}
    assert await store.get("acme", "media") == first
    assert await store.list_page("acme", "", 9) == [others[1], first]
    assert await store.list_page("acme", "archive", 9) == [first]
    changed = await store.update("acme", "media", lambda each: replace(each, prefix="", revision=2))
    assert await store.get("acme", "media") == changed == replace(first, prefix="", revision=2)
    await store.delete("acme", "media", lambda each: None)
    with pytest.raises(NotFound):
        await store.get("acme", "media")
    assert await store.get("other", "media") == others[0]


async def test_location(catalog: SqlCatalog):
    """The location changes by one generation at a time; a change that is based on another is refused."""
    locations = catalog.location
    assert await locations.get_location() == BlobLocation()
    moving = BlobLocation(1, "file:///b", "file:///a")
    await locations.set_location(moving)
    with pytest.raises(BlobsMoved):
        await locations.set_location(moving)
    assert await locations.get_location() == moving


async def test_commits_of_another_generation(catalog: SqlCatalog):
    """After a change of the location, nothing is claimed or committed under the generation before."""
    upload, content = await catalog.add_upload(_upload(1)), _content(5)
    stored = await _finish_artifact(catalog, 3, _content(7))
    key = await catalog.claim_blob(upload.id, content, "key", NOW, NOW + HOUR)
    await catalog.location.set_location(BlobLocation(1, "file:///b", "file:///a"))
    artifact = build_artifact(upload, content, key, id=_id(2), now=NOW, verify_time=NOW)
    for refused in (
        catalog.claim_blob(upload.id, content, "other", NOW, NOW + HOUR),
        catalog.claim_new_blob(upload.id, content, "other", NOW, NOW + HOUR),
        catalog.finish_upload(upload.id, artifact),
        catalog.finish_from_stored(upload.id, stored.content.sha256, lambda *_: artifact),
    ):
        with pytest.raises(BlobsMoved):
            await refused
    assert await catalog.claim_blob(upload.id, content, "other", NOW, NOW + HOUR, 1) == key
    assert await catalog.finish_upload(upload.id, artifact, 1) == artifact


async def test_end_of_a_move(catalog: SqlCatalog):
    """A move does not end while an artifact refers to a blob that is not copied."""
    locations = catalog.location
    artifact = await _finish_artifact(catalog, 1)
    unfinished = await catalog.add_upload(_upload(2))
    await catalog.claim_blob(unfinished.id, _content(2), "key-2", NOW, NOW + HOUR)
    await locations.set_location(BlobLocation(1, "file:///b", "file:///a"))
    assert [blob.key for blob in await locations.list_blobs("", 10)] == [artifact.key, "key-2"]
    assert [blob.key for blob in await locations.list_blobs(artifact.key, 10)] == ["key-2"]
    assert await locations.sum_blobs() == 3
    assert await locations.is_referenced(artifact.key)
    assert not await locations.is_referenced("key-2")
    end = BlobLocation(2, "file:///b")
    assert [blob.key for blob in await locations.end_move(end, [artifact.key, "key-2"])] == [artifact.key]
    assert (await locations.get_location()).generation == 1
    assert await locations.end_move(end, ["key-2"]) == []
    assert await locations.get_location() == end
