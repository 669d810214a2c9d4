"""The state of a process of the fetcher, as it reports it to the suite."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reelhaul.system.v1.system_service_pb2 import ReportHealthResponse, ServingStatus
from reelhaul_fetcher.disk.cookies import CookieFolder
from reelhaul_fetcher.model.cookies import login_expiry, parse
from reelhaul_fetcher.service.disk_space import DiskMonitor
from reelhaul_fetcher.service.worker import Worker
from reelhaul_fetcher.ytdlp import version
from reelhaul_fetcher.ytdlp.process.engine import YtDlpEngine
from reelhaul_runtime.system.process_report import Describe
from reelhaul_runtime.system.remedies import ENGINE

_Component = ReportHealthResponse.Component

_COOKIES_REMEDY = "replace them: reelhaul fetcher cookies add"
_EXPIRES_SOON = timedelta(days=3)


def describe_components(
    engine: YtDlpEngine, worker: Worker, disk: DiskMonitor, work_dir: Path, cookies: CookieFolder | None
) -> Mapping[str, Describe]:
    """Return what describes the components of this process: engine, slots, disk and cookies."""

    async def describe_engine() -> _Component:
        age = version.engine_age(engine.version)
        if age.state == "ok":
            return _Component(version=age.engine, message=age.days_text)
        return _Component(version=age.engine, message=f"{age.days_text}: {age.state}", remedy=ENGINE)

    async def describe_slots() -> _Component:
        return _Component(used_count=worker.busy, total_count=worker.slots)

    async def describe_disk() -> _Component:
        total = (await asyncio.to_thread(shutil.disk_usage, work_dir)).total
        return _Component(free_bytes=disk.free_bytes, total_bytes=total)

    describe: dict[str, Describe] = {
        "fetcher.engine": describe_engine,
        "fetcher.slots": describe_slots,
        "fetcher.disk": describe_disk,
    }
    if cookies is not None:
        folder = cookies

        async def describe_cookies() -> _Component:
            return await asyncio.to_thread(_describe_cookies, folder, datetime.now(UTC))

        describe["fetcher.cookies"] = describe_cookies
    return describe


def _describe_cookies(folder: CookieFolder, now: datetime) -> _Component:
    """Return how many named cookies there are, which do not work, and when the first file has expired."""
    component, broken = _Component(), []
    expiries = []
    for stored in folder.list():
        component.used_count += 1
        if stored.jar is None:
            broken.append(f"{stored.name} cannot be decrypted")
            continue
        expiry = login_expiry(parse(stored.jar.text), stored.added or now)
        if stored.refused:
            broken.append(f"the site refused {stored.name}")
        elif expiry is not None and expiry - now < _EXPIRES_SOON:
            broken.append(f"{stored.name} {'have expired' if expiry <= now else 'expire soon'}")
        if expiry is not None:
            expiries.append(expiry)
    if expiries:
        component.expire_time.FromDatetime(min(expiries))
    if broken:
        component.status = ServingStatus.SERVING_STATUS_DEGRADED
        component.message, component.remedy = "; ".join(broken[:20]), _COOKIES_REMEDY
    return component
