"""WebhookService: its servicer, and the validation and conversion of its messages."""
