"""DownloadService: the flat API for simple clients, over the same use cases as JobService."""
