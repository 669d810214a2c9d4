"""ApiKeyService on SQLite, with a clock that the test sets: who manages keys, and whose strings they are."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner
from google.protobuf import duration_pb2, field_mask_pb2
from tests.job_stores import SqlStore
from tests.jobs.fake_bus import FakeBus

from reelhaul import api_keys as strings
from reelhaul.admin.v1 import api_key_pb2
from reelhaul.admin.v1.api_key_pb2 import ApiKey, Quota
from reelhaul.admin.v1.api_key_service_pb2 import (
    CreateApiKeyRequest,
    CreateTicketRequest,
    DeleteApiKeyRequest,
    GetApiKeyRequest,
    ListApiKeysRequest,
    RedeemTicketRequest,
    RotateApiKeyRequest,
    UndeleteApiKeyRequest,
    UpdateApiKeyRequest,
)
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import GRANT_EXPERT_SELECTOR, PermissionLevel
from reelhaul_jobs.api.api_keys.servicer import ApiKeyServicer
from reelhaul_jobs.commands import first_key
from reelhaul_jobs.model.api_key import KeyString
from reelhaul_jobs.service.access_changes import AccessChanges
from reelhaul_jobs.service.api_keys import ApiKeys, DeletedKeyPurger
from reelhaul_jobs.service.credentials import Credentials
from reelhaul_jobs.service.first_key import create_first_key, write_key_file
from reelhaul_jobs.service.quotas import Quotas
from reelhaul_jobs.store.quotas import SqlQuotaStore
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import Caller
from reelhaul_runtime.page_tokens import PageTokens

READ_ONLY = PermissionLevel.PERMISSION_LEVEL_READ_ONLY
DOWNLOAD = PermissionLevel.PERMISSION_LEVEL_DOWNLOAD
ADMIN = PermissionLevel.PERMISSION_LEVEL_ADMIN
FULL_ACCESS = PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS
START = datetime(2030, 1, 1, 12, 0, 30, tzinfo=UTC)
OPERATOR = Caller("local", FULL_ACCESS)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
R = TypeVar("R")


class KeyHarness:
    """The service on a database, without a server; each call is of a caller that the test names."""

    def __init__(self, store: SqlStore) -> None:
        self.time, self.bus, self.store = START, FakeBus(), store.api_keys
        self.changes = AccessChanges(self.bus)
        self.credentials = Credentials(self.store, self.now)
        keys = ApiKeys(self.store, self.changes, self.now)
        quotas, tokens = Quotas(SqlQuotaStore(store.database), self.now), PageTokens("secret", self.now)
        self.servicer = ApiKeyServicer(keys, self.credentials, quotas, tokens, self.now)
        self.purger = DeletedKeyPurger(self.store, self.now)

    def now(self) -> datetime:
        return self.time

    async def call(self, method: str, request: Any, caller: Caller = OPERATOR) -> Any:
        """Call *method* as *caller*, in a context of its own."""
        context = contextvars.copy_context()
        context.run(identity.set_caller, caller)
        return await asyncio.create_task(getattr(self.servicer, method)(request, None), context=context)

    async def create(self, permission: Any = DOWNLOAD, caller: Caller = OPERATOR, **fields: Any) -> ApiKey:
        key = ApiKey(permission=permission, **fields)
        created: ApiKey = await self.call("CreateApiKey", CreateApiKeyRequest(api_key=key), caller)
        return created

    async def get(self, name: str, caller: Caller = OPERATOR) -> ApiKey:
        key: ApiKey = await self.call("GetApiKey", GetApiKeyRequest(name=name), caller)
        return key

    async def update(self, name: str, caller: Caller = OPERATOR, mask: str = "", **fields: Any) -> ApiKey:
        request = UpdateApiKeyRequest(
            api_key=ApiKey(name=name, **fields),
            update_mask=field_mask_pb2.FieldMask(paths=mask.split(",")) if mask else None,
        )
        key: ApiKey = await self.call("UpdateApiKey", request, caller)
        return key

    async def delete(self, name: str, caller: Caller = OPERATOR, etag: str = "") -> ApiKey:
        key: ApiKey = await self.call("DeleteApiKey", DeleteApiKeyRequest(name=name, etag=etag), caller)
        return key

    async def works(self, key_string: str) -> bool:
        """Return whether a call with *key_string* is authenticated."""
        try:
            await self.servicer.verify(key_string)
        except ReelhaulError as error:
            return error.reason != ErrorReason.CREDENTIAL_INVALID or key_string in error.text
        return True


@pytest.fixture
def keys(store: SqlStore) -> KeyHarness:
    return KeyHarness(store)


def caller_of(key: ApiKey) -> Caller:
    """Return who calls with *key*."""
    tenant = key.tenant.removeprefix("tenants/")
    return Caller(tenant, key.permission, principal=key.name, api_key=key)


async def reason(call: Awaitable[object]) -> str:
    with pytest.raises(ReelhaulError) as failure:
        await call
    return ErrorReason.Name(failure.value.reason)


async def test_key_string_is_returned_once(keys):
    """Only the response of the creation has the string; later ones have its first 12 characters."""
    created = await keys.create(
        display_name="Büro", allowed_sites=["YouTube.com"], allowed_cidrs=["192.0.2.1"]
    )
    assert strings.is_well_formed(created.key_string)
    assert created.key_prefix == created.key_string[:12]
    assert (created.tenant, created.state, created.permission) == ("tenants/local", ApiKey.ACTIVE, DOWNLOAD)
    assert (created.allowed_sites, created.allowed_cidrs) == (["youtube.com"], ["192.0.2.1/32"])
    read = await keys.get(created.name)
    assert read.key_string == ""
    stored = await keys.store.get(created.name.removeprefix("apiKeys/"))
    assert created.key_string not in repr(stored)
    created.ClearField("key_string")
    assert read == created
    assert (await keys.get(created.name.removeprefix("apiKeys/"))) == created


async def test_repeated_requests_return_no_string(keys):
    """A creation or rotation repeated with its request_id returns the same key, without the string."""
    request_id = "0c0e9e42-7a2b-4e55-8fd3-6e63f2b1a3f0"
    request = CreateApiKeyRequest(api_key=ApiKey(permission=DOWNLOAD), request_id=request_id)
    first, second = await keys.call("CreateApiKey", request), await keys.call("CreateApiKey", request)
    assert (first.name, bool(first.key_string)) == (second.name, True)
    assert second.key_string == ""
    rotate = RotateApiKeyRequest(name=first.name, request_id=request_id)
    rotated, again = await keys.call("RotateApiKey", rotate), await keys.call("RotateApiKey", rotate)
    assert again.key_string == ""
    assert again.etag == rotated.etag
    assert await keys.works(rotated.key_string)
    other = CreateApiKeyRequest(api_key=ApiKey(permission=ADMIN), request_id=request_id)
    assert await reason(keys.call("CreateApiKey", other)) == "REQUEST_ID_REUSED"


async def test_validate_only_creates_nothing(keys):
    """A key that is only validated has neither name nor string, and is not stored."""
    request = CreateApiKeyRequest(api_key=ApiKey(permission=DOWNLOAD), validate_only=True)
    preview = await keys.call("CreateApiKey", request)
    assert (preview.name, preview.key_string, preview.permission) == ("", "", DOWNLOAD)
    request.api_key.tenant = "tenants/nobody"
    assert await reason(keys.call("CreateApiKey", request)) == "FIELD_INVALID"
    listed = await keys.call("ListApiKeys", ListApiKeysRequest(show_deleted=True))
    assert list(listed.api_keys) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, ""),
        ({"permission": 0}, "api_key.permission"),
        ({"permission": PermissionLevel.PERMISSION_LEVEL_PUBLIC}, "api_key.permission"),
        ({"permission": 99}, "api_key.permission"),
        ({"display_name": "x" * 100}, ""),
        ({"display_name": "x" * 101}, "api_key.display_name"),
        ({"display_name": "a\nb"}, "api_key.display_name"),
        ({"grants": [GRANT_EXPERT_SELECTOR]}, ""),
        ({"grants": [GRANT_EXPERT_SELECTOR] * 2}, "api_key.grants"),
        ({"grants": [77]}, "api_key.grants"),
        ({"quota": Quota(jobs_per_day=-1)}, ""),
        ({"quota": Quota(jobs_per_day=-2)}, "api_key.quota.jobs_per_day"),
        ({"allowed_cidrs": ["192.0.2.1/8"]}, "api_key.allowed_cidrs[0]"),
        ({"denied_sites": ["https://x.com"]}, "api_key.denied_sites[0]"),
        ({"tenant": "local"}, ""),
        ({"tenant": "tenants/nobody"}, "api_key.tenant"),
        ({"tenant": "tenants/../x"}, "api_key.tenant"),
        ({"ttl": duration_pb2.Duration(seconds=60)}, ""),
        ({"ttl": duration_pb2.Duration()}, "api_key.ttl"),
        ({"ttl": duration_pb2.Duration(seconds=2**60)}, "api_key.ttl"),
        ({"expire_time": START - SECOND}, "api_key.expire_time"),
        ({"expire_time": START + 4000 * DAY}, "api_key.expire_time"),
        ({"expire_time": START + DAY}, ""),
    ],
)
async def test_fields_of_new_keys(keys, fields, field):
    """A wrong field is named; its valid twin is accepted."""
    if not field:
        await keys.create(**fields)
        return
    with pytest.raises(ReelhaulError) as failure:
        await keys.create(**fields)
    assert failure.value.reason == ErrorReason.FIELD_INVALID
    assert failure.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("level", "managed", "is_allowed"),
    [
        (ADMIN, READ_ONLY, True),
        (ADMIN, DOWNLOAD, True),
        (ADMIN, ADMIN, False),
        (ADMIN, FULL_ACCESS, False),
        (FULL_ACCESS, ADMIN, True),
        (FULL_ACCESS, FULL_ACCESS, True),
    ],
)
async def test_no_key_manages_keys_above_its_level(keys, level, managed, is_allowed):
    """ADMIN manages keys up to DOWNLOAD, FULL_ACCESS all; it gives levels within the same limit."""
    await keys.create(FULL_ACCESS)
    caller = caller_of(await keys.create(level))
    key, deleted, low = await keys.create(managed), await keys.create(managed), await keys.create(READ_ONLY)
    await keys.delete(deleted.name)
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: keys.create(managed, caller),
        lambda: keys.update(low.name, caller, permission=managed),
        lambda: keys.update(key.name, caller, display_name="mine"),
        lambda: keys.update(key.name, caller, permission=READ_ONLY),
        lambda: keys.call("RotateApiKey", RotateApiKeyRequest(name=key.name), caller),
        lambda: keys.call("UndeleteApiKey", UndeleteApiKeyRequest(name=deleted.name), caller),
        lambda: keys.delete(key.name, caller),
    ]
    if not is_allowed:
        assert {await reason(call()) for call in calls} == {"PERMISSION_INSUFFICIENT"}
        assert await keys.works(key.key_string)
    for call in calls if is_allowed else ():
        await call()


async def test_grants_and_quotas_of_an_admin(keys):
    """ADMIN gives only grants that it has, and no quotas; it may keep those of a key that it changes."""
    grants, quota = [GRANT_EXPERT_SELECTOR], Quota(jobs_per_day=7)
    without = caller_of(await keys.create(ADMIN))
    holder = caller_of(await keys.create(ADMIN, grants=grants))
    key = await keys.create(grants=grants, quota=quota)
    assert await reason(keys.create(caller=without, grants=grants)) == "PERMISSION_INSUFFICIENT"
    assert await reason(keys.create(caller=holder, quota=quota)) == "PERMISSION_INSUFFICIENT"
    assert (await keys.create(caller=holder, grants=grants)).grants == grants
    assert (await keys.update(key.name, without, display_name="other")).quota == quota
    assert await reason(keys.update(key.name, without, mask="quota")) == "PERMISSION_INSUFFICIENT"
    assert (await keys.update(key.name, without, mask="grants")).grants == []
    assert await reason(keys.update(key.name, without, grants=grants)) == "PERMISSION_INSUFFICIENT"


@pytest.mark.parametrize("level", [READ_ONLY, DOWNLOAD, ADMIN])
async def test_keys_below_admin_see_only_themselves(keys, level):
    """apiKeys/me is the caller's own key; another one exists only for ADMIN."""
    own, other = await keys.create(level), await keys.create()
    caller = caller_of(own)
    assert (await keys.get("apiKeys/me", caller)).name == (await keys.get(own.name, caller)).name == own.name
    assert (await keys.get("me", caller)).name == own.name
    if level == ADMIN:
        assert (await keys.get(other.name, caller)).name == other.name
    else:
        assert await reason(keys.get(other.name, caller)) == "RESOURCE_NOT_FOUND"
    assert await reason(keys.get("apiKeys/me", OPERATOR)) == "RESOURCE_NOT_FOUND"


