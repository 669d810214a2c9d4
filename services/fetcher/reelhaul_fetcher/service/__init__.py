"""Service: the use cases of the fetcher. They call ports, never adapters."""
