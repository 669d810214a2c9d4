"""What one may do with uploads and artifacts."""