async def test_update(keys):
    """An update changes what its mask names, checks the etag, and cannot move a key to another tenant."""
    key = await keys.create(display_name="a", allowed_sites=["x.com"], expire_time=START + DAY)
    changed = await keys.update(key.name, display_name="b", disabled=True, etag=key.etag)
    assert (changed.display_name, changed.disabled, changed.state) == ("b", True, ApiKey.DISABLED)
    assert (changed.allowed_sites, changed.expire_time) == (["x.com"], key.expire_time)
    assert await reason(keys.update(key.name, display_name="c", etag=key.etag)) == "ETAG_MISMATCH"
    assert await reason(keys.update(key.name, tenant="tenants/other")) == "FIELD_INVALID"
    assert await reason(keys.update(key.name, mask="nothing")) == "FIELD_INVALID"
    cleared = await keys.update(key.name, mask="expire_time,allowed_sites,disabled", display_name="unused")
    assert (cleared.display_name, list(cleared.allowed_sites), cleared.disabled) == ("b", [], False)
    assert not cleared.HasField("expire_time")
    later = await keys.update(key.name, ttl=duration_pb2.Duration(seconds=60))
    assert later.expire_time.ToDatetime(UTC) == START + 60 * SECOND
    keys.time += 61 * SECOND
    expired = await keys.update(key.name, display_name="d")
    assert (expired.display_name, expired.state) == ("d", ApiKey.EXPIRED)
    assert keys.bus.access_changes == [key.name] * 4


