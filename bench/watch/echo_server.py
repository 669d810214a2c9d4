"""The floor: what grpc.aio and the broker's client cost by themselves, as a process.

It serves WatchJob without any of the service in it: no rows, no tokens, no pace. What a publisher
says of a job goes as it is to all who watch it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections import defaultdict
from collections.abc import AsyncIterator

import grpc
import uvloop
from nats.aio.msg import Msg

from bench.watch import WATCH_JOB
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.work.v1 import work_pb2
from reelhaul_runtime import nats_client

_Context = grpc.aio.ServicerContext[job_service_pb2.WatchJobRequest, bytes]


class Echo:
    """Says to each watcher what was last said of its job."""

    def __init__(self) -> None:
        self._sleepers: dict[str, set[asyncio.Future[bytes]]] = defaultdict(set)

    async def heard(self, message: Msg) -> None:
        """Wake all who watch the job, with one form for all of them."""
        told = work_pb2.ProgressNotice.FromString(message.data)
        response = job_service_pb2.WatchJobResponse(sequence=told.sequence, progress=told.progress)
        form = response.SerializeToString()
        for sleeper in self._sleepers.pop(told.job, ()):
            sleeper.set_result(form)

    async def watch(
        self, request: job_service_pb2.WatchJobRequest, context: _Context
    ) -> AsyncIterator[bytes]:
        """WatchJob, with an empty snapshot first."""
        first = job_service_pb2.WatchJobResponse()
        first.snapshot.SetInParent()
        yield first.SerializeToString()
        loop = asyncio.get_running_loop()
        while True:
            sleeper: asyncio.Future[bytes] = loop.create_future()
            self._sleepers[request.name].add(sleeper)
            try:
                form = await sleeper
            finally:
                self._sleepers[request.name].discard(sleeper)
            yield form


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("nats")
    asked = parser.parse_args()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    echo, server = Echo(), grpc.aio.server()
    service, _, method = WATCH_JOB.removeprefix("/").partition("/")
    handler = grpc.unary_stream_rpc_method_handler(
        echo.watch, request_deserializer=job_service_pb2.WatchJobRequest.FromString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(asked.address)
    async with nats_client.connect(asked.nats, "bench-echo") as client:
        await client.subscribe("progress.*", cb=echo.heard)
        await server.start()
        await stop.wait()
        await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
