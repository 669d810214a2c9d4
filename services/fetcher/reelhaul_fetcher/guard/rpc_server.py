"""The guard's side of the RPC channel to its fetcher: one JSON request, response or usage report per line.

The first request configures the proxy. The guard ends when the channel closes, so it never outlives
its fetcher.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from reelhaul_fetcher.guard.dialer import Dialer, Upstream, system_resolver
from reelhaul_fetcher.guard.proxy import Limits, Proxy
from reelhaul_fetcher.guard.session import ProxySession
from reelhaul_fetcher.model.proxy_usage import Usage
from reelhaul_runtime.addresses import Rules

_REPORT_SECONDS = 0.25
# The configuration of a restarted guard holds every session with its latest refusals, up to 20 KB each.
_MAX_REQUEST_BYTES = 64 << 20


async def serve(channel: socket.socket, listener: socket.socket) -> None:
    """Run a proxy on *listener* as requested over *channel*, until that closes."""
    # Each look-up waits in a thread of its own: a slow name service must not delay other names.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32, "resolve"))
    reader, writer = await asyncio.open_connection(sock=channel, limit=_MAX_REQUEST_BYTES)
    config = json.loads(await reader.readline() or "null")
    if config is None:
        return
    proxy = _create_proxy(config, listener)
    for session in config["sessions"]:
        _open_session(proxy, session)
    _send(writer, {"id": config["id"]})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(proxy.serve()), group.create_task(_report_usage(proxy, writer))]
        while line := await reader.readline():
            request = json.loads(line)
            usage = _handle(proxy, request)
            _send(writer, {"id": request["id"], "usage": usage and asdict(usage)})
        for task in tasks:
            task.cancel()


def _create_proxy(config: Mapping[str, Any], listener: socket.socket) -> Proxy:
    rules = Rules.parse(config["allow_networks"], config["extra_ports"])
    dialer = Dialer(rules, system_resolver, config["connect_seconds"], config["denied_sites"])
    limits = Limits(config["connections_per_session"], idle_seconds=config["idle_seconds"])
    egresses = {name: Upstream.parse(url) if url else None for name, url in config["egresses"].items()}
    return Proxy(listener, dialer, limits, egresses)


def _handle(proxy: Proxy, request: Mapping[str, Any]) -> Usage | None:
    """Carry out *request*; return the usage of the session that it names, None if that is not open."""
    match request["method"]:
        case "open":
            _open_session(proxy, request)
            return None
        case "close":
            return proxy.close_session(request["name"])
        case "usage":
            session = proxy.sessions.get(request["name"])
            return _usage_of(session) if session else None
    raise ValueError(f"unknown method {request['method']}")


def _open_session(proxy: Proxy, request: Mapping[str, Any]) -> None:
    proxy.open_session(
        request["name"],
        request["secret"],
        request["byte_limit"],
        request["seconds"],
        request["egress"],
        Usage.from_json(request["usage"]),
    )


async def _report_usage(proxy: Proxy, writer: asyncio.StreamWriter) -> None:
    """Report each session's usage when it changes: if the guard dies, its successor continues from there."""
    reported: dict[ProxySession, Usage] = {}
    while True:
        await proxy.wait_for_session()
        await asyncio.sleep(_REPORT_SECONDS)
        current = {session: _usage_of(session) for session in proxy.sessions.values()}
        for session, usage in current.items():
            before = reported.get(session, Usage())
            if (before, before.connections) != (usage, usage.connections):
                _send(writer, {"session": session.name, "usage": asdict(usage)})
        reported = current


def _usage_of(session: ProxySession) -> Usage:
    return replace(session.usage, connections=len(session.connections))


def _send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
