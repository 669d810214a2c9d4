"""Tracing of a process: starts the export of spans, and ends it with those of the drain."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from reelhaul_runtime.tracing import spans
from reelhaul_runtime.tracing.settings import TracingSettings

log = logging.getLogger(__name__)

# How long the end of the process may wait for the collector to take the last spans.
_FLUSH_SECONDS = 2.0


@asynccontextmanager
async def tracing(settings: TracingSettings, service: str) -> AsyncIterator[Callable[[], None]]:
    """Export the spans of this process, which runs *service*, until the block ends, if the settings say so.

    Yields what starts it: call it after the last process is forked, because the export has threads.
    """
    if not settings.otlp_endpoint:
        yield lambda: None
        return
    from reelhaul_runtime.tracing.export import SpanExport

    started: list[SpanExport] = []

    def start() -> None:
        export = SpanExport(settings, service)
        started.append(export)
        spans.configure(export.add, settings.trace_sample_ratio)
        log.info("tracing", extra={"endpoint": settings.otlp_endpoint, "ratio": settings.trace_sample_ratio})

    try:
        yield start
    finally:
        spans.configure(None)
        for export in started:
            await asyncio.to_thread(export.close, _FLUSH_SECONDS)
