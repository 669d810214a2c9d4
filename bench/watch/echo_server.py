"""Server process that does the least that WatchJob needs: the cost of grpc.aio and the NATS client alone.

It sends each progress notice unchanged to all watchers of the job, without rows, tokens or rate limit.
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

from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.work.v1 import work_pb2
from reelhaul_runtime import nats_client

_Context = grpc.aio.ServicerContext[job_service_pb2.WatchJobRequest, bytes]


class EchoServer:
    """Sends to each watcher the newest progress of its job."""

    def __init__(self) -> None:
        self._waiters: dict[str, set[asyncio.Future[bytes]]] = defaultdict(set)

    async def on_progress(self, message: Msg) -> None:
        """Wake all watchers of the job with one serialized response."""
        notice = work_pb2.ProgressNotice.FromString(message.data)
        response = job_service_pb2.WatchJobResponse(sequence=notice.sequence, progress=notice.progress)
        content = response.SerializeToString()
        for waiter in self._waiters.pop(notice.job, ()):
            waiter.set_result(content)

    async def watch_job(
        self, request: job_service_pb2.WatchJobRequest, context: _Context
    ) -> AsyncIterator[bytes]:
        """Serve WatchJob: an empty snapshot, then progress."""
        snapshot = job_service_pb2.WatchJobResponse()
        snapshot.snapshot.SetInParent()
        yield snapshot.SerializeToString()
        loop = asyncio.get_running_loop()
        while True:
            waiter: asyncio.Future[bytes] = loop.create_future()
            self._waiters[request.name].add(waiter)
            try:
                content = await waiter
            finally:
                self._waiters[request.name].discard(waiter)
            yield content


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.watch.echo_server")
    parser.add_argument("address", help="address to serve at")
    parser.add_argument("nats", help="URL of the broker")
    arguments = parser.parse_args()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    echo, server = EchoServer(), grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        echo.watch_job, request_deserializer=job_service_pb2.WatchJobRequest.FromString
    )
    service = job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"WatchJob": handler}),))
    server.add_insecure_port(arguments.address)
    async with nats_client.connect(arguments.nats, "bench-echo") as client:
        await client.subscribe("progress.*", cb=echo.on_progress)
        await server.start()
        await stop.wait()
        await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
