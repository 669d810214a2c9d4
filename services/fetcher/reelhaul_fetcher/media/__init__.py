"""Media: ffmpeg and ffprobe, on local files only."""
