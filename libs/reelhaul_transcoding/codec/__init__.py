"""Codec: proto3 JSON, compiled once for each message type from its descriptor.

https://protobuf.dev/programming-guides/json/. ``google.protobuf.json_format`` walks
descriptors anew for every message and is slower by a factor of three to eight.
"""
