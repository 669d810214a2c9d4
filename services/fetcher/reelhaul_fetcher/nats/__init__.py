"""NATS adapters: work items from JetStream, stop hints and progress over core NATS."""
