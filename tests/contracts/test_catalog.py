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
from reelhaul_storage.catalog.store import SqlCatalogue
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.memory.catalogue import MemoryCatalogue
from reelhaul_storage.model import Artifact, NewArtifact, Query, Upload, artifact_of
from reelhaul_storage.ports import Catalogue

NOW = datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def catalogue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Catalogue]:
    if request.param == "memory":
        yield MemoryCatalogue()
    elif request.param == "sqlite":
        async with _sql(f"sqlite:///{tmp_path}/storage.db") as opened:
            yield opened
    else:
        with fresh_database() as url:
            async with _sql(url) as opened:
                yield opened


@asynccontextmanager
async def _sql(url: str) -> AsyncIterator[Catalogue]:
    await asyncio.to_thread(migrations.migrate_if_behind, url, "reelhaul_storage")
    async with SqlCatalogue.open(url) as opened:
        yield opened


def _id(n: int) -> str:
    return str(UUID(int=n, version=4))


def _content(n: int) -> Digests:
    return Digests(n, f"{n:064x}", n)


def _upload(n: int, **draft: object) -> Upload:
    told = {"tenant": "one", "expire_time": NOW + HOUR, "labels": {"k": "ü"}} | draft
    return Upload(_id(n), NewArtifact(**told), NOW + timedelta(seconds=n), NOW + 24 * HOUR)


async def _make(catalogue: Catalogue, n: int, content: Digests | None = None, **draft: object) -> Artifact:
    """Artifact *n*, of *content* or of content of its own."""
    content = content or _content(n)
    upload = await catalogue.add_upload(_upload(n, **draft))
    key = await catalogue.claim(upload.id, content, f"key-{n}", NOW, NOW + HOUR)
    made = artifact_of(upload, content, key, id=_id(1000 + n), now=NOW + timedelta(seconds=n))
    return await catalogue.finish(upload.id, made)


def _nothing(_: Artifact) -> None:
    """Objects to no removal."""


async def test_remembers_artifacts(catalogue: Catalogue):
    """An artifact is read back as it was made, to the microsecond."""
    made = await _make(
        catalogue,
        1,
        job="jobs/1",
        kind=ArtifactInfo.Kind.VIDEO,
        epoch=7,
        language_code="de",
        file_name="ü.mp4",
    )
    assert await catalogue.artifact(made.id) == made
    with pytest.raises(NotFound):
        await catalogue.artifact(_id(9))


async def test_remembers_uploads(catalogue: Catalogue):
    """An upload is read back as it was begun, then with its claim, then with what it became."""
    upload = await catalogue.add_upload(_upload(1))
    assert await catalogue.upload(upload.id) == upload
    assert await catalogue.known_uploads([upload.id, _id(9)]) == {upload.id}
    await catalogue.keep_upload(upload.id, NOW + 48 * HOUR)
    key = await catalogue.claim(upload.id, _content(5), "key", NOW, NOW + HOUR)
    claimed = await catalogue.upload(upload.id)
    assert (claimed.key, claimed.claimed, claimed.expire_time) == (key, _content(5), NOW + 48 * HOUR)
    made = await catalogue.finish(upload.id, artifact_of(upload, _content(5), key, id=_id(2), now=NOW))
    assert (await catalogue.upload(upload.id)).artifact == made.id
    assert await catalogue.known_uploads([upload.id]) == set()
    assert await catalogue.uploads(None, None, 10) == []


async def test_one_upload_per_request(catalogue: Catalogue):
    """The same request_id of one tenant is one upload, also at the same time; another request is refused."""
    uploads = [replace(_upload(n), request_id="r", request_digest="d") for n in range(3)]
    begun = await asyncio.gather(*map(catalogue.add_upload, uploads))
    assert len({upload.id for upload in begun}) == 1
    with pytest.raises(ReelhaulError, match="request_id"):
        await catalogue.add_upload(replace(_upload(4), request_id="r", request_digest="other"))
    foreign = replace(_upload(5, tenant="two"), request_id="r", request_digest="d")
    assert (await catalogue.add_upload(foreign)).id == foreign.id
    assert (await catalogue.add_upload(_upload(6))).id != (await catalogue.add_upload(_upload(7))).id


