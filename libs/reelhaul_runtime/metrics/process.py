"""Metrics of a process with one or several services: where they are served, and what it uses."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from reelhaul_runtime.certificate import CertificateError, read_expiry
from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.metrics import instruments
from reelhaul_runtime.metrics.collectors import collecting
from reelhaul_runtime.metrics.http_server import serving_metrics
from reelhaul_runtime.settings import PREFIX, InvalidSetting, SuiteSettings
from reelhaul_runtime.version import version

# Of the timer by which a scrape measures how late the event loop is.
_LAG_TIMER_SECONDS = 0.001
_CERTIFICATE_SECONDS = 60.0


@asynccontextmanager
async def serving_process_metrics(names: Sequence[str], settings: SuiteSettings) -> AsyncIterator[None]:
    """Serve the metrics of this process, which runs the services *names*, until the end of the block.

    Several services have their metrics together, at the address of the first that has one. Raises
    InvalidSetting if that cannot be used.
    """
    for name in names:
        instruments.BUILD_INFO.labels(name, version()).set(1)
    fields = [field for name in names if getattr(settings, field := f"{name}_metrics_address", "")]
    async with AsyncExitStack() as stack:
        stack.enter_context(_counting_log_messages())
        stack.enter_context(collecting("event_loop", _measure_event_loop_lag))
        stack.enter_context(collecting_disks({"data": settings.data_dir}))
        if certificates := _certificates(names, settings):
            read = partial(_read_certificates, certificates)
            stack.enter_context(collecting("certificates", read, max_age_seconds=_CERTIFICATE_SECONDS))
        if fields:
            address = getattr(settings, fields[0])
            serving = serving_metrics(address, settings.metrics_token, reuse_port=settings.reuse_port)
            try:
                await stack.enter_async_context(serving)
            except AddressUnavailable as error:
                raise InvalidSetting(f"{PREFIX}{fields[0].upper()}: {error}") from error
        yield


def collecting_disks(folders: Mapping[str, Path]) -> AbstractContextManager[None]:
    """Let scrapes show the disks of *folders*, by what they are for, until the end of the block."""
    return collecting("disks", partial(_read_disks, folders))


async def _read_disks(folders: Mapping[str, Path]) -> list[Metric]:
    family = GaugeMetricFamily("reelhaul_disk_bytes", "disks of folders", labels=["folder", "state"])
    for name, folder in folders.items():
        try:
            disk = os.statvfs(folder)
        except FileNotFoundError:
            continue  # nothing is stored yet
        # What root alone may use is not free.
        family.add_metric([name, "free"], disk.f_bavail * disk.f_frsize)
        family.add_metric([name, "total"], disk.f_blocks * disk.f_frsize)
    return [family]


async def _measure_event_loop_lag() -> list[Metric]:
    loop = asyncio.get_running_loop()
    due = loop.time() + _LAG_TIMER_SECONDS
    await asyncio.sleep(_LAG_TIMER_SECONDS)
    instruments.EVENT_LOOP_LAG.set(max(0.0, loop.time() - due))
    return []


def _certificates(names: Sequence[str], settings: SuiteSettings) -> list[Path]:
    """Return the files of certificates that *names* use, by *settings*."""
    files = [settings.tls_certificate, settings.nats_certificate]
    if "gateway" in names:
        files.append(settings.gateway_tls_certificate)
    return [file for file in files if file is not None]


async def _read_certificates(files: Sequence[Path]) -> list[Metric]:
    family = GaugeMetricFamily(
        "reelhaul_certificate_expiry_timestamp_seconds",
        "when a TLS certificate in use expires",
        labels=["file"],
    )
    for file in files:
        try:
            family.add_metric([str(file)], read_expiry(file).timestamp())
        except CertificateError:
            continue  # it is being replaced, or the log says what is wrong
    return [family]


@contextmanager
def _counting_log_messages() -> Iterator[None]:
    """Count the lines that the handlers of this process write until the end of the block."""
    counters = {
        level: instruments.LOG_MESSAGES.labels(logging.getLevelName(level))
        for level in (logging.WARNING, logging.ERROR, logging.CRITICAL)
    }

    def count(record: logging.LogRecord) -> bool:
        if (counter := counters.get(record.levelno)) is not None:
            counter.inc()
        return True

    handlers = logging.getLogger().handlers[:1]
    for handler in handlers:
        handler.addFilter(count)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(count)