async def test_rotation_with_grace(keys):
    """The old string works until the grace ends, to the microsecond; the new one at once and afterwards."""
    key = await keys.create()
    request = RotateApiKeyRequest(name=key.name, grace=duration_pb2.Duration(seconds=3600))
    rotated = await keys.call("RotateApiKey", request)
    assert rotated.key_prefix == rotated.key_string[:12]
    assert await keys.works(key.key_string)
    assert await keys.works(rotated.key_string)
    assert (await keys.servicer.verify(key.key_string)).max_age.seconds == 60
    keys.time = START + 3600 * SECOND - 10 * SECOND
    assert (await keys.servicer.verify(key.key_string)).max_age.seconds == 10
    keys.time = START + 3600 * SECOND - timedelta(microseconds=1)
    assert await keys.works(key.key_string)
    keys.time = START + 3600 * SECOND
    assert not await keys.works(key.key_string)
    assert await keys.works(rotated.key_string)
    assert keys.bus.access_changes == [key.name]


async def test_rotation_without_grace(keys):
    """Without grace the old string stops working now, as does one whose grace is not over."""
    key = await keys.create()
    graceful = RotateApiKeyRequest(name=key.name, grace=duration_pb2.Duration(seconds=3600))
    second = await keys.call("RotateApiKey", graceful)
    third = await keys.call("RotateApiKey", RotateApiKeyRequest(name=key.name))
    assert [await keys.works(each.key_string) for each in (key, second, third)] == [False, False, True]
    too_long = RotateApiKeyRequest(name=key.name, grace=duration_pb2.Duration(seconds=7 * 86400 + 1))
    assert await reason(keys.call("RotateApiKey", too_long)) == "FIELD_INVALID"


