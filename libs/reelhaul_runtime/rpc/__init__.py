"""RPC: how our servers serve gRPC, and how they call each other."""