async def test_pages_of_uploads(catalogue: Catalogue):
    """Uploads come in the order of their beginning, those after a place, of one tenant or all."""
    for n in (3, 1, 2):
        await catalogue.add_upload(_upload(n, tenant="two" if n == 2 else "one"))
    first = await catalogue.uploads(None, None, 2)
    assert [upload.id for upload in first] == [_id(1), _id(2)]
    rest = await catalogue.uploads(None, (first[-1].create_time, first[-1].id), 2)
    assert [upload.id for upload in rest] == [_id(3)]
    assert [upload.id for upload in await catalogue.uploads("two", None, 9)] == [_id(2)]


async def test_finished_once(catalogue: Catalogue):
    """An upload that is finished again stays what it became."""
    made = await _make(catalogue, 1)
    upload = await catalogue.upload(_id(1))
    other = artifact_of(upload, _content(1), made.key, id=_id(2), now=NOW)
    assert await catalogue.finish(upload.id, other) == made
    assert await catalogue.finish_known(upload.id, made.content.sha256, lambda *_: other) == made
    with pytest.raises(NotFound):
        await catalogue.finish(_id(9), other)


async def test_same_content_one_key(catalogue: Catalogue):
    """Who claims the same content is given the same key, also at the same time."""
    for n in range(4):
        await catalogue.add_upload(_upload(n))
    claims = [catalogue.claim(_id(n), _content(5), f"key-{n}", NOW, NOW + HOUR) for n in range(4)]
    assert len(set(await asyncio.gather(*claims))) == 1


async def test_known_content(catalogue: Catalogue):
    """Content that the tenant has makes an artifact without bytes; another tenant's does not."""
    made = await _make(catalogue, 1)
    await catalogue.add_upload(_upload(2))
    await catalogue.add_upload(_upload(3, tenant="two"))
    sha256 = made.content.sha256

    def make(content: Digests, key: str) -> Artifact:
        return artifact_of(_upload(2), content, key, id=_id(2), now=NOW)

    known = await catalogue.finish_known(_id(2), sha256, make)
    assert known is not None
    assert (known.key, known.content) == (made.key, made.content)
    assert await catalogue.finish_known(_id(3), sha256, make) is None


async def test_doomed_with_the_last(catalogue: Catalogue):
    """Bytes are doomed when the last artifact that means them goes, not before."""
    one = await _make(catalogue, 1, _content(5))
    two = await _make(catalogue, 2, _content(5))
    await catalogue.remove([one.id], _nothing, NOW)
    assert await catalogue.doomed(10) == []
    await catalogue.remove([two.id], _nothing, NOW)
    assert await catalogue.doomed(10) == [one.key]
    assert await catalogue.known_keys([one.key, "other"]) == {one.key}
    await catalogue.forget([one.key])
    assert await catalogue.doomed(10) == []
    assert await catalogue.known_keys([one.key]) == set()


async def test_claimed_is_not_doomed(catalogue: Catalogue):
    """A claim keeps bytes from being doomed until it lapses; then its writer is told."""
    made = await _make(catalogue, 1, _content(5))
    await catalogue.add_upload(_upload(2))
    key = await catalogue.claim(_id(2), _content(5), "other", NOW, NOW + HOUR)
    assert key == made.key
    await catalogue.remove([made.id], _nothing, NOW)
    await catalogue.doom_unused(NOW + HOUR, NOW, 10)
    assert await catalogue.doomed(10) == []
    later = NOW + 2 * HOUR
    await catalogue.doom_unused(later, later, 10)
    assert await catalogue.doomed(10) == [key]
    with pytest.raises(BackendUnavailable):
        await catalogue.finish(_id(2), artifact_of(_upload(2), _content(5), key, id=_id(3), now=NOW))
    assert await catalogue.claim(_id(2), _content(5), "anew", later, later + HOUR) == "anew"