async def test_disabled_and_expired_keys(keys):
    """A key works unless it is disabled or past its expiry; its string is not needed to enable it again."""
    key = await keys.create(expire_time=START + 30 * SECOND)
    assert (await keys.servicer.verify(key.key_string)).max_age.seconds == 30
    await keys.update(key.name, disabled=True)
    assert not await keys.works(key.key_string)
    await keys.update(key.name, mask="disabled")
    assert await keys.works(key.key_string)
    keys.time = START + 30 * SECOND
    assert not await keys.works(key.key_string)
    assert (await keys.get(key.name)).state == ApiKey.EXPIRED
    assert await reason(keys.call("RotateApiKey", RotateApiKeyRequest(name=key.name))) == "STATE_CONFLICT"
    assert keys.bus.access_changes == [key.name] * 2


async def test_delete_undelete_purge(keys):
    """A deleted key stops working, can be undeleted for 30 days, and is gone after them."""
    key = await keys.create()
    deleted = await keys.delete(key.name)
    assert deleted.state == ApiKey.DELETED
    assert deleted.purge_time.ToDatetime(UTC) == START + 30 * DAY
    assert not await keys.works(key.key_string)
    assert (await keys.delete(key.name)).etag == deleted.etag
    assert await reason(keys.update(key.name, display_name="x")) == "STATE_CONFLICT"
    assert await reason(keys.call("RotateApiKey", RotateApiKeyRequest(name=key.name))) == "STATE_CONFLICT"
    assert (await keys.call("ListApiKeys", ListApiKeysRequest())).api_keys == []
    undelete = UndeleteApiKeyRequest(name=key.name)
    assert (await keys.call("UndeleteApiKey", undelete)).state == ApiKey.ACTIVE
    assert await keys.works(key.key_string)
    assert await reason(keys.call("UndeleteApiKey", undelete)) == "STATE_CONFLICT"
    assert await reason(keys.delete(key.name, etag='"1"')) == "ETAG_MISMATCH"
    await keys.delete(key.name)
    keys.time = START + 30 * DAY
    await keys.purger.step()
    assert (await keys.get(key.name)).state == ApiKey.DELETED
    keys.time += SECOND
    assert not await keys.purger.step()
    assert await reason(keys.get(key.name)) == "RESOURCE_NOT_FOUND"


