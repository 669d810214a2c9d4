"""Client side of Reelhaul: the generated API, the gRPC and REST clients, the command line."""
