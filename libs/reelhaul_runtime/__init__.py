"""Runtime: what all servers share: serving, RPC, SQL, NATS, errors, settings, logs, and ``reelhaul up``."""

import os

# ``reelhaul up`` starts processes beside the gRPC threads of its probes. gRPC's fork handlers would start
# these threads again in the child before its exec, which crashes some children. gRPC reads the variable when
# it is imported.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# gRPC's C core writes to standard error by itself, in a form of its own. What it writes is in the status of a
# call; GRPC_VERBOSITY=ERROR (or INFO, DEBUG) shows it nevertheless.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