async def test_last_full_access_key_is_kept(keys):
    """The last FULL_ACCESS key that works for good is not disabled, deleted, lowered or given an expiry."""
    expiring = await keys.create(FULL_ACCESS, expire_time=START + DAY)
    assert await reason(keys.delete(expiring.name)) == "STATE_CONFLICT"
    last = await keys.create(FULL_ACCESS)
    await keys.delete(expiring.name)
    losses: list[dict[str, Any]] = [
        {"disabled": True},
        {"permission": ADMIN},
        {"expire_time": START + 300 * DAY},
        {"ttl": duration_pb2.Duration(seconds=60)},
    ]
    for loss in losses:
        assert await reason(keys.update(last.name, **loss)) == "STATE_CONFLICT"
    assert await reason(keys.delete(last.name)) == "STATE_CONFLICT"
    assert await keys.works(last.key_string)
    assert (await keys.update(last.name, display_name="root")).etag == '"2"'
    await keys.create(FULL_ACCESS)
    assert (await keys.delete(last.name)).state == ApiKey.DELETED


async def test_list(keys):
    """Keys of all tenants are listed newest first, filtered and in pages."""
    names = []
    for number in range(5):
        keys.time = START + number * SECOND
        key = await keys.create(ADMIN if number == 3 else DOWNLOAD, display_name=f"key {number}")
        names.append(key.name)
    await keys.update(names[1], disabled=True)
    await keys.delete(names[0])

    async def listed(**fields: Any) -> list[str]:
        found, token = [], ""
        while True:
            request = ListApiKeysRequest(page_size=2, page_token=token, **fields)
            page = await keys.call("ListApiKeys", request)
            found += [key.name for key in page.api_keys]
            assert not any(key.key_string for key in page.api_keys)
            if not (token := page.next_page_token):
                return found

    assert await listed() == names[:0:-1]
    assert await listed(show_deleted=True, order_by="create_time") == names
    assert await listed(filter="state = DISABLED") == [names[1]]
    assert await listed(filter="state = DELETED", show_deleted=True) == [names[0]]
    assert await listed(filter="permission = ADMIN") == [names[3]]
    assert await listed(filter='permission = PERMISSION_LEVEL_ADMIN AND tenant = "tenants/local"') == [
        names[3]
    ]
    assert await listed(filter='tenant = "local" AND display_name = "*2"') == [names[2]]
    assert await listed(filter='tenant = "other"') == []
    assert await listed(filter='create_time > "2030-01-01T12:00:33Z"') == [names[4]]
    await keys.store.record_uses({names[2].removeprefix("apiKeys/"): START})
    assert await listed(order_by="last_use_time desc") == [names[2], names[4], names[3], names[1]]
    assert await listed(order_by="last_use_time") == [names[1], names[3], names[4], names[2]]
    assert await reason(listed(filter="key_string = x")) == "FILTER_INVALID"
    assert await reason(listed(order_by="display_name")) == "ORDER_BY_INVALID"


