"""Watch streams: what happens to one job or to many, resumable at any replica."""
