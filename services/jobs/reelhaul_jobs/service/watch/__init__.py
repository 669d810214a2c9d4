"""Watching: what happens to jobs, as streams that resume, at any replica."""
