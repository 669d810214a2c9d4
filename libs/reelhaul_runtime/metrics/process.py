"""Metrics of a process with one or several services: where they are served, and what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from reelhaul_runtime.listeners import AddressUnavailable
from reelhaul_runtime.metrics import instruments
from reelhaul_runtime.metrics.http_server import serving_metrics
from reelhaul_runtime.settings import PREFIX, InvalidSetting, SuiteSettings
from reelhaul_runtime.version import version


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
        if fields:
            address = getattr(settings, fields[0])
            serving = serving_metrics(address, settings.metrics_token, reuse_port=settings.reuse_port)
            try:
                await stack.enter_async_context(serving)
            except AddressUnavailable as error:
                raise InvalidSetting(f"{PREFIX}{fields[0].upper()}: {error}") from error
        yield
