"""The guard's end of the channel to its fetcher: orders come in, answers and counts go out, as JSON lines.

The first line configures the proxy. When the channel closes the guard ends, so it never outlives its fetcher.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from reelhaul_fetcher.guard.addresses import Rules
from reelhaul_fetcher.guard.dialer import Dialer, Upstream, system_resolver
from reelhaul_fetcher.guard.proxy import Limits, Proxy
from reelhaul_fetcher.guard.session import ProxySession


async def serve(channel: socket.socket, listener: socket.socket) -> None:
    """Run the proxy as ordered over *channel*, until it closes."""
    # A name service that hangs must not hold up other names: each look-up waits in a thread.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32, "resolve"))
    reader, writer = await asyncio.open_connection(sock=channel, limit=1 << 20)
    config = json.loads(await reader.readline() or "null")
    if config is None:
        return
    proxy = _proxy(config, listener)
    for opened in config["passes"]:
        proxy.open(**opened)
    _say(writer, {"id": config["id"]})
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(proxy.serve()), group.create_task(_report(proxy, writer))]
        while line := await reader.readline():
            order = json.loads(line)
            _say(writer, {"id": order["id"], **_done(proxy, order)})
        for task in tasks:
            task.cancel()


def _proxy(config: Mapping[str, Any], listener: socket.socket) -> Proxy:
    rules = Rules.of(config["allow_networks"], config["extra_ports"])
    dialer = Dialer(rules, system_resolver, config["connect_seconds"])
    limits = Limits(config["connections_per_pass"], idle_seconds=config["idle_seconds"])
    egresses = {name: Upstream.of(url) if url else None for name, url in config["egresses"].items()}
    return Proxy(listener, dialer, limits, egresses)


def _done(proxy: Proxy, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do what *order* says; the answer."""
    name = order["name"]
    match order["do"]:
        case "open":
            proxy.open(**{key: value for key, value in order.items() if key not in ("id", "do")})
            return {}
        case "close":
            return {"used": proxy.close(name)}
        case "usage":
            account = proxy.accounts.get(name)
            return {"used": account.used() if account else None}
    raise ValueError(f"{order['do']} is no order")


async def _report(proxy: Proxy, writer: asyncio.StreamWriter) -> None:
    """Tell what passes use as they use it: should the guard die, its successor counts on from there."""
    told: dict[ProxySession, tuple[int, int, int]] = {}
    while True:
        await asyncio.sleep(0.25)
        now = {account: account.marks for account in proxy.accounts.values()}
        for account, marks in now.items():
            if told.get(account, (0, 0, 0)) != marks:
                _say(writer, {"pass": account.name, "used": account.used()})
        told = now


def _say(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    writer.write(json.dumps(message).encode() + b"\n")
