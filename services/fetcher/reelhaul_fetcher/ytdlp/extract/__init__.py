"""Extraction: reads pages and manifests with yt-dlp, and adds properties that yt-dlp does not read."""
