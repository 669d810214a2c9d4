"""Processes of the engine: zygote, children, their sandbox, and the protocol between them and the fetcher."""
