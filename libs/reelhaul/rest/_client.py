"""Client and AsyncClient: the clients of the JSON API."""

from __future__ import annotations

import os
from typing import Self

from reelhaul._core.async_client import RECONNECT_SECONDS, RETRY_SECONDS, BaseAsyncClient
from reelhaul._core.credentials import resolve_api_key
from reelhaul._core.resume import HEARTBEAT_SECONDS
from reelhaul._core.sync_client import BaseClient
from reelhaul.rest._transport import RestTransport

DEFAULT_SERVER = "http://127.0.0.1:8080"
_SERVER_VARIABLE = "REELHAUL_GATEWAY_ADDRESS"


class AsyncClient(BaseAsyncClient):
    """The methods of BaseAsyncClient, which says what they promise.

    It calls the gateway at *server*, a URL or host:port. *api_key* is sent to it with each call, and to no
    other server; by default it is REELHAUL_API_KEY of the environment, or the content of the file that
    REELHAUL_API_KEY_FILE names. A mistyped one is a ValueError.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        retry_timeout: float = RETRY_SECONDS,
        reconnect_timeout: float = RECONNECT_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        super().__init__(
            RestTransport(_url(server), resolve_api_key(api_key)),
            retry_timeout=retry_timeout,
            reconnect_timeout=reconnect_timeout,
            heartbeat_seconds=heartbeat_seconds,
        )

    @classmethod
    def from_env(cls) -> Self:
        """Return a client of the gateway at REELHAUL_GATEWAY_ADDRESS, with the key of REELHAUL_API_KEY."""
        return cls(_configured_server())


class Client(BaseClient):
    """The methods of BaseClient, which says what they promise.

    It calls the gateway at *server*, a URL or host:port. *api_key* is sent to it with each call, and to no
    other server; by default it is REELHAUL_API_KEY of the environment, or the content of the file that
    REELHAUL_API_KEY_FILE names. A mistyped one is a ValueError.
    """

    def __init__(
        self,
        server: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        retry_timeout: float = RETRY_SECONDS,
        reconnect_timeout: float = RECONNECT_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self.server = _url(server)
        key = resolve_api_key(api_key)
        super().__init__(
            lambda: AsyncClient(
                server,
                api_key=key,
                retry_timeout=retry_timeout,
                reconnect_timeout=reconnect_timeout,
                heartbeat_seconds=heartbeat_seconds,
            )
        )

    @classmethod
    def from_env(cls) -> Self:
        """Return a client of the gateway at REELHAUL_GATEWAY_ADDRESS, with the key of REELHAUL_API_KEY."""
        return cls(_configured_server())


def _configured_server() -> str:
    return os.environ.get(_SERVER_VARIABLE) or DEFAULT_SERVER


def _url(server: str) -> str:
    return (server if "://" in server else f"http://{server}").rstrip("/")
