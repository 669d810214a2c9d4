"""The tracks of media: their languages and roles, and which are chosen."""
