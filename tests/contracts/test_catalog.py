"""What every Catalogue holds to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from tests.postgresql import fresh_database

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import NotFound, ReelhaulError
from reelhaul_runtime.sql import migrations
from reelhaul_storage.catalog.store import SqlCatalog
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.model import Artifact, NewArtifact, Query, Upload, build_artifact
from reelhaul_storage.ports import Catalog

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["sqlite", "postgresql"])
async def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalog]:
    if request.param == "sqlite":
        async with _sql(f"sqlite:///{tmp_path}/storage.db") as opened:
            yield opened
    else:
        with fresh_database() as url:
            async with _sql(url) as opened:
                yield opened


@asynccontextmanager
async def _sql(url: str) -> AsyncIterator[Catalog]:
    await asyncio.to_thread(migrations.migrate_if_behind, url, "reelhaul_storage")
    async with SqlCatalog.open(url) as opened:
        yield opened


def _id(n: int) -> str:
    return str(UUID(int=n, version=4))


def _content(n: int) -> Digests:
    return Digests(n, f"{n:064x}", n)


def _upload(n: int, **draft: object) -> Upload:
    told = {"tenant": "one", "expire_time": NOW + HOUR, "labels": {"k": "ü"}} | draft
    return Upload(_id(n), NewArtifact(**told), NOW + timedelta(seconds=n), NOW + 24 * HOUR)


async def _make(catalog: Catalog, n: int, content: Digests | None = None, **draft: object) -> Artifact:
    """Artifact *n*, of *content* or of content of its own."""
    content = content or _content(n)
    upload = await catalog.add_upload(_upload(n, **draft))
    key = await catalog.claim_blob(upload.id, content, f"key-{n}", NOW, NOW + HOUR)
    made = build_artifact(upload, content, key, id=_id(1000 + n), now=NOW + timedelta(seconds=n))
    return await catalog.finish_upload(upload.id, made)


def _nothing(_: Artifact) -> None:
    """Objects to no removal."""


async def test_remembers_artifacts(catalog: Catalog):
    """An artifact is read back as it was made, to the microsecond."""
    made = await _make(
        catalog,
        1,
        job="jobs/1",
        kind=ArtifactInfo.Kind.VIDEO,
        epoch=7,
        language_code="de",
        file_name="ü.mp4",
    )
    assert await catalog.get_artifact(made.id) == made
    with pytest.raises(NotFound):
        await catalog.get_artifact(_id(9))


async def test_remembers_uploads(catalog: Catalog):
    """An upload is read back as it was begun, then with its claim, then with what it became."""
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
    made = await catalog.finish_upload(
        upload.id, build_artifact(upload, _content(5), key, id=_id(2), now=NOW)
    )
    assert (await catalog.get_upload(upload.id)).artifact_id == made.id
    assert await catalog.find_unfinished_uploads([upload.id]) == set()
    assert await catalog.list_uploads(None, None, 10) == []


async def test_one_upload_per_request(catalog: Catalog):
    """The same request_id of one tenant is one upload, also at the same time; another request is refused."""
    uploads = [replace(_upload(n), request_id="r", request_digest="d") for n in range(3)]
    begun = await asyncio.gather(*map(catalog.add_upload, uploads))
    assert len({upload.id for upload in begun}) == 1
    with pytest.raises(ReelhaulError, match="request_id"):
        await catalog.add_upload(replace(_upload(4), request_id="r", request_digest="other"))
    foreign = replace(_upload(5, tenant="two"), request_id="r", request_digest="d")
    assert (await catalog.add_upload(foreign)).id == foreign.id
    assert (await catalog.add_upload(_upload(6))).id != (await catalog.add_upload(_upload(7))).id


async def test_pages_of_uploads(catalog: Catalog):
    """Uploads come in the order of their beginning, those after a place, of one tenant or all."""
    for n in (3, 1, 2):
        await catalog.add_upload(_upload(n, tenant="two" if n == 2 else "one"))
    first = await catalog.list_uploads(None, None, 2)
    assert [upload.id for upload in first] == [_id(1), _id(2)]
    rest = await catalog.list_uploads(None, (first[-1].create_time, first[-1].id), 2)
    assert [upload.id for upload in rest] == [_id(3)]
    assert [upload.id for upload in await catalog.list_uploads("two", None, 9)] == [_id(2)]


async def test_finished_once(catalog: Catalog):
    """An upload that is finished again stays what it became."""
    made = await _make(catalog, 1)
    upload = await catalog.get_upload(_id(1))
    other = build_artifact(upload, _content(1), made.key, id=_id(2), now=NOW)
    assert await catalog.finish_upload(upload.id, other) == made
    assert await catalog.finish_from_stored(upload.id, made.content.sha256, lambda *_: other) == made
    with pytest.raises(NotFound):
        await catalog.finish_upload(_id(9), other)


async def test_same_content_one_key(catalog: Catalog):
    """Who claims the same content is given the same key, also at the same time."""
    for n in range(4):
        await catalog.add_upload(_upload(n))
    claims = [catalog.claim_blob(_id(n), _content(5), f"key-{n}", NOW, NOW + HOUR) for n in range(4)]
    assert len(set(await asyncio.gather(*claims))) == 1


async def test_known_content(catalog: Catalog):
    """Content that the tenant has makes an artifact without bytes; another tenant's does not."""
    made = await _make(catalog, 1)
    await catalog.add_upload(_upload(2))
    await catalog.add_upload(_upload(3, tenant="two"))
    sha256 = made.content.sha256

    def make(content: Digests, key: str) -> Artifact:
        return build_artifact(_upload(2), content, key, id=_id(2), now=NOW)

    known = await catalog.finish_from_stored(_id(2), sha256, make)
    assert known is not None
    assert (known.key, known.content) == (made.key, made.content)
    assert await catalog.finish_from_stored(_id(3), sha256, make) is None


