"""Runtime: what all servers share: serving, RPC, SQL, NATS, errors, settings, logs, and ``reelhaul up``."""

import os

# ``reelhaul up`` starts processes beside the gRPC threads of its probes. gRPC's fork handlers would start
# these threads again in the child before its exec, which crashes some children. gRPC reads the variable when
# it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
