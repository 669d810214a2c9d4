"""Download of streams: plain HTTP files over parallel connections, fragments, and safe resumption."""
