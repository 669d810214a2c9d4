"""Where Alembic finds the catalogue's tables."""

from reelhaul_runtime.sql import migrations
from reelhaul_storage.catalog.tables import metadata

migrations.run(metadata)
