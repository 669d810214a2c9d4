"""Codec: proto3 JSON, compiled once for each message type from its descriptor.

https://protobuf.dev/programming-guides/json/. ``google.protobuf.json_format`` walks the
descriptors again for every message and is three to eight times slower.
"""
