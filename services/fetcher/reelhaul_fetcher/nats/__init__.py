"""NATS: work items, cancellation hints and progress."""
