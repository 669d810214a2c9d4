"""Benchmark of downloads from an origin into storage, against curl and yt-dlp."""
