"""The contract of ApiKeyStore, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import AsyncExitStack, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from tests.job_stores import NOW, SqlStore, open_store, sqlite_store
from tests.postgresql import migrated_database

from reelhaul.admin.v1 import api_key_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import GRANT_EXPERT_SELECTOR, PermissionLevel
from reelhaul_jobs.model import api_key as model
from reelhaul_jobs.model.api_key import ApiKey, KeyState, KeyString
from reelhaul_jobs.model.credential import Ticket
from reelhaul_jobs.ports.api_keys import NEVER_USED, KeyChange, KeyOrder, KeyQuery
from reelhaul_jobs.ports.jobs import IdempotencyKey
from reelhaul_jobs.store.access_tables import tenants
from reelhaul_runtime.errors import NotFound, ReelhaulError

DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
FULL_ACCESS = PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS
DAY = timedelta(days=1)


def key(number: int, **fields: Any) -> ApiKey:
    string = KeyString()
    plain = ApiKey(
        id=f"00000000-0000-7000-8000-{number:012d}",
        tenant="local",
        permission=DOWNLOAD,
        hash=string.hash,
        key_prefix=string.prefix,
        create_time=NOW + timedelta(seconds=number),
        update_time=NOW,
    )
    return replace(plain, **fields)


def request(number: int, digest: bytes = b"d") -> IdempotencyKey:
    return IdempotencyKey("local", "CreateApiKey", f"request-{number}", digest, NOW)


async def reason(call: Any) -> str:
    with pytest.raises(ReelhaulError) as failure:
        await call
    return ErrorReason.Name(failure.value.reason)


async def set_tenant(store: SqlStore, **values: Any) -> None:
    statement = update(tenants).where(tenants.c.id == "local").values(**values)
    await store.database.write(lambda connection: connection.execute(statement))


async def test_read_as_it_was_added(store):
    """Every field of a key is stored, and it is found by its string and by the one before."""
    full = key(
        1,
        display_name="Büro",
        grants=(GRANT_EXPERT_SELECTOR,),
        quota=api_key_pb2.Quota(jobs_per_day=-1, stored_bytes=10**15),
        allowed_cidrs=("192.0.2.0/24", "2001:db8::/32"),
        allowed_sites=("youtube.com",),
        denied_sites=("x.com", "y.example"),
        previous_hash=KeyString().hash,
        previous_expire_time=NOW + DAY,
        disabled=True,
        expire_time=NOW + DAY,
        delete_time=NOW,
        revision=7,
    )
    assert (await store.api_keys.add(full)).is_new
    assert await store.api_keys.get(full.id) == full
    for key_hash in (full.hash, full.previous_hash):
        found, tenant = await store.api_keys.find(key_hash)
        assert (found, tenant.name) == (full, "tenants/local")
    assert await store.api_keys.find(KeyString().hash) is None
    with pytest.raises(NotFound):
        await store.api_keys.get(key(2).id)


async def test_requests_are_idempotent(store):
    """Of concurrent creations with one request_id, one creates the key, and all return it."""
    changes = await asyncio.gather(*(store.api_keys.add(key(n), request(1)) for n in range(8)))
    assert len({change.key.id for change in changes}) == 1
    assert [change.is_new for change in changes].count(True) == 1
    assert await reason(store.api_keys.add(key(9), request(1, b"other"))) == "REQUEST_ID_REUSED"
    made = changes[0].key
    rotations = await asyncio.gather(
        *(
            store.api_keys.change(
                made.id,
                lambda k: model.rotate(k, KeyString(), DAY, NOW),
                NOW,
                replace(request(2), method="Rotate"),
            )
            for _ in range(4)
        )
    )
    assert [rotation.is_new for rotation in rotations].count(True) == 1
    assert (await store.api_keys.get(made.id)).revision == 2


async def test_tenants_of_keys(store, monkeypatch):
    """A key needs a tenant that exists and is not being deleted; a tenant has a limited number of keys."""
    assert await reason(store.api_keys.add(key(1, tenant="nobody"))) == "FIELD_INVALID"
    monkeypatch.setattr(model, "MAX_PER_TENANT", 2)
    results = await asyncio.gather(*(store.api_keys.add(key(n)) for n in range(4)), return_exceptions=True)
    errors = [result for result in results if isinstance(result, ReelhaulError)]
    assert [ErrorReason.Name(error.reason) for error in errors] == ["QUOTA_EXCEEDED"] * 2
    await set_tenant(store, delete_time=1)
    assert await reason(store.api_keys.add(key(9))) == "STATE_CONFLICT"


async def test_pages_and_filters(store):
    """Pages by either time have each key once, in order, whether or not it was used."""
    keys = [key(n, expire_time=NOW + DAY if n % 3 == 0 else None, disabled=n % 4 == 0) for n in range(12)]
    for each in keys:
        await store.api_keys.add(each)
    used = {each.id: NOW + timedelta(minutes=n) for n, each in enumerate(keys) if n % 2}
    await store.api_keys.record_uses(used)
    await store.api_keys.record_uses({keys[1].id: NOW - DAY})

    def position(each: ApiKey, order: KeyOrder) -> Any:
        return (each.create_time if order is KeyOrder.CREATED else used.get(each.id, NEVER_USED)), each.id

    for order in KeyOrder:
        for descending in (True, False):
            found: list[ApiKey] = []
            while True:
                after = position(found[-1], order) if found else None
                query = KeyQuery(limit=5, order=order, descending=descending, after=after, now=NOW)
                page = await store.api_keys.list_page(query)
                found += page.keys
                if not page.has_more:
                    break
            expected = sorted(keys, key=lambda each: position(each, order), reverse=descending)
            assert [each.id for each in found] == [each.id for each in expected]
            assert {each.id: each.last_use_time for each in found if each.last_use_time} == used


async def test_purge(store):
    """Keys that were deleted long ago are gone, others stay."""
    await store.api_keys.add(key(1, delete_time=NOW - DAY))
    await store.api_keys.add(key(2, delete_time=NOW))
    await store.api_keys.add(key(3))
    assert await store.api_keys.purge(NOW, 10) == 1
    assert await store.api_keys.purge(NOW, 10) == 0
    page = await store.api_keys.list_page(KeyQuery(limit=10, show_deleted=True, now=NOW))
    assert [each.id for each in page.keys] == [key(3).id, key(2).id]


async def test_a_ticket_is_taken_once(store):
    """Of concurrent redemptions of a ticket one gets it, with everything that it stands for."""
    grantee = api_key_pb2.ApiKey(name="users/alice", permission=DOWNLOAD)
    ticket = Ticket(hash=b"t" * 32, tenant="local", grantee=grantee, expire_time=NOW + DAY)
    await store.api_keys.add_ticket(ticket, NOW)
    await store.api_keys.add_ticket(replace(ticket, hash=b"old", expire_time=NOW), NOW)
    taken = await asyncio.gather(*(store.api_keys.take_ticket(ticket.hash) for _ in range(8)))
    assert [each for each in taken if each is not None] == [ticket]
    await store.api_keys.add_ticket(replace(ticket, hash=b"new"), NOW)
    assert await store.api_keys.take_ticket(b"old") is None


@pytest.mark.parametrize("side", ["sqlite", "postgresql"])
async def test_replicas_cannot_remove_the_last_full_access_keys_together(tmp_path, side):
    """Of concurrent calls at several replicas that would take all FULL_ACCESS keys, one fails."""
    with migrated_database("reelhaul_jobs") if side == "postgresql" else nullcontext() as url:
        async with AsyncExitStack() as stack:
            if url is None:
                replicas = [(await stack.enter_async_context(sqlite_store(tmp_path))).api_keys] * 3
            else:
                replicas = [(await stack.enter_async_context(open_store(url))).api_keys for _ in range(3)]
            keys = [key(n, permission=FULL_ACCESS) for n in range(3)]
            for each in keys:
                await replicas[0].add(each)
            together = threading.Barrier(3)

            def delete_together(each: ApiKey) -> ApiKey:
                # All are in the middle of their transactions at the same time, unless something prevents it.
                with suppress(threading.BrokenBarrierError):
                    together.wait(0.3)
                return model.delete(each, NOW)

            results = await asyncio.gather(
                *(store.change(k.id, delete_together, NOW) for store, k in zip(replicas, keys, strict=True)),
                return_exceptions=True,
            )
            assert not [each for each in results if not isinstance(each, KeyChange | ReelhaulError)]
            assert len((await replicas[0].list_page(KeyQuery(limit=100, now=NOW))).keys) == 1


async def test_the_first_key_is_created_once(store):
    """Of replicas that start together one creates the first key; a disabled tenant's key does not count."""
    created = await asyncio.gather(
        *(store.api_keys.add_first(key(n, permission=FULL_ACCESS), NOW) for n in range(4))
    )
    assert created.count(True) == 1
    await set_tenant(store, disabled=True)
    assert not await store.api_keys.has_full_access(NOW)


