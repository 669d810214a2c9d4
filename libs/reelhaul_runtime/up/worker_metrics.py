"""Metrics of workers: read from each at a scrape, and exposed together, by the number of the worker.

They are not added up: a counter of a worker that was restarted begins at zero, which Prometheus expects of
each series and not of their sum.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)

#: The label with the number of the worker, from 1.
WORKER = "worker"
_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 16 << 20


async def read_workers(addresses: Sequence[str], token: str) -> Collector:
    """Return the metrics at *addresses* (host:port); those of a worker that does not answer are missing."""
    texts = await asyncio.gather(*(_scrape(address, token) for address in addresses))
    families: dict[str, Metric] = {}
    for number, text in enumerate(texts, 1):
        for family in text_string_to_metric_families(text):
            merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            merged.samples += [
                sample._replace(labels={**sample.labels, WORKER: str(number)}) for sample in family.samples
            ]
    return _Families(families.values())


class _Families:
    """What was read, as a collector."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


async def _scrape(address: str, token: str) -> str:
    """Return the metrics at *address* in the text format; empty if nothing answers."""
    host, _, port = address.rpartition(":")
    headers = [f"Host: {address}", *([f"Authorization: Bearer {token}"] if token else [])]
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write("\r\n".join(["GET /metrics HTTP/1.1", *headers, "", ""]).encode())
                status, _, rest = (await _read_all(reader)).partition(b"\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        log.debug("a worker does not answer", extra={"address": address, "cause": repr(error)})
        return ""
    return rest.partition(b"\r\n\r\n")[2].decode() if status == b"HTTP/1.1 200 OK" else ""


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    content = bytearray()
    while len(content) < _MAX_BYTES and (part := await reader.read(1 << 16)):
        content += part
    return bytes(content)
