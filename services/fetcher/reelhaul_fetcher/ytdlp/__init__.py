"""yt-dlp engine: a zygote with yt-dlp loaded, and a child process for each request."""
