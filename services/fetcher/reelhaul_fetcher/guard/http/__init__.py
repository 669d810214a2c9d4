"""HTTP/1.1 as the guard reads and writes it: pure, no sockets."""
