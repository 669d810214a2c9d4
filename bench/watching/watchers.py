"""Watchers, as a process: a stream each for the jobs given by file; writes when each message came.

A slow one reads its first message and no other, with the smallest window that HTTP/2 lets it ask for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path

import grpc
import uvloop
from google.protobuf import duration_pb2

from reelhaul.jobs.v1 import job_service_pb2_grpc
from reelhaul.jobs.v1.job_service_pb2 import WatchJobRequest

# A browser tab and a service have a connection each; a thousand streams in one would be another measure.
_STREAMS_PER_CHANNEL = 50
_PACE = duration_pb2.Duration(nanos=50_000_000)


class Watchers:
    """All streams of this process, and what came over them."""

    def __init__(self, address: str, *, slow: bool) -> None:
        self._address, self._slow = address, slow
        #: (when it came, how long after it left), in seconds.
        self.heard: list[tuple[float, float]] = []
        self.all_ready = asyncio.Event()
        self._coming = 0
        self._channels: list[grpc.aio.Channel] = []

    async def watch(self, jobs: list[str]) -> None:
        """Watch *jobs*, one stream for each, until cancelled."""
        self._coming = len(jobs)
        streams = [self._stream(job, place) for place, job in enumerate(jobs)]
        try:
            await asyncio.gather(*streams)
        finally:
            for channel in self._channels:
                await channel.close(None)

    def _stub(self, place: int) -> job_service_pb2_grpc.JobServiceStub:
        if place % _STREAMS_PER_CHANNEL == 0:
            options: list[tuple[str, int]] = [("grpc.use_local_subchannel_pool", 1)]
            if self._slow:
                options += [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
            self._channels.append(grpc.aio.insecure_channel(self._address, options))
        return job_service_pb2_grpc.JobServiceStub(self._channels[-1])

    async def _stream(self, job: str, place: int) -> None:
        stub = self._stub(place)
        # Not all at once: a thousand first snapshots are no part of this.
        await asyncio.sleep(place * 0.002)
        async for message in stub.WatchJob(WatchJobRequest(name=job, min_interval=_PACE)):
            if message.HasField("snapshot"):
                self._coming -= 1
                if self._coming == 0:
                    self.all_ready.set()
                if self._slow:
                    await asyncio.Event().wait()
            if message.HasField("progress"):
                now = time.time()
                self.heard.append((now, now - message.progress.downloaded_bytes / 1e6))


async def main() -> None:
    """Watch until SIGTERM; then write what was heard."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("jobs", type=Path, help="JSON: [name, …], one stream for each")
    parser.add_argument("told", type=Path, help="where to write: made empty when all streams stand")
    parser.add_argument("--slow", action="store_true")
    asked = parser.parse_args()
    names = json.loads(asked.jobs.read_text())
    watchers = Watchers(asked.address, slow=asked.slow)
    watching = asyncio.create_task(watchers.watch(names))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, watching.cancel)
    await asyncio.wait(
        [watching, asyncio.create_task(watchers.all_ready.wait())], return_when=asyncio.FIRST_COMPLETED
    )
    asked.told.touch()
    await asyncio.wait([watching])
    asked.told.write_text(json.dumps(watchers.heard))
    if not watching.cancelled() and (error := watching.exception()):
        raise error


if __name__ == "__main__":
    uvloop.run(main())
