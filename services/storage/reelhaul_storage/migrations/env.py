"""Alembic environment: runs the revisions on the connection that ``migrate`` opened."""

from reelhaul_runtime.sql import migrations

migrations.run()
