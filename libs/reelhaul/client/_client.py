"""Client and AsyncClient: the clients of the gRPC API."""

from __future__ import annotations

import os
from typing import Self

import grpc

from reelhaul._core.async_client import RECONNECT_SECONDS, RETRY_SECONDS, BaseAsyncClient
from reelhaul._core.credentials import resolve_api_key
from reelhaul._core.resume import HEARTBEAT_SECONDS
from reelhaul._core.sync_client import BaseClient
from reelhaul.client._transport import GrpcTransport

DEFAULT_JOBS = "127.0.0.1:50051"
DEFAULT_STORAGE = "127.0.0.1:50053"
_JOBS_VARIABLE, _STORAGE_VARIABLE = "REELHAUL_JOBS_ADDRESS", "REELHAUL_STORAGE_ADDRESS"


class AsyncClient(BaseAsyncClient):
    """The methods of BaseAsyncClient, which says what they promise.

    It calls the jobs service at *address* and, for files, the storage service at *storage* (host:port), in
    plain text without *credentials*. *api_key* is sent with each call; by default it is REELHAUL_API_KEY of
    the environment, or the content of the file that REELHAUL_API_KEY_FILE names. A mistyped one is a
    ValueError.
    """

    def __init__(
        self,
        address: str = DEFAULT_JOBS,
        *,
        storage: str = DEFAULT_STORAGE,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        retry_timeout: float = RETRY_SECONDS,
        reconnect_timeout: float = RECONNECT_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        super().__init__(
            GrpcTransport(address, storage, resolve_api_key(api_key), credentials),
            retry_timeout=retry_timeout,
            reconnect_timeout=reconnect_timeout,
            heartbeat_seconds=heartbeat_seconds,
        )

    @classmethod
    def from_env(cls, *, credentials: grpc.ChannelCredentials | None = None) -> Self:
        """Return a client of REELHAUL_JOBS_ADDRESS, REELHAUL_STORAGE_ADDRESS and REELHAUL_API_KEY."""
        jobs, storage = _configured_addresses()
        return cls(jobs, storage=storage, credentials=credentials)


class Client(BaseClient):
    """The methods of BaseClient, which says what they promise.

    It calls the jobs service at *address* and, for files, the storage service at *storage* (host:port), in
    plain text without *credentials*. *api_key* is sent with each call; by default it is REELHAUL_API_KEY of
    the environment, or the content of the file that REELHAUL_API_KEY_FILE names. A mistyped one is a
    ValueError.
    """

    def __init__(
        self,
        address: str = DEFAULT_JOBS,
        *,
        storage: str = DEFAULT_STORAGE,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        retry_timeout: float = RETRY_SECONDS,
        reconnect_timeout: float = RECONNECT_SECONDS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        key = resolve_api_key(api_key)
        super().__init__(
            lambda: AsyncClient(
                address,
                storage=storage,
                api_key=key,
                credentials=credentials,
                retry_timeout=retry_timeout,
                reconnect_timeout=reconnect_timeout,
                heartbeat_seconds=heartbeat_seconds,
            )
        )

    @classmethod
    def from_env(cls, *, credentials: grpc.ChannelCredentials | None = None) -> Self:
        """Return a client of REELHAUL_JOBS_ADDRESS, REELHAUL_STORAGE_ADDRESS and REELHAUL_API_KEY."""
        jobs, storage = _configured_addresses()
        return cls(jobs, storage=storage, credentials=credentials)


def _configured_addresses() -> tuple[str, str]:
    return (
        os.environ.get(_JOBS_VARIABLE) or DEFAULT_JOBS,
        os.environ.get(_STORAGE_VARIABLE) or DEFAULT_STORAGE,
    )
