"""Server process before which the gateway and Envoy are measured: JobService with canned answers.

It handles bytes; it neither parses nor serializes, save the page token of a list.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import uvloop

from bench.gateway.messages import ListForm, ListResponses, event, job
from reelhaul.jobs.v1.job_service_pb2 import DESCRIPTOR, ListJobsRequest

_EVENT_SECONDS = 0.1


class CannedJobService:
    """Answers of JobService."""

    def __init__(self) -> None:
        self._job = job().SerializeToString()
        self._lists = ListResponses()
        self._watchers = 0

    async def answer_with_job(self, _request: bytes, _context: Any) -> bytes:
        """Answer with the same job."""
        return self._job

    async def list_jobs(self, content: bytes, _context: Any) -> bytes:
        """Answer with as many jobs as requested, in the form that the page token names."""
        request = ListJobsRequest.FromString(content)
        return self._lists.serialize(cast(ListForm, request.page_token or "polled"), request.page_size)

    async def watch_job(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Send ten events a second until cancelled. The watchers' events are spread over the interval."""
        self._watchers += 1
        # The golden ratio spreads any number of watchers evenly.
        due = time.time() + _EVENT_SECONDS * (self._watchers * 0.618034 % 1)
        sequence = 0
        while True:
            sequence += 1
            yield event(sequence, time.time_ns() // 1000).SerializeToString()
            due += _EVENT_SECONDS
            await asyncio.sleep(due - time.time())

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of the methods."""
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "GetJob": grpc.unary_unary_rpc_method_handler(self.answer_with_job),
            "CreateJob": grpc.unary_unary_rpc_method_handler(self.answer_with_job),
            "ListJobs": grpc.unary_unary_rpc_method_handler(self.list_jobs),
            "WatchJob": grpc.unary_stream_rpc_method_handler(self.watch_job),
        }
        name = DESCRIPTOR.services_by_name["JobService"].full_name
        return grpc.method_handlers_generic_handler(name, methods)


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.upstream")
    parser.add_argument("port", type=int, help="loopback port")
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([CannedJobService().handler()])
    server.add_insecure_port(f"127.0.0.1:{parser.parse_args().port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(main())
