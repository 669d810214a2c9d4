"""Opens connections to sites: resolves a name once, checks all its addresses, connects to one of those."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from reelhaul_fetcher.guard.errors import Refused, Unreachable
from reelhaul_runtime.addresses import Address, Rules, parse_host, unmap
from reelhaul_runtime.sites import site_names

#: Returns the addresses of a name, as text. Raises OSError if it has none.
Resolver = Callable[[str], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Upstream:
    """A proxy behind the guard, which resolves names and connects to sites."""

    host: str
    port: int
    #: The value of Proxy-Authorization; empty: none.
    authorization: str

    @classmethod
    def parse(cls, url: str) -> Upstream:
        """Parse ``http://[user:password@]host:port``. Raises ValueError, which never shows the password."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError("an upstream proxy is written http://[user:password@]host:port")
        userinfo = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        basic = f"Basic {b64encode(userinfo.encode()).decode()}" if parts.username else ""
        return cls(parts.hostname, parts.port or 80, basic)


class Dialer:
    """Opens connections to allowed addresses, directly or through an upstream proxy."""

    def __init__(
        self, rules: Rules, resolver: Resolver, timeout: float, denied_sites: Collection[str] = ()
    ) -> None:
        """*denied_sites* are host names, which include their subdomains, and addresses."""
        self._rules = rules
        self._denied_sites = frozenset(denied_sites)
        self._resolver = resolver
        self._timeout = timeout

    async def dial(self, host: str, port: int, upstream: Upstream | None) -> socket.socket:
        """Return a connection to *host*, or to *upstream* on the way to it.

        Raises ``Refused``, or ``Unreachable`` if the address is allowed but does not answer.
        """
        addresses = await self._resolve_and_check(host, port, upstream)
        if upstream is None:
            return await self._connect_to_any(addresses, port)
        # The operator chose this proxy: it may be on an internal address.
        try:
            upstream_addresses = await self._resolve(upstream.host, self._timeout)
            return await self._connect_to_any(upstream_addresses, upstream.port)
        except Unreachable as unreachable:
            # Not the site's failure: another egress may work.
            raise Unreachable("upstream-away", unreachable.status) from None

    async def _resolve_and_check(self, host: str, port: int, upstream: Upstream | None) -> list[Address]:
        literal = parse_host(host)
        if self._denied_sites and not self._denied_sites.isdisjoint(site_names(host)):
            raise Refused("site")
        # With an upstream proxy there may be no name service here at all: do not delay every request.
        timeout = min(self._timeout, 3.0) if upstream else self._timeout
        try:
            addresses = [literal] if literal else await self._resolve(host, timeout)
        except Unreachable:
            if upstream is None:
                raise
            # Only the upstream proxy can resolve this name; the guard can check nothing but the port.
            self._rules.check([_ANY_GLOBAL], port)
            return []
        self._rules.check(addresses, port)
        return [unmap(address) for address in addresses]

    async def _resolve(self, host: str, timeout: float) -> list[Address]:
        with suppress(ValueError):
            return [ip_address(host)]
        try:
            async with asyncio.timeout(timeout):
                addresses = [ip_address(text) for text in await self._resolver(host)]
        except TimeoutError:
            raise Unreachable("resolve-timeout", 504) from None
        except (OSError, ValueError):
            raise Unreachable("unresolved") from None
        if not 0 < len(addresses) <= _MAX_ANSWER:
            raise Unreachable("unresolved")
        return addresses

    async def _connect_to_any(self, addresses: Sequence[Address], port: int) -> socket.socket:
        """Connect to the first of *addresses* that answers; the last one gets the full timeout."""
        *others, last = addresses[:_MAX_ADDRESSES]
        for address in others:
            with suppress(Unreachable):
                return await _connect(address, port, min(self._timeout, 3.0))
        return await _connect(last, port, self._timeout)


async def system_resolver(host: str) -> list[str]:
    """Return the addresses of *host* from this machine's name service, in its order."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in infos))


async def _connect(address: Address, port: int, timeout: float) -> socket.socket:
    sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(timeout):
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


_MAX_ADDRESSES = 6
# DNS allows thousands of addresses; to check them would stop the guard for a tenth of a second.
_MAX_ANSWER = 256
_ANY_GLOBAL = ip_address("2600::")
