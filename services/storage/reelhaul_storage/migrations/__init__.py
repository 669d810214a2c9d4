"""Revisions of the catalogue."""
