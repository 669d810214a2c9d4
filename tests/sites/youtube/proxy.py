"""The way in: an HTTP proxy that is itself every host of YouTube, behind certificates of its own CA."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase

import trustme
from tests.sites.http import Answer, Request, read_request, serve_connection

#: What may be reached. All else is refused, so that nothing leaks.
HOSTS = (
    "youtube.com",
    "*.youtube.com",
    "youtubei.googleapis.com",
    "i.ytimg.com",
    "yt3.ggpht.com",
    "*.googlevideo.com",
    # Asked beside YouTube, about its videos.
    "sponsor.ajay.app",
)

Respond = Callable[[str, Request], Awaitable[Answer]]


class Gate:
    """Connections as they come: tunnels to YouTube's hosts are answered, all else is refused."""

    def __init__(self, respond: Respond, told: Callable[[Request], Awaitable[Answer]]) -> None:
        self._respond = respond
        self._told = told
        self._authority = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*HOSTS).configure_cert(self._context)
        #: What was refused, as asked: ``example.com:443`` or ``http://example.com/``.
        self.refused: list[str] = []

    @property
    def certificate(self) -> bytes:
        """The CA's certificate, as PEM."""
        return self._authority.cert_pem.bytes()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        try:
            request = await read_request(reader)
            if request is not None:
                await self._serve(request, reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, ValueError, TimeoutError):
            pass  # Not a client of ours, or one that went away.
        finally:
            writer.close()

    async def _serve(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = request.target.rpartition(":")
        if request.method == "CONNECT" and port == "443" and _is_youtube(host):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.start_tls(self._context)
            await serve_connection(lambda inner: self._respond(host, inner), reader, writer)
        elif request.target.startswith("/_"):
            answer = await self._told(request)
            head = f"HTTP/1.1 {answer.status} OK\r\nContent-Length: {len(answer.body)}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode())
            writer.write(answer.body)
            await writer.drain()
        else:
            self.refused.append(request.target)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()


def _is_youtube(host: str) -> bool:
    return any(fnmatchcase(host.lower(), pattern) for pattern in HOSTS)
