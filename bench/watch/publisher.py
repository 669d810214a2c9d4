"""A fetcher's progress, as a process: so many events a second, spread evenly over the jobs of a file."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import time
from pathlib import Path

import uvloop

from reelhaul.type.v1 import media_pb2
from reelhaul.work.v1 import work_pb2
from reelhaul_runtime import nats_client


async def main() -> None:
    """Publish until SIGTERM. An event's downloaded_bytes are the microsecond at which it left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("nats")
    parser.add_argument("jobs", type=Path, help="JSON: [[name, epoch], …]")
    parser.add_argument("rate", type=float, help="events a second, over all jobs")
    asked = parser.parse_args()
    jobs = itertools.cycle(json.loads(asked.jobs.read_text()))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with nats_client.connect(asked.nats, "bench-publisher") as client:
        begun, told = time.monotonic(), 0
        # Above all that a publisher before this one said of the same lease.
        first = int(begun * 10_000)
        while not stop.is_set():
            for _ in range(int((time.monotonic() - begun) * asked.rate) - told):
                told += 1
                job, epoch = next(jobs)
                notice = _notice(job, epoch, first + told)
                await client.publish(f"progress.{job.removeprefix('jobs/')}", notice)
            await asyncio.sleep(min(0.001, 1 / asked.rate))


def _notice(job: str, epoch: int, sequence: int) -> bytes:
    progress = media_pb2.Progress(
        stage=media_pb2.Progress.DOWNLOADING,
        percent=50,
        attempt=1,
        downloaded_bytes=time.time_ns() // 1000,
        total_bytes=10**10,
        bytes_per_second=5_000_000,
    )
    notice = work_pb2.ProgressNotice(job=job, epoch=epoch, sequence=sequence, progress=progress)
    return notice.SerializeToString()


if __name__ == "__main__":
    uvloop.run(main())
