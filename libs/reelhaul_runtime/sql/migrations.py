"""Migrations: bring a service's database to this build's schema; costs next to nothing if it is there.

A package keeps its revisions in ``migrations/versions/NNNN_<what>.py``, with NNNN as their Alembic
revision, and a ``migrations/env.py`` that calls ``run``.
"""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from reelhaul_runtime.settings import InvalidSetting
from reelhaul_runtime.sql import engines

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

# Two replicas that start together must not both migrate. The number is an arbitrary one of ours.
_ADVISORY_LOCK = 0x5265656C6861


def migrate_if_behind(url: str, package: str, setting: str = "the database") -> bool:
    """Migrate the database at *url* unless it has *package*'s schema; return whether it was behind.

    Blocks. A schema newer than this build's is left alone: a newer replica migrated it, and
    revisions are written so that the previous build can work with them. Raises InvalidSetting, with the
    name of *setting* and never a password, if the database cannot be opened.
    """
    current = _open(url, setting)
    newest = head(package)
    if current is not None and current > newest:
        log.warning(
            "the database is newer than this build", extra={"schema": current, "build_schema": newest}
        )
    if current is not None and current >= newest:
        return False
    migrate(url, package, setting)
    return True


def migrate(url: str, package: str, setting: str = "the database") -> None:
    """Bring the database at *url* to *package*'s newest revision, in one transaction. Blocks.

    Raises InvalidSetting, with the name of *setting*, if the database cannot be opened.
    """
    before = _open(url, setting)
    # Alembic takes longer to import than everything else at start, and most starts do not need it.
    from alembic import command

    engine = engines.create_write_engine(url)
    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
            command.upgrade(alembic_config(package, connection), "head")
    finally:
        engine.dispose()
    revision = head(package)
    outcome = "the schema is current already" if before == revision else "migrated"
    log.info(outcome, extra={"package": package, "revision": revision})


def head(package: str) -> str:
    """Return the newest revision of *package*: the highest number that a file name begins with."""
    revisions = [path.name.partition("_")[0] for path in (_folder(package) / "versions").glob("[0-9]*_*.py")]
    if not revisions:
        raise FileNotFoundError(f"{package} has no migrations")
    return max(revisions)


def run() -> None:
    """Run the revisions on the connection that ``migrate`` opened; called by a package's env.py."""
    from alembic import context

    context.configure(
        connection=context.config.attributes["connection"],
        # Both databases roll DDL back; Alembic assumes it of PostgreSQL only.
        transactional_ddl=True,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def alembic_config(package: str, connection: Connection) -> Config:
    """Return the Alembic configuration that runs the revisions of *package* on *connection*."""
    from alembic.config import Config

    config = Config()
    # Alembic interpolates "%" in option values.
    config.set_main_option("script_location", str(_folder(package)).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def describe(connection: Connection) -> str:
    """Return the kind, the version and the revision of a database, e.g. "sqlite 3.45.1, revision 0010"."""
    dialect = connection.dialect
    version = ".".join(map(str, dialect.server_version_info or ()))
    return f"{dialect.name} {version}, revision {_revision(connection) or 'none'}"


def _open(url: str, setting: str) -> str | None:
    """Return the revision of the database at *url*. Raises InvalidSetting if it cannot be opened."""
    try:
        engine = engines.create_write_engine(url)
        try:
            with engine.connect() as connection:
                return _revision(connection)
        finally:
            engine.dispose()
    except (DBAPIError, OSError, ImportError, ValueError) as error:
        raise InvalidSetting(f"{setting}: {_describe(error)}") from error


def _describe(error: DBAPIError | OSError | ImportError | ValueError) -> str:
    if isinstance(error, ImportError):
        return f"{error}: pip install 'reelhaul[all]'"
    cause = error.orig if isinstance(error, DBAPIError) else error
    return f"the database cannot be opened: {' '.join(str(cause).split())}"


def _folder(package: str) -> Path:
    return Path(str(files(package))) / "migrations"


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return revision
