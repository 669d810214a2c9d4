"""Publisher process: progress notices at a constant rate, spread evenly over the jobs in a file."""

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
    """Publish until SIGTERM. ``downloaded_bytes`` of a notice is its time in microseconds since the epoch."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch.publisher")
    parser.add_argument("nats", help="URL of the broker")
    parser.add_argument("jobs", type=Path, help="JSON: [[name, epoch], …]")
    parser.add_argument("rate", type=float, help="notices per second, over all jobs")
    arguments = parser.parse_args()
    jobs = itertools.cycle(json.loads(arguments.jobs.read_text()))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with nats_client.connect(arguments.nats, "bench-publisher") as client:
        begin, published = time.monotonic(), 0
        # Above the sequences of an earlier publisher for the same lease.
        first_sequence = int(begin * 10_000)
        while not stop.is_set():
            for _ in range(int((time.monotonic() - begin) * arguments.rate) - published):
                published += 1
                job, epoch = next(jobs)
                notice = _serialize_notice(job, epoch, first_sequence + published)
                await client.publish(f"progress.{job.removeprefix('jobs/')}", notice)
            await asyncio.sleep(min(0.001, 1 / arguments.rate))


def _serialize_notice(job: str, epoch: int, sequence: int) -> bytes:
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
