"""Alembic asks here how to run the revisions."""

from reelhaul_jobs.store.tables import metadata
from reelhaul_runtime.sql import migrations

migrations.run(metadata)
