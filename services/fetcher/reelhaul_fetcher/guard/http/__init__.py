"""Strict HTTP/1.1 parsing and encoding for the guard: pure functions, no sockets."""
