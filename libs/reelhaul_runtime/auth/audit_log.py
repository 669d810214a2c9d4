"""Audit log: records the audited calls of a service, in its own store or at jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

from google.rpc import code_pb2, status_pb2
from grpc import aio

from reelhaul.admin.v1 import audit_service_pb2, audit_service_pb2_grpc
from reelhaul.admin.v1.audit_entry_pb2 import AuditEntry
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.auth.audit_entries import entries_of
from reelhaul_runtime.auth.calls import IncomingCall
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.logs import Outage
from reelhaul_runtime.rpc.channels import open_channel, status_as_errors
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.tasks import cancel_and_wait

log = logging.getLogger(__name__)

_CODE_NAMES = {code: name for name, code in code_pb2.Code.items()}

_AUDIT_SERVICE = audit_service_pb2.DESCRIPTOR.services_by_name["AuditService"]

#: Stores entries. Raises ReelhaulError.
Store = Callable[[Sequence[AuditEntry]], Awaitable[None]]

# Refused calls that are recorded per minute: of an address without an accepted credential, of a principal,
# and of all addresses and of all principals together, so that neither hides the other. Allowed calls are all
# recorded.
_PER_ADDRESS, _PER_PRINCIPAL, _REFUSED = 10, 60, 600
# How calls end that were allowed, and may have changed something nevertheless.
_INTERRUPTED = frozenset(
    {
        code_pb2.CANCELLED,
        code_pb2.DEADLINE_EXCEEDED,
        code_pb2.INTERNAL,
        code_pb2.UNAVAILABLE,
        code_pb2.UNKNOWN,
    }
)
_MINUTE = 60.0

#: Entries that wait for jobs; further ones are only in the service's own log.
MAX_WAITING = 10_000
_BATCH = 200
_SEND_SECONDS, _MAX_PAUSE_SECONDS = 10.0, 15.0
_STOP_SECONDS = 3.0


class AuditRecorder:
    """An AuditLog that stores the entries of each call before the call is answered.

    Calls of the suite's own services are not recorded: nobody asked for them. Of refused calls only so many
    per minute are: who has no credential must not be able to fill the database.
    """

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._minute_began = clock()
        #: By whether the caller is known.
        self._refused = {True: Counter[str](), False: Counter[str]()}
        self._unrecorded = 0

    async def record(self, call: IncomingCall, status: status_pb2.Status) -> None:
        """Store the entries of *call*; those that cannot be stored are written to the service's log."""
        if call.caller is not None and call.caller.suite:
            return
        if status.code != code_pb2.OK and not self._admit_refused(call, status):
            return
        entries = entries_of(call, status, datetime.now(UTC))
        try:
            await self._store(entries)
        except ReelhaulError as error:
            for entry in entries:
                log.error("audit entry not stored", extra={"cause": error.text, **_fields_of(entry)})

    def _admit_refused(self, call: IncomingCall, status: status_pb2.Status) -> bool:
        """Return whether *call*, which failed with *status*, is recorded."""
        if self._clock() - self._minute_began >= _MINUTE:
            if self._unrecorded:
                log.warning("refused calls not in the audit log", extra={"calls": self._unrecorded})
            self._minute_began, self._unrecorded = self._clock(), 0
            for counts in self._refused.values():
                counts.clear()
        caller = call.caller
        known = caller is not None and caller.level > PermissionLevel.PERMISSION_LEVEL_PUBLIC
        if known and status.code in _INTERRUPTED:
            return True
        refused = self._refused[known]
        who = f"{caller.tenant} {caller.principal}" if known and caller is not None else call.peer.address
        limit = _PER_PRINCIPAL if known else _PER_ADDRESS
        if refused.total() >= _REFUSED or refused[who] >= limit:
            self._unrecorded += 1
            return False
        refused[who] += 1
        return True


class RemoteAuditStore:
    """Sends entries to jobs in the background, in order, again until it has them.

    A call need not wait for jobs: its entries wait here instead, at most ``MAX_WAITING``. Those that are
    waiting when the process is killed, or for longer than it needs to stop, are lost.
    """

    def __init__(self, channel: aio.Channel) -> None:
        self._stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._waiting = deque[AuditEntry]()
        self._added = asyncio.Event()
        self._outage = Outage()

    @classmethod
    @asynccontextmanager
    async def open(cls, channel: aio.Channel) -> AsyncIterator[RemoteAuditStore]:
        """Send entries over *channel*, a service's to jobs, until the block exits and jobs has the rest."""
        store = cls(channel)
        sending = asyncio.create_task(store.send_forever())
        try:
            yield store
        finally:
            await cancel_and_wait(sending)
            await store.close()

    async def add(self, entries: Sequence[AuditEntry]) -> None:
        """Let *entries* wait for jobs; beyond the limit they are written to this service's log."""
        for entry in entries:
            if len(self._waiting) >= MAX_WAITING:
                log.error("audit entry not stored", extra={"cause": "jobs is away", **_fields_of(entry)})
            else:
                self._waiting.append(entry)
        self._added.set()

    async def close(self) -> None:
        """Send what waits, as far as jobs takes it at once; what it does not take is lost."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                while self._waiting and await self._send():
                    pass
        if self._waiting:
            log.error("audit entries lost", extra={"entries": len(self._waiting)})

    async def send_forever(self) -> None:
        """Send what waits, with growing pauses while jobs does not take it."""
        pause = 0.1
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                if await self._send():
                    pause = 0.1
                else:
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _MAX_PAUSE_SECONDS)

    async def _send(self) -> bool:
        """Send the first entries; return whether jobs has them now."""
        batch = [self._waiting[index] for index in range(min(_BATCH, len(self._waiting)))]
        request = audit_service_pb2.RecordAuditEntriesRequest(audit_entries=batch)
        try:
            with status_as_errors("jobs"):
                await self._stub.RecordAuditEntries(request, timeout=_SEND_SECONDS)
        except ReelhaulError as error:
            if (level := self._outage.level()) is not None:
                log.log(level, "audit entries wait for jobs", extra={"cause": error.text})
            return False
        self._outage.end()
        for _ in batch:
            self._waiting.popleft()
        return True


@asynccontextmanager
async def open_audit_log(settings: SuiteSettings) -> AsyncIterator[AuditRecorder]:
    """Open the audit log of a service other than jobs, which has the entries in the end."""
    channel = open_channel(
        settings.jobs_target, [_AUDIT_SERVICE], suite_token=settings.suite_token, tls=settings.tls
    )
    async with channel as opened, RemoteAuditStore.open(opened) as store:
        yield AuditRecorder(store.add)


def _fields_of(entry: AuditEntry) -> dict[str, str | int]:
    """Return *entry* for a line of a log."""
    return {
        "rpc": f"/{entry.method}",
        "principal": entry.principal,
        "resource": entry.resource,
        "address": entry.address,
        "code": _CODE_NAMES.get(entry.status.code, str(entry.status.code)),
    }
