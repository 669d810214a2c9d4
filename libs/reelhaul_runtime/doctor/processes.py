"""Checks of the processes that run: what they report of themselves, and their clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from reelhaul_runtime.doctor.check import Check, Finding, ok, problem, warning
from reelhaul_runtime.settings import SuiteSettings
from reelhaul_runtime.up import data_dir
from reelhaul_runtime.up.suite_state import SuiteState

_SERVICES = ("jobs", "storage", "fetcher")


def checks(settings: SuiteSettings, suite: SuiteState | None) -> list[Check]:
    """Return the check of the processes of *suite*, or of the services at the addresses of the settings."""
    return [Check("processes", lambda: asyncio.run(_check(settings, suite)))]


async def _check(settings: SuiteSettings, suite: SuiteState | None) -> list[Finding]:
    from reelhaul_runtime.system.processes import ProcessReader

    token = settings.suite_token
    if suite is not None:
        targets = {
            name: getattr(settings, f"{name}_addresses") or suite.addresses[name] for name in _SERVICES
        }
        token = token or data_dir.load_suite_token(settings.data_dir.absolute() / "run")
    elif any(getattr(settings, f"{name}_addresses") for name in _SERVICES):
        targets = {name: getattr(settings, f"{name}_target") for name in _SERVICES}
    else:
        return [ok("no suite runs on this data folder", "`reelhaul up` starts it")]
    processes = await ProcessReader(targets, token, settings.tls).read()
    return [finding for process in processes for finding in _describe(process)]


def _describe(process: object) -> Iterator[Finding]:
    from reelhaul_runtime.system.process import NOT_SERVING, SERVING, Process

    assert isinstance(process, Process)
    name = f"{process.service} at {process.address}"
    troubled = [each for each in process.components if each.status not in (0, SERVING)]
    for component in troubled:
        text = f"{name}: {component.component}: {component.message or 'is not serving'}"
        yield (problem if component.status == NOT_SERVING else warning)(text, component.remedy)
    if process.message and not troubled:
        yield warning(f"{name}: {process.message}", "set the same REELHAUL_SUITE_TOKEN as the services have")
    elif not troubled:
        yield ok(f"{name} serves, version {process.version}, pid {process.pid} on {process.host}")
