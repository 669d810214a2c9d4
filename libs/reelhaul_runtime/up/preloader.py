"""Preloader: a process that imports once what the services share, and becomes each of them by a fork.

So the services share the memory of what they import, and the suite is ready sooner. It is run as
``python -m reelhaul_runtime.up.preloader FD SUPERVISOR``, where FD is a SOCK_SEQPACKET socket to the
supervisor, whose process id is SUPERVISOR. It stays single-threaded, knows no settings and no secrets, and
imports nothing of a service: a fork reads its own environment, and then does what ``serve`` does. It ends
when the supervisor closes the socket. A service that is restarted is a command of its own again.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import cast

from reelhaul_runtime.child_process import module_command
from reelhaul_runtime.parent_death import die_with_parent

#: What services share, in two parts, each with those that need no more.
SHARED_BY_ALL = (
    "reelhaul_runtime.serve",
    "reelhaul_runtime.rpc.server",
    "reelhaul_runtime.auth.audit_log",
    "reelhaul_runtime.auth.rate_limits",
    "reelhaul_runtime.auth.verification",
    "reelhaul_runtime.nats_client",
    "reelhaul_runtime.page_tokens",
    "reelhaul_runtime.system.service",
    "reelhaul_runtime.validation.urls",
    "httpx",
    "uvloop",
)
SHARED_BY_DATABASES = (
    "reelhaul_runtime.sql.database",
    "reelhaul_runtime.sql.filter_conditions",
    "reelhaul_runtime.sql.migrations",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
)
_DATABASES = frozenset({"jobs", "storage"})

_MAX_MESSAGE_BYTES = 4096
_ADOPTION_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Request:
    """A request to become the service *name*, with descriptors of its environment (JSON) and its output."""

    name: str
    environment: int
    output: int


def main() -> int:
    """Fork services until the supervisor closes the socket; in a fork, run the service."""
    # Garbage that is freed leaves gaps, which the forks would fill: so they would copy the pages around them.
    gc.disable()
    control, supervisor = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(control.fileno(), False)
    request = _fork_all(control)
    control.detach()
    if request is None:
        return 0
    _become(request, supervisor)
    from reelhaul_runtime import serve

    return serve.main([request.name])


def _fork_all(control: socket.socket) -> _Request | None:
    """Fork each service that is requested; return None at the end, and in a fork what it is to become."""
    import_shared_by_all()
    later = []
    while _is_readable(control) and (request := _receive(control)):
        if request.name in _DATABASES:
            later.append(request)
        elif not _fork(control, request):
            return request
    import_modules(SHARED_BY_DATABASES)
    while request := later.pop() if later else _receive(control):
        if not _fork(control, request):
            return request
    return None


def _receive(control: socket.socket) -> _Request | None:
    """Return the next request; None if the supervisor has closed the socket."""
    packet, descriptors, _, _ = socket.recv_fds(control, _MAX_MESSAGE_BYTES, 2)
    return _Request(packet.decode(), *descriptors) if packet else None


def _is_readable(control: socket.socket) -> bool:
    return bool(select.select([control], [], [], 0)[0])


def import_shared_by_all() -> None:
    """Import SHARED_BY_ALL, and the settings of all services, which every process knows."""
    # httpx imports its command line, and so rich and pygments, if it can: 2 MB.
    sys.modules["httpx._main"] = cast("ModuleType", None)
    import_modules(SHARED_BY_ALL)
    from reelhaul_runtime import service

    with suppress(ImportError):
        service.settings_classes()


def import_modules(modules: Sequence[str]) -> None:
    """Import *modules*, as far as they are installed."""
    for module in modules:
        # Without an optional package, the service that needs it says so itself.
        with suppress(ImportError):
            importlib.import_module(module)


def _fork(control: socket.socket, request: _Request) -> bool:
    """Fork a process that the supervisor adopts, and tell it the id; return False in that process.

    It is a grandchild of this process: when its parent ends, it becomes a child of the supervisor, which is
    the subreaper (prctl(2)), and which alone can then wait for it.
    """
    # What is loaded is no garbage: a collection would write to its memory, and so copy it.
    gc.freeze()
    read_end, write_end = os.pipe()
    if parent := os.fork():
        for descriptor in (write_end, request.environment, request.output):
            os.close(descriptor)
        with open(read_end) as pipe:
            child = int(pipe.read())
        # After its end the child is the supervisor's.
        os.waitpid(parent, 0)
        with suppress(OSError):
            control.send(json.dumps({"name": request.name, "pid": child}).encode())
        return True
    if child := os.fork():
        os.write(write_end, b"%d" % child)
        os._exit(0)
    os.close(read_end)
    os.close(write_end)
    return False


def _become(request: _Request, supervisor: int) -> None:
    """Turn this fork into a process like one that the supervisor executes."""
    os.setsid()
    deadline = time.monotonic() + _ADOPTION_SECONDS
    while os.getppid() != supervisor and time.monotonic() < deadline:
        time.sleep(0.0005)
    die_with_parent(signal.SIGTERM, parent=supervisor)
    for number in (1, 2):
        os.dup2(request.output, number)
    with open(request.environment) as file:
        os.environ.update(json.load(file))
    # Those of services that wait are among the others.
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    _set_command_line(module_command("reelhaul_runtime", "serve", request.name))


def _set_command_line(arguments: Sequence[str]) -> None:
    """Have ps(1) show *arguments*, as far as the arguments of this process leave room."""
    fields = open("/proc/self/stat").read().rpartition(")")[2].split()  # noqa: SIM115 - read at once
    # arg_start and arg_end of proc(5), where the first field here is the third.
    start, end = int(fields[45]), int(fields[46])
    text = b"".join(os.fsencode(each) + b"\0" for each in arguments)
    if start and len(text) <= end - start:
        ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    sys.exit(main())
