"""Experiments of gRPC: which I/O its channels use."""

from __future__ import annotations

from collections.abc import MutableMapping

# gRPC's newer I/O reads the sockets of channels in threads of its own and hands each message from thread to
# thread: of the gateway's CPU, 18 % of an event of a stream and 8 to 10 % of a request; and its threads wake
# several times a second. gRPC ignores, with a line in the log, a name that it does not know.
GRPC_EXPERIMENTS = "-event_engine_client"


def set_experiments(environment: MutableMapping[str, str]) -> None:
    """Set them in *environment*, unless the operator has; gRPC reads them when it is imported."""
    environment.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
