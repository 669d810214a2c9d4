"""NATS: JetStream work items, progress messages and notifications."""
