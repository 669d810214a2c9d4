"""Traces: spans of the work of a job from the HTTP request to the file, exported by OTLP."""
