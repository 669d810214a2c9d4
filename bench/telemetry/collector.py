"""A collector that takes all spans and drops them: ``python -m bench.telemetry.collector PORT``."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class TraceService(trace_service_pb2_grpc.TraceServiceServicer):
    """Answers each export."""

    def Export(self, request: Any, context: Any) -> trace_service_pb2.ExportTraceServiceResponse:
        """Return success."""
        return trace_service_pb2.ExportTraceServiceResponse()


def main() -> None:
    """Serve until the process ends."""
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(TraceService(), server)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
