"""The guard's process: ``python -m reelhaul_fetcher.guard CHANNEL LISTENER`` (inherited descriptors)."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import os
import resource
import signal
import socket
import sys

from reelhaul_fetcher.guard.rpc_server import serve
from reelhaul_runtime.parent_death import die_with_parent


def main() -> None:
    """Serve until the channel closes."""
    channel, listener = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    _prepare_process()
    faulthandler.enable()
    asyncio.run(serve(channel, listener))


def _prepare_process() -> None:
    # Ctrl-C and a service manager signal the whole group; draining downloads still need the proxy.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    # A core file would contain what users fetch.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    die_with_parent()
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


_PR_SET_NO_NEW_PRIVS = 38

if __name__ == "__main__":
    main()
    # DNS look-ups that hang in their threads must not keep the process alive.
    sys.stderr.flush()
    os._exit(0)
