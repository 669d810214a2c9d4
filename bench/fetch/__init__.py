"""Fetching, side by side: an origin, media to fetch, and those who fetch them."""