async def test_doomed_with_the_last(catalog: Catalog):
    """Bytes are doomed when the last artifact that means them goes, not before."""
    one = await _make(catalog, 1, _content(5))
    two = await _make(catalog, 2, _content(5))
    await catalog.delete_artifacts([one.id], _nothing, NOW)
    assert await catalog.list_doomed_keys(10) == []
    await catalog.delete_artifacts([two.id], _nothing, NOW)
    assert await catalog.list_doomed_keys(10) == [one.key]
    assert await catalog.find_known_keys([one.key, "other"]) == {one.key}
    await catalog.delete_doomed_keys([one.key])
    assert await catalog.list_doomed_keys(10) == []
    assert await catalog.find_known_keys([one.key]) == set()


async def test_claimed_is_not_doomed(catalog: Catalog):
    """A claim keeps bytes from being doomed until it lapses; then its writer is told."""
    made = await _make(catalog, 1, _content(5))
    await catalog.add_upload(_upload(2))
    key = await catalog.claim_blob(_id(2), _content(5), "other", NOW, NOW + HOUR)
    assert key == made.key
    await catalog.delete_artifacts([made.id], _nothing, NOW)
    await catalog.doom_unused_blobs(NOW + HOUR, NOW, 10)
    assert await catalog.list_doomed_keys(10) == []
    later = NOW + 2 * HOUR
    await catalog.doom_unused_blobs(later, later, 10)
    assert await catalog.list_doomed_keys(10) == [key]
    with pytest.raises(BackendUnavailable):
        await catalog.finish_upload(_id(2), build_artifact(_upload(2), _content(5), key, id=_id(3), now=NOW))
    assert await catalog.claim_blob(_id(2), _content(5), "anew", later, later + HOUR) == "anew"


async def test_removed_all_or_none(catalog: Catalog):
    """Where one is missing, or one objects, all stay."""
    one, two = await _make(catalog, 1), await _make(catalog, 2)
    with pytest.raises(NotFound) as failure:
        await catalog.delete_artifacts([one.id, _id(9), two.id], _nothing, NOW)
    assert failure.value.metadata["resource"] == f"artifacts/{_id(9)}"

    def objects(artifact: Artifact) -> None:
        if artifact.id == two.id:
            raise ValueError("stays")

    with pytest.raises(ValueError, match="stays"):
        await catalog.delete_artifacts([one.id, two.id], objects, NOW)
    assert await catalog.get_artifact(one.id) == one
    await catalog.delete_artifacts([one.id, two.id, one.id], _nothing, NOW)
    assert sorted(await catalog.list_doomed_keys(10)) == [one.key, two.key]


async def test_changes_are_not_lost(catalog: Catalog):
    """Changes made at the same time all take effect; one that raises changes nothing."""
    made = await _make(catalog, 1)

    def grown(artifact: Artifact) -> Artifact:
        return replace(artifact, revision=artifact.revision + 1)

    await asyncio.gather(*(catalog.update_artifact(made.id, grown) for _ in range(8)))
    assert (await catalog.get_artifact(made.id)).revision == 9

    def refuses(artifact: Artifact) -> Artifact:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await catalog.update_artifact(made.id, refuses)
    with pytest.raises(NotFound):
        await catalog.update_artifact(_id(9), grown)


async def test_expiry(catalog: Catalog):
    """What is past its time goes in steps; what is not stays."""
    old = [await _make(catalog, n, expire_time=NOW) for n in (1, 2, 3)]
    young = await _make(catalog, 4)
    assert [await catalog.delete_expired_artifacts(NOW, 2) for _ in range(3)] == [2, 1, 0]
    assert sorted(await catalog.list_doomed_keys(10)) == sorted(artifact.key for artifact in old)
    assert await catalog.get_artifact(young.id) == young
    assert await catalog.list_expired_uploads(NOW, 10) == []
    gone = await catalog.list_expired_uploads(NOW + 24 * HOUR, 10)
    await catalog.delete_uploads(gone)
    assert await catalog.list_expired_uploads(NOW + 24 * HOUR, 10) == []


async def test_found_by_digest(catalog: Catalog):
    """A tenant's living artifacts are found by digest."""
    made = await _make(catalog, 1)
    await _make(catalog, 2, tenant="two")
    await _make(catalog, 3, expire_time=NOW)
    asked = [_content(n).sha256 for n in (1, 2, 3, 4)]
    assert await catalog.find_by_sha256("one", asked, NOW) == {made.content.sha256: made.id}


@pytest.mark.parametrize("order", ["create_time", "expire_time", "size"])
@pytest.mark.parametrize("descending", [True, False])
async def test_pages_of_artifacts(catalog: Catalog, order: str, descending: bool):
    """In any order, pages hold each artifact once; equal values are told apart by id."""
    for n in range(1, 6):
        await _make(catalog, n, Digests(7, f"{n:064x}", 0), tenant="two" if n == 5 else "one", epoch=n % 2)
    query = Query(limit=3, tenant="one", order=order, descending=descending)
    first = await catalog.list_artifacts(query)
    second = await catalog.list_artifacts(replace(query, after=query.cursor(first[-1])))
    ids = [artifact.id for artifact in (*first, *second)]
    assert ids == sorted(map(_id, range(1001, 1005)), reverse=descending)
    odd = await catalog.list_artifacts(replace(query, equal=(("epoch", 1),)))
    assert {artifact.id for artifact in odd} == {_id(1001), _id(1003)}
    assert len(await catalog.list_artifacts(Query(limit=9))) == 5


async def test_schema_is_what_the_code_thinks(tmp_path: Path):
    """The migrations make exactly the tables that the catalog describes."""
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
