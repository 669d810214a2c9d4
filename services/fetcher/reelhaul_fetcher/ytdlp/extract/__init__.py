"""Extraction: reads pages and manifests with yt-dlp, and completes what it does not read."""
