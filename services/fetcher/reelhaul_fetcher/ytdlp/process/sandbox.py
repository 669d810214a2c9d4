"""What a child may do: little memory of its parent, limits, and one way out."""

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

# What a merge may need beyond the bytes received.
_ROOM_BYTES = 64 * 1024 * 1024


class NetworkDenied(PermissionError):
    """Something tried to reach the network past the guard."""


@dataclass(frozen=True, slots=True)
class ResourceLimits:
    """What a child may take, and each process that it begins: bytes of a file (0: any), CPU seconds,
    bytes of memory.
    """

    file_bytes: int
    cpu_seconds: int
    memory_bytes: int


def enter(
    folder: Path, proxy_url: str, *more_ways: str, bounds: ResourceLimits, within: socket.socket | None = None
) -> None:
    """Become a process that works in *folder*, with *proxy_url* as its only way out; not to be undone.

    *more_ways* are URLs of the operator's own services that may be reached directly; *within* is a
    line to a process of its own.
    """
    die_with_parent()
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.umask(0o077)
    os.chdir(folder)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, bounds.cpu_seconds)
    # A page of a few kilobytes may inflate to gigabytes. Not the address space: V8 reserves much of it.
    _limit(resource.RLIMIT_DATA, bounds.memory_bytes)
    if bounds.file_bytes:
        _limit(resource.RLIMIT_FSIZE, bounds.file_bytes + bounds.file_bytes // 4 + _ROOM_BYTES)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    random.seed()
    _only_way_out(proxy_url, more_ways, within)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _only_way_out(proxy_url: str, more_ways: Sequence[str], within: socket.socket | None) -> None:
    """Refuse each socket of this Python that does not go to the guard, or to one of *more_ways*.

    The hook sees the address after name resolution and cannot be taken off. What is not
    Python (ffmpeg, deno) gets no proxy with a pass, and ffmpeg a protocol whitelist.
    """
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = proxy_url
    os.environ.pop("no_proxy", None)
    os.environ.pop("NO_PROXY", None)
    named = [_named(url) for url in (proxy_url, *more_ways)]
    ways = {address for host, port in named for address in _addresses(host, port)}
    hosts = {None, *(host for host, _ in named)}

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "socket.connect":
            address = arguments[1]
            if not (isinstance(address, tuple) and address[:2] in ways):
                raise NetworkDenied(f"the only way out is the guard, not {address!r}")
        elif event == "socket.getaddrinfo" and arguments[0] not in hosts:
            raise NetworkDenied(f"names are resolved by the guard, not here: {arguments[0]!r}")
        elif event == "socket.sendmsg" and arguments[0] is within and arguments[1] is None:
            return
        elif event in ("socket.sendto", "socket.sendmsg", "socket.bind"):
            raise NetworkDenied(f"{event} is no way out")

    sys.addaudithook(watch)


def _named(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _addresses(host: str, port: int) -> list[tuple[str, int]]:
    """Where *host* is now: whatever it is called later, nothing else may be reached under its name."""
    try:
        return [found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]  # type: ignore[misc]
    except OSError:
        return []
