"""What comes beside the media: subtitles, thumbnails, descriptions, sponsored segments."""
