"""One client's connection to the guard: every request on it is authenticated and checked on its own."""

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
from reelhaul_fetcher.guard.http.requests import RequestHead, parse_request_head
from reelhaul_fetcher.guard.session import NULL_SESSION, ProxySession
from reelhaul_fetcher.guard.verdicts import Verdict


class Connection:
    """Serves the requests of *client*. *find_session* returns the open session of a name."""

    def __init__(
        self, client: BufferedSocket, dialer: Dialer, find_session: Callable[[str], ProxySession | None]
    ) -> None:
        #: Set by the first request with valid credentials.
        self.session: ProxySession | None = None
        self.opened_at = time.monotonic()
        self._client = client
        self._dialer = dialer
        self._find_session = find_session
        self._forwarder: Forwarder | None = None

    @property
    def last_activity(self) -> float:
        """Monotonic time of the last byte on either side."""
        return max(self._client.last_activity, self._forwarder.last_activity if self._forwarder else 0.0)

    async def serve(self) -> None:
        """Serve requests until the connection is closed."""
        try:
            while await self._serve_request():
                pass
        except OSError:
            self._client.abort()
        except asyncio.CancelledError:
            # The connection was idle, or its session has ended.
            self._client.abort()
            raise
        except Exception:
            # A bug of the guard costs this connection, not all of them.
            traceback.print_exc()
            self._client.abort()
        finally:
            if self._forwarder:
                self._forwarder.close()
            self._client.close()

    async def _serve_request(self) -> bool:
        """Forward one request or answer with an error; return whether another one may follow."""
        host = ""
        try:
            head = await self._client.read_head(_HEAD_LIMIT)
            if not head:
                return False
            request_head = parse_request_head(head)
            # Before the target is parsed: a refusal of it can be signed.
            forwarder = self._authenticate(request_head)
            request = request_head.to_request()
            host = request.host
            if forwarder is None:
                return await self._close_with(error_responses.proxy_auth_required())
            return await forwarder.forward(request)
        except Malformed as malformed:
            self._record_refusal(host, malformed.reason)
            verdict = self._sign(Verdict(True, malformed.reason, host))
            return await self._close_with(error_responses.malformed(malformed.reason, verdict))
        except Refused as refused:
            self._record_refusal(host, refused.reason)
            verdict = self._sign(Verdict(True, refused.reason, host))
            return await self._close_with(error_responses.refused(refused.reason, verdict))
        except Unreachable as unreachable:
            verdict = self._sign(Verdict(False, unreachable.reason, host))
            response = error_responses.unreachable(unreachable.reason, unreachable.status, verdict)
            return await self._close_with(response)

    def _authenticate(self, request: RequestHead) -> Forwarder | None:
        """Return the forwarder for *request*, None without valid credentials.

        A connection belongs to one session: requests of another one are not authenticated.
        """
        name, secret = request.credentials()
        session = self._find_session(name)
        if not (session or NULL_SESSION).verify_secret(secret) or session is None:
            return None
        if self.session not in (None, session):
            return None
        task = asyncio.current_task()
        assert task
        self.session = session
        session.add_connection(task)
        self._forwarder = self._forwarder or Forwarder(self._client, self._dialer, session)
        return self._forwarder

    def _sign(self, verdict: Verdict) -> str:
        return self.session.sign(verdict) if self.session else ""

    def _record_refusal(self, host: str, reason: str) -> None:
        if self.session and reason != "byte-budget":  # the session records that one itself
            self.session.usage.add_refusal(host, reason)

    async def _close_with(self, response: bytes) -> bool:
        if self._forwarder and self._forwarder.responding:
            self._client.abort()
        else:
            await self._client.send(response)
            await self._client.linger()
        return False


_HEAD_LIMIT = 64 * 1024
