"""HTTP: ASGI messages, headers and metadata, statuses, and cancellation on disconnect."""
