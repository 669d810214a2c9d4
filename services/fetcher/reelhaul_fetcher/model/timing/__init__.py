"""Times of media: clocks, cuts, chapters, cues, play time."""
