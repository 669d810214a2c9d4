"""RPC: how our servers serve and how they call each other."""
