"""Reelhaul for its clients: the generated API, the client, the command line."""