async def test_pages_fit_into_a_response(keys):
    """A page of keys with long lists has fewer of them than asked for, and the next page goes on."""
    sites = [f"{n:03}.{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}" for n in range(100)]
    for _ in range(90):
        await keys.create(allowed_sites=sites, denied_sites=sites)
    pages, token = [], ""
    while token or not pages:
        page = await keys.call("ListApiKeys", ListApiKeysRequest(page_size=1000, page_token=token))
        pages.append(page)
        token = page.next_page_token
    assert max(page.ByteSize() for page in pages) < 4 * 1024 * 1024
    assert len({key.name for page in pages for key in page.api_keys}) == 90
    assert len(pages) == 2


async def test_last_use(keys):
    """The last use is stored to the minute, in one write for many calls, and changes no etag."""
    key = await keys.create()
    for _ in range(3):
        await keys.servicer.verify(key.key_string)
    assert not (await keys.get(key.name)).HasField("last_use_time")
    await keys.credentials.write_uses()
    used = await keys.get(key.name)
    assert (used.last_use_time.ToDatetime(UTC), used.etag) == (START.replace(second=0), key.etag)
    keys.time += timedelta(minutes=2)
    async with keys.credentials.writing_uses():
        await keys.servicer.verify(key.key_string)
    used = await keys.get(key.name)
    assert used.last_use_time.ToDatetime(UTC) == START.replace(second=0) + timedelta(minutes=2)


