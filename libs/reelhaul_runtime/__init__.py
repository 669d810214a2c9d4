"""Runtime: what all servers share: serving, RPC, SQL, NATS, errors, settings, logs, and ``reelhaul up``."""