@pytest.mark.parametrize("seed", range(4))
async def test_a_full_access_key_always_works(store, seed):
    """Whatever sequence of changes is made, concurrent ones too, one FULL_ACCESS key works for good."""
    choose = random.Random(seed)
    await store.api_keys.add(key(0, permission=FULL_ACCESS))
    count, now = 1, NOW

    def expire(each: ApiKey) -> ApiKey:
        return model.update(each, replace(each, expire_time=now + choose.choice([DAY, 30 * DAY])), now)

    rules = [
        lambda each: model.delete(each, now),
        lambda each: model.undelete(each, now),
        lambda each: model.update(each, replace(each, disabled=True), now),
        lambda each: model.update(each, replace(each, disabled=False, expire_time=None), now),
        lambda each: model.update(
            each, replace(each, permission=choose.choice([DOWNLOAD, FULL_ACCESS])), now
        ),
        lambda each: model.rotate(each, KeyString(), timedelta(0), now),
        expire,
    ]
    outcomes: list[Any] = []
    for _ in range(25):
        calls: list[Any] = []
        for _ in range(choose.randint(1, 4)):
            if choose.random() < 0.15:
                level = choose.choice([DOWNLOAD, FULL_ACCESS])
                expiry = choose.choice([None, now + DAY])
                calls.append(store.api_keys.add(key(count, permission=level, expire_time=expiry)))
                count += 1
            else:
                calls.append(
                    store.api_keys.change(key(choose.randrange(count)).id, choose.choice(rules), now)
                )
        outcomes += await asyncio.gather(*calls, return_exceptions=True)
        now += choose.choice([timedelta(0), 10 * DAY])
        page = await store.api_keys.list_page(KeyQuery(limit=1000, now=now))
        assert any(
            each.permission == FULL_ACCESS and each.state(now) is KeyState.ACTIVE and each.expire_time is None
            for each in page.keys
        )
    errors = [each for each in outcomes if isinstance(each, BaseException)]
    assert all(isinstance(each, ReelhaulError) for each in errors), errors
    assert any("create another one first" in str(each) for each in errors)
    assert len(errors) < len(outcomes)
