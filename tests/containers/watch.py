"""Run in a container of jobs: watch a job with the gRPC client until it ends, and print its state."""

from __future__ import annotations

import asyncio
import sys

from reelhaul.client import AsyncClient, Download


async def _watch(job: str, key: str) -> None:
    async with AsyncClient("jobs.control:50051", api_key=key) as client:
        messages = 0
        async for _ in client.watch(job):
            messages += 1
        assert messages, "no message was received"
        print(Download.Status.Name((await client.get(job)).status))


asyncio.run(_watch(*sys.argv[1:]))
