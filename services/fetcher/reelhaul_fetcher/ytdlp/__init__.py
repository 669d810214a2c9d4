"""yt-dlp: the engine; a warm parent and a child for each fetch."""
