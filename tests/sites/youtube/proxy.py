"""HTTP proxy that answers for every host of YouTube, with certificates of its own CA."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase

import trustme
from tests.sites.http import Request, Response, read_request, serve_connection

#: The only hosts that can be reached; requests to others are refused, so that nothing leaks.
HOSTS = (
    "youtube.com",
    "*.youtube.com",
    "youtubei.googleapis.com",
    "i.ytimg.com",
    "yt3.ggpht.com",
    "*.googlevideo.com",
    # SponsorBlock, which is asked about YouTube's videos.
    "sponsor.ajay.app",
)

Handler = Callable[[str, Request], Awaitable[Response]]


class Proxy:
    """Answers tunnels to YouTube's hosts and refuses all other requests."""

    def __init__(self, handler: Handler, handle_status: Callable[[Request], Awaitable[Response]]) -> None:
        """*handler* answers requests to a host; *handle_status* those for ``/_…`` of the proxy itself."""
        self._handler = handler
        self._handle_status = handle_status
        self._authority = trustme.CA()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(*HOSTS).configure_cert(self._context)
        #: Targets of refused requests: ``example.com:443`` or ``http://example.com/``.
        self.refused: list[str] = []

    @property
    def certificate(self) -> bytes:
        """The CA's certificate as PEM."""
        return self._authority.cert_pem.bytes()

    async def handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        try:
            request = await read_request(reader)
            if request is not None:
                await self._serve(request, reader, writer)
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError, ValueError, TimeoutError):
            pass  # The client does not speak the protocol, or has gone.
        finally:
            writer.close()

    async def _serve(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = request.target.rpartition(":")
        if request.method == "CONNECT" and port == "443" and _is_youtube(host):
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await writer.start_tls(self._context)
            await serve_connection(lambda inner: self._handler(host, inner), reader, writer)
        elif request.target.startswith("/_"):
            response = await self._handle_status(request)
            head = f"HTTP/1.1 {response.status} OK\r\nContent-Length: {len(response.body)}\r\n"
            writer.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode())
            writer.write(response.body)
            await writer.drain()
        else:
            self.refused.append(request.target)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()


def _is_youtube(host: str) -> bool:
    return any(fnmatchcase(host.lower(), pattern) for pattern in HOSTS)
