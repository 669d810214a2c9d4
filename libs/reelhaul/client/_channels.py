"""Connections that come back by themselves."""

from __future__ import annotations

import ipaddress
from typing import Any

import grpc
from grpc import aio

_OPTIONS: list[tuple[str, Any]] = [
    # A server that restarts is found again at once, not after minutes of backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # A list of 500 jobs is more than the 4 MiB that grpc takes by itself.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
]


def opened(address: str, credentials: grpc.ChannelCredentials | None) -> aio.Channel:
    """A channel to *address*; nothing is sent yet. Without *credentials* it is plain text."""
    # A proxy in the environment leads to the world, not to this machine.
    options = [*_OPTIONS, ("grpc.enable_http_proxy", int(not _is_local(address)))]
    if credentials is None:
        return aio.insecure_channel(address, options)
    return aio.secure_channel(address, credentials, options)


def _is_local(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