async def test_tickets(keys):
    """A ticket stands for its creator once, within 60 seconds, and only while the key works."""
    key = await keys.create(READ_ONLY)

    async def ticket(caller: Caller) -> str:
        created = await keys.call("CreateTicket", CreateTicketRequest(), caller)
        assert created.expire_time.ToDatetime(UTC) == keys.time + 60 * SECOND
        assert len(created.ticket) == 43
        return str(created.ticket)

    async def redeem(text: str) -> Any:
        return await keys.call("RedeemTicket", RedeemTicketRequest(ticket=text))

    text = await ticket(caller_of(key))
    redeemed = await redeem(text)
    assert (redeemed.api_key.name, redeemed.tenant.name) == (key.name, "tenants/local")
    assert await reason(redeem(text)) == "CREDENTIAL_INVALID"
    assert await reason(redeem("x" * 1_000_000)) == "CREDENTIAL_INVALID"
    late, disabled = await ticket(caller_of(key)), await ticket(caller_of(key))
    await keys.update(key.name, disabled=True)
    assert await reason(redeem(disabled)) == "CREDENTIAL_INVALID"
    await keys.update(key.name, mask="disabled")
    keys.time += 60 * SECOND
    assert await reason(redeem(late)) == "CREDENTIAL_INVALID"
    granted = api_key_pb2.ApiKey(quota=Quota(jobs_per_day=3))
    user = Caller("local", DOWNLOAD, principal="users/alice", api_key=granted)
    redeemed = await redeem(await ticket(user))
    assert (redeemed.api_key.name, redeemed.api_key.permission) == ("users/alice", DOWNLOAD)
    assert (redeemed.api_key.quota, redeemed.api_key.tenant) == (granted.quota, "tenants/local")
    granted.expire_time.FromDatetime(keys.time + SECOND)
    text = await ticket(user)
    keys.time += SECOND
    assert await reason(redeem(text)) == "CREDENTIAL_INVALID"


async def test_first_key(keys, tmp_path):
    """Without a working FULL_ACCESS key one is created, and its string left in a file for its owner only."""
    file = tmp_path / "run" / "api-key"
    await create_first_key(keys.store, file, keys.now)
    string = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (await keys.servicer.verify(string)).api_key.permission == FULL_ACCESS
    await create_first_key(keys.store, file, keys.now)
    assert file.read_text().strip() == string
    file.unlink()
    await create_first_key(keys.store, file, keys.now)
    assert not file.exists()
    assert len((await keys.call("ListApiKeys", ListApiKeysRequest())).api_keys) == 1


async def test_first_key_after_a_crash(keys, tmp_path):
    """A string that was written before a crash becomes the key; that of a key that works is left alone."""
    file = tmp_path / "api-key"
    write_key_file(file, crashed := KeyString())
    await create_first_key(keys.store, file, keys.now)
    assert file.read_text().strip() == crashed.text
    assert await keys.works(crashed.text)
    expiring = await keys.create(FULL_ACCESS, expire_time=START + DAY)
    write_key_file(tmp_path / "other", KeyString(expiring.key_string))
    await create_first_key(keys.store, tmp_path / "other", keys.now)
    assert (tmp_path / "other").read_text().strip() == expiring.key_string
    assert len((await keys.call("ListApiKeys", ListApiKeysRequest())).api_keys) == 2


async def test_first_key_when_all_have_expired(keys, tmp_path):
    """If no FULL_ACCESS key works any more, a new one replaces the string in the file."""
    expiring = await keys.create(FULL_ACCESS, expire_time=START + DAY)
    file = tmp_path / "api-key"
    write_key_file(file, KeyString(expiring.key_string))
    keys.time += DAY
    await create_first_key(keys.store, file, keys.now)
    assert file.read_text().strip() != expiring.key_string
    assert await keys.works(file.read_text().strip())


def test_first_key_command(tmp_path, monkeypatch):
    """The operator creates a FULL_ACCESS key in the database, without a running service."""
    monkeypatch.chdir(tmp_path)
    umask, printed = os.umask(0o022), []
    for arguments in ([], ["--store"]):
        result = CliRunner().invoke(first_key, arguments, env={"REELHAUL_DATA_DIR": "data"})
        assert result.exit_code == 0, result.output
        printed.append(result.stdout.strip())
    os.umask(umask)
    with closing(sqlite3.connect(tmp_path / "data" / "jobs.db")) as database:
        rows = database.execute("SELECT hash, permission FROM api_keys").fetchall()
    assert sorted(rows) == sorted((strings.hash_key_string(key), FULL_ACCESS) for key in printed)
    stored = tmp_path / "data" / "run" / "api-key"
    assert stored.read_text().strip() == printed[1]
    assert stored.stat().st_mode & 0o777 == 0o600
