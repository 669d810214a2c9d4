"""Convert: protobuf <-> model, with the bounds of what callers may say."""
