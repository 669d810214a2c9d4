"""One client's connection: each request on it is read, judged and carried by itself."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable

from reelhaul_fetcher.guard.buffered_socket import BufferedSocket
from reelhaul_fetcher.guard.dialer import Dialer
from reelhaul_fetcher.guard.errors import Malformed, Refused, Unreachable
from reelhaul_fetcher.guard.forwarder import Forwarder
from reelhaul_fetcher.guard.http import error_responses
from reelhaul_fetcher.guard.http.requests import Request, parse_request
from reelhaul_fetcher.guard.session import NULL_SESSION, ProxySession


class Connection:
    """Takes requests from *client* until one side has enough. Passes are found through *account_of*."""

    def __init__(
        self, client: BufferedSocket, dialer: Dialer, account_of: Callable[[str], ProxySession | None]
    ) -> None:
        #: Whose it is, from the first request that showed an open pass.
        self.account: ProxySession | None = None
        self.began = time.monotonic()
        self._client = client
        self._dialer = dialer
        self._account_of = account_of
        self._carrier: Forwarder | None = None

    @property
    def moved(self) -> float:
        """Monotonic time at which bytes last moved, on either side."""
        return max(self._client.moved, self._carrier.moved if self._carrier else 0.0)

    async def serve(self) -> None:
        """Carry request after request; returns when the connection is closed."""
        try:
            while await self._exchange():
                pass
        except OSError:
            self._client.abort()
        except asyncio.CancelledError:
            # Idle, out of time, or the pass was closed.
            self._client.abort()
            raise
        except Exception:
            # A fault of ours costs this connection, not everyone's.
            traceback.print_exc()
            self._client.abort()
        finally:
            if self._carrier:
                self._carrier.leave()
            self._client.close()

    async def _exchange(self) -> bool:
        """Carry one request, or answer why not; whether another may follow."""
        host = ""
        try:
            head = await self._client.head(_HEAD_LIMIT)
            if not head:
                return False
            request = parse_request(head)
            host = request.host
            carrier = self._admit(request)
            if carrier is None:
                return await self._close_with(error_responses.proxy_auth_required())
            return await carrier.carry(request)
        except Malformed as malformed:
            self._note(host, malformed.why)
            return await self._close_with(error_responses.malformed(malformed.why))
        except Refused as refused:
            self._note(host, refused.why)
            return await self._close_with(error_responses.refused(refused.why))
        except Unreachable as unreachable:
            return await self._close_with(error_responses.failed(unreachable.why, unreachable.status))

    def _admit(self, request: Request) -> Forwarder | None:
        """The carrier for *request*, if it shows an open pass: the same one on all of a connection."""
        name, secret = request.credentials()
        account = self._account_of(name)
        if not (account or NULL_SESSION).verify_secret(secret) or account is None:
            return None
        if self.account not in (None, account):
            return None
        task = asyncio.current_task()
        assert task
        self.account = account
        account.enter(task)
        self._carrier = self._carrier or Forwarder(self._client, self._dialer, account)
        return self._carrier

    def _note(self, host: str, why: str) -> None:
        if self.account and why != "byte-budget":  # the account has noted that itself
            self.account.refuse(host, why)

    async def _close_with(self, answer: bytes) -> bool:
        if self._carrier and self._carrier.answering:
            self._client.abort()
        else:
            await self._client.send(answer)
            await self._client.linger()
        return False


_HEAD_LIMIT = 64 * 1024
