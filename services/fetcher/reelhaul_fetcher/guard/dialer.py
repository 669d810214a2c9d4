"""The way out: a name is resolved once, all its addresses are checked, and one of those is connected to."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from reelhaul_fetcher.guard.addresses import Address, Rules, literal, unmapped
from reelhaul_fetcher.guard.errors import Unreachable

#: The addresses of a name, as text. Raises OSError when it has none.
Resolver = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Upstream:
    """Another proxy, behind the guard, which resolves names and goes out."""

    host: str
    port: int
    #: The value of Proxy-Authorization; empty: none.
    authorization: str

    @classmethod
    def of(cls, url: str) -> Upstream:
        """``http://[user:password@]host:port``. Raises ValueError, which never shows the password."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("an upstream proxy is written http://[user:password@]host:port")
        userinfo = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = f"Basic {b64encode(userinfo.encode()).decode()}" if parts.username else ""
        return cls(parts.hostname, parts.port or 80, basic)


class Dialer:
    """Opens connections to where the rules allow, directly or through an upstream proxy."""

    def __init__(self, rules: Rules, resolver: Resolver, seconds: float) -> None:
        self._rules = rules
        self._resolver = resolver
        self._seconds = seconds

    async def dial(self, host: str, port: int, upstream: Upstream | None) -> socket.socket:
        """A connection to *host*, or to *upstream* on the way there.

        Raises ``Refused``, or ``Unreachable`` when it is allowed but does not answer.
        """
        addresses = await self._checked(host, port, upstream)
        if upstream is None:
            return await self._connected(addresses, port)
        # Whoever runs the suite chose this proxy: it may well be inside.
        try:
            through = await self._resolved(upstream.host, self._seconds)
            return await self._connected(through, upstream.port)
        except Unreachable as away:
            # Not the site's fault: another egress may do.
            raise Unreachable("upstream-away", away.status) from None

    async def _checked(self, host: str, port: int, upstream: Upstream | None) -> list[Address]:
        written = literal(host)
        # Behind an upstream proxy there may be no name service here at all, and every request would wait.
        patience = min(self._seconds, 3.0) if upstream else self._seconds
        try:
            addresses = [written] if written else await self._resolved(host, patience)
        except Unreachable:
            if upstream is None:
                raise
            # Only the upstream proxy knows this name; its port is all that can be judged here.
            self._rules.check([_ANY_GLOBAL], port)
            return []
        self._rules.check(addresses, port)
        return [unmapped(address) for address in addresses]

    async def _resolved(self, host: str, seconds: float) -> list[Address]:
        with suppress(ValueError):
            return [ip_address(host)]
        try:
            async with asyncio.timeout(seconds):
                found = [ip_address(text) for text in await self._resolver(host)]
        except TimeoutError:
            raise Unreachable("resolve-timeout", 504) from None
        except (OSError, ValueError):
            raise Unreachable("unresolved") from None
        if not found:
            raise Unreachable("unresolved")
        return found

    async def _connected(self, addresses: Sequence[Address], port: int) -> socket.socket:
        """A connection to the first of *addresses* that answers; the last one is waited for longest."""
        *others, last = addresses[:_ADDRESSES_TRIED]
        for address in others:
            with suppress(Unreachable):
                return await _connect(address, port, min(self._seconds, 3.0))
        return await _connect(last, port, self._seconds)


async def system_resolver(host: str) -> list[str]:
    """The addresses of *host* as this machine's name service gives them, in its order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def _connect(address: Address, port: int, seconds: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(seconds):
            await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except TimeoutError:
        sock.close()
        raise Unreachable("connect-timeout", 504) from None
    except OSError:
        sock.close()
        raise Unreachable("connect-failed") from None
    except BaseException:
        sock.close()
        raise
    return sock


_ADDRESSES_TRIED = 6
_ANY_GLOBAL = ip_address("2600::")
