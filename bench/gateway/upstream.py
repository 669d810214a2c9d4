"""Server process before which the gateway and Envoy are measured: JobService with canned answers."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import cast

import uvloop

from bench.gateway.http2_server import Handler, Http2Connection, Stream
from bench.gateway.messages import FIRST, NEW, JobResponses, ListForm, event, job_name, serialize_job
from reelhaul.jobs.v1.job_service_pb2 import DESCRIPTOR, ListJobsRequest

_EVENT_SECONDS = 0.1
_NEW_NAME = job_name(NEW).encode()


class CannedJobService:
    """Answers of JobService."""

    def __init__(self) -> None:
        self._responses, self._first_job = JobResponses(), serialize_job(FIRST)
        self._watchers = 0

    def handlers(self) -> dict[str, Handler]:
        """Return the handlers by path."""
        name = DESCRIPTOR.services_by_name["JobService"].full_name
        handlers: dict[str, Handler] = {
            "GetJob": self._get_job,
            "CreateJob": self._create_job,
            "ListJobs": self._list_jobs,
            "WatchJob": self._watch_job,
        }
        return {f"/{name}/{method}": handler for method, handler in handlers.items()}

    def _get_job(self, connection: Http2Connection, stream: Stream, content: bytes) -> None:
        """Answer with the job of the name, or with one that differs from all before if that is NEW."""
        new = _NEW_NAME in content
        connection.send(stream, self._responses.new_job() if new else self._first_job, last=True)

    def _create_job(self, connection: Http2Connection, stream: Stream, _request: bytes) -> None:
        connection.send(stream, self._responses.new_job(), last=True)

    def _list_jobs(self, connection: Http2Connection, stream: Stream, content: bytes) -> None:
        """Answer with as many jobs as requested, in the form that the page token names."""
        request = ListJobsRequest.FromString(content)
        form = cast(ListForm, request.page_token or "polled")
        connection.send(stream, self._responses.list_jobs(form, request.page_size), last=True)

    def _watch_job(self, connection: Http2Connection, stream: Stream, _request: bytes) -> None:
        """Send ten events a second until cancelled. The watchers' events are spread over the interval."""
        loop = asyncio.get_running_loop()
        self._watchers += 1

        def send_event(sequence: int, due: float) -> None:
            if not stream.closed:
                message = event(sequence, time.time_ns() // 1000).SerializeToString()
                connection.send(stream, message, last=False)
                connection.flush()
                loop.call_at(due, send_event, sequence + 1, due + _EVENT_SECONDS)

        # The golden ratio spreads any number of watchers evenly.
        send_event(1, loop.time() + _EVENT_SECONDS * (self._watchers * 0.618034 % 1))


async def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.upstream")
    parser.add_argument("port", type=int, help="loopback port")
    handlers = CannedJobService().handlers()
    server = await asyncio.get_running_loop().create_server(
        lambda: Http2Connection(handlers), "127.0.0.1", parser.parse_args().port
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
