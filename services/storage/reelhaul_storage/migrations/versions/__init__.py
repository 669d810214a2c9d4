"""Alembic revisions of the catalog; each spells out its own tables."""
