"""Sandbox of a child process: resource limits, and no network but the guard."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from reelhaul_runtime.parent_death import die_with_parent

_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None)

# What merging streams may write beyond the bytes received.
_MERGE_BYTES = 64 * 1024 * 1024


class NetworkDenied(PermissionError):
    """Something tried to bypass the guard."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """Limits of a child, and of each process that it starts."""

    #: Bytes to receive; 0: no limit.
    file_bytes: int
    cpu_seconds: int
    memory_bytes: int


def enter(
    folder: Path,
    proxy_url: str,
    limits: ResourceLimits,
    allowed_urls: Sequence[str] = (),
    inspector: socket.socket | None = None,
) -> None:
    """Restrict this process to *folder*, *limits* and the proxy, for good.

    *allowed_urls* are the operator's own services, which may be reached without the proxy. *inspector*
    is a socket to a process of this child, over which descriptors may be sent.
    """
    die_with_parent()
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(0o077)
    os.chdir(folder)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, limits.cpu_seconds)
    # A page of a few kilobytes may inflate to gigabytes. RLIMIT_AS would not do: V8 reserves much of it.
    _limit(resource.RLIMIT_DATA, limits.memory_bytes)
    if limits.file_bytes:
        _limit(resource.RLIMIT_FSIZE, limits.file_bytes + limits.file_bytes // 4 + _MERGE_BYTES)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    random.seed()
    _restrict_network(proxy_url, allowed_urls, inspector)


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _restrict_network(proxy_url: str, allowed_urls: Sequence[str], inspector: socket.socket | None) -> None:
    """Refuse every connection of this Python that goes neither to the proxy nor to *allowed_urls*.

    The audit hook sees addresses after name resolution and cannot be removed. Other programs (ffmpeg,
    deno) are confined on their own, see ``media.confinement``.
    """
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = proxy_url
    os.environ.pop("no_proxy", None)
    os.environ.pop("NO_PROXY", None)
    endpoints = [_endpoint(url) for url in (proxy_url, *allowed_urls)]
    addresses = {address for host, port in endpoints for address in _resolve(host, port)}
    hosts = {None, *(host for host, _ in endpoints)}

    def audit(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.connect":
            address = arguments[1]
            if not (isinstance(address, tuple) and address[:2] in addresses):
                raise NetworkDenied(f"{address!r} is not the guard")
        elif event == "socket.getaddrinfo" and arguments[0] not in hosts:
            raise NetworkDenied(f"only the guard resolves names, such as {arguments[0]!r}")
        elif event == "socket.sendmsg" and arguments[0] is inspector and arguments[1] is None:
            return
        elif event in ("socket.sendto", "socket.sendmsg", "socket.bind"):
            raise NetworkDenied(f"{event} is not allowed")

    sys.addaudithook(audit)


def _endpoint(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _resolve(host: str, port: int) -> list[tuple[str, int]]:
    """Return the addresses that *host* has now; what it resolves to later is not allowed."""
    try:
        return [found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]  # type: ignore[misc]
    except OSError:
        return []
