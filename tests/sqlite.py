"""SQLite databases for the tests that have the schema of a service already."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from reelhaul_runtime.sql import migrations


def create_migrated_file(package: str, path: Path) -> None:
    """Create the database *path* with the schema of *package*: a copy of one that was migrated once."""
    shutil.copy(_migrated_template(package), path)


@cache
def _migrated_template(package: str) -> Path:
    """Migrate one file per process: to copy it takes a millisecond, to migrate a new one fifty and more."""
    path = Path(tempfile.mkdtemp(prefix="reelhaul-test-")) / "template.db"
    migrations.migrate(f"sqlite:///{path}", package)
    return path
