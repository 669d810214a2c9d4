"""Alembic revisions of the jobs database. They import nothing of the live code."""
