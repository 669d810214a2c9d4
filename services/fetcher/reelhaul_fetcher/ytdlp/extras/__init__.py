"""Extras beside the media: subtitles, thumbnails, metadata, sponsored segments."""