async def test_removed_all_or_none(catalogue: Catalogue):
    """Where one is missing, or one objects, all stay."""
    one, two = await _make(catalogue, 1), await _make(catalogue, 2)
    with pytest.raises(NotFound) as failure:
        await catalogue.remove([one.id, _id(9), two.id], _nothing, NOW)
    assert failure.value.metadata["resource"] == f"artifacts/{_id(9)}"

    def objects(artifact: Artifact) -> None:
        if artifact.id == two.id:
            raise ValueError("stays")

    with pytest.raises(ValueError, match="stays"):
        await catalogue.remove([one.id, two.id], objects, NOW)
    assert await catalogue.artifact(one.id) == one
    await catalogue.remove([one.id, two.id, one.id], _nothing, NOW)
    assert sorted(await catalogue.doomed(10)) == [one.key, two.key]


async def test_changes_are_not_lost(catalogue: Catalogue):
    """Changes made at the same time all take effect; one that raises changes nothing."""
    made = await _make(catalogue, 1)

    def grown(artifact: Artifact) -> Artifact:
        return replace(artifact, revision=artifact.revision + 1)

    await asyncio.gather(*(catalogue.change(made.id, grown) for _ in range(8)))
    assert (await catalogue.artifact(made.id)).revision == 9

    def refuses(artifact: Artifact) -> Artifact:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await catalogue.change(made.id, refuses)
    with pytest.raises(NotFound):
        await catalogue.change(_id(9), grown)


async def test_expiry(catalogue: Catalogue):
    """What is past its time goes in steps; what is not stays."""
    old = [await _make(catalogue, n, expire_time=NOW) for n in (1, 2, 3)]
    young = await _make(catalogue, 4)
    assert [await catalogue.expire(NOW, 2) for _ in range(3)] == [2, 1, 0]
    assert sorted(await catalogue.doomed(10)) == sorted(artifact.key for artifact in old)
    assert await catalogue.artifact(young.id) == young
    assert await catalogue.expired_uploads(NOW, 10) == []
    gone = await catalogue.expired_uploads(NOW + 24 * HOUR, 10)
    await catalogue.remove_uploads(gone)
    assert await catalogue.expired_uploads(NOW + 24 * HOUR, 10) == []


async def test_found_by_digest(catalogue: Catalogue):
    """A tenant's living artifacts are found by digest."""
    made = await _make(catalogue, 1)
    await _make(catalogue, 2, tenant="two")
    await _make(catalogue, 3, expire_time=NOW)
    asked = [_content(n).sha256 for n in (1, 2, 3, 4)]
    assert await catalogue.find("one", asked, NOW) == {made.content.sha256: made.id}


@pytest.mark.parametrize("order", ["create_time", "expire_time", "size"])
@pytest.mark.parametrize("descending", [True, False])
async def test_pages_of_artifacts(catalogue: Catalogue, order: str, descending: bool):
    """In any order, pages hold each artifact once; equal values are told apart by id."""
    for n in range(1, 6):
        await _make(catalogue, n, Digests(7, f"{n:064x}", 0), tenant="two" if n == 5 else "one", epoch=n % 2)
    query = Query(limit=3, tenant="one", order=order, descending=descending)
    first = await catalogue.artifacts(query)
    second = await catalogue.artifacts(replace(query, after=query.place_of(first[-1])))
    ids = [artifact.id for artifact in (*first, *second)]
    assert ids == sorted(map(_id, range(1001, 1005)), reverse=descending)
    odd = await catalogue.artifacts(replace(query, equal=(("epoch", 1),)))
    assert {artifact.id for artifact in odd} == {_id(1001), _id(1003)}
    assert len(await catalogue.artifacts(Query(limit=9))) == 5


async def test_schema_is_what_the_code_thinks(tmp_path: Path):
    """The migrations make exactly the tables that the catalogue describes."""
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
