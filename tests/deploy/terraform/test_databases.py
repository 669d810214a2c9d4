"""The script that creates the databases on RDS, run against a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
import pytest
from tests.deploy.terraform.terraform import SOURCE
from tests.postgresql import fresh_database

pytestmark = [pytest.mark.deployment, pytest.mark.processes]

_SCRIPT = SOURCE / "modules/ecs/create_databases.py"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL whose administrator is no superuser, as that of RDS, and names that are free in it."""

    url: str
    administrator: str
    jobs: str
    storage: str

    def url_of(self, name: str, password: str, database: str | None = None) -> str:
        """Return the URL of *database*, by default that of the role *name*."""
        parts = urlsplit(self.url)
        return f"postgresql://{name}:{password}@/{database or name}?{parts.query}"

    def run_script(self, password: str) -> str:
        """Run the script with the password *password* for both roles; return what it prints."""
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT.read_text()],
            env=os.environ
            | {
                "ADMINISTRATOR": self.administrator,
                "ADMINISTRATOR_PASSWORD": "administrator's",
                "REELHAUL_JOBS_DATABASE_URL": self.url_of(self.jobs, password),
                "REELHAUL_STORAGE_DATABASE_URL": self.url_of(self.storage, password),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def server() -> Iterator[Server]:
    """A server with such an administrator; roles and databases are dropped afterwards."""
    suffix = uuid.uuid4().hex[:8]
    names = [f"{name}_{suffix}" for name in ("administrator", "jobs", "storage")]
    with fresh_database() as url, psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            f"CREATE ROLE {names[0]} LOGIN CREATEROLE CREATEDB PASSWORD 'administrator''s'"  # type: ignore[call-overload]
        )
        try:
            yield Server(url, *names)
        finally:
            for name in reversed(names):
                connection.execute(f"DROP DATABASE IF EXISTS {name}")  # type: ignore[call-overload]
                connection.execute(f"DROP ROLE IF EXISTS {name}")  # type: ignore[call-overload]


def test_each_service_owns_its_database_alone(server: Server):
    """jobs and storage can create tables in their own databases, and cannot connect to the other's."""
    printed = server.run_script("first")
    assert printed == (
        f"database {server.jobs}: owned by the role {server.jobs}\n"
        f"database {server.storage}: owned by the role {server.storage}\n"
    )
    for name in (server.jobs, server.storage):
        with psycopg.connect(server.url_of(name, "first")) as connection:
            connection.execute("CREATE TABLE things (id int)")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(server.url_of(server.storage, "first", database=server.jobs))


def test_running_again_changes_the_passwords(server: Server):
    """After a new version of the secrets the task sets the new passwords, and keeps the data."""
    server.run_script("first")
    with psycopg.connect(server.url_of(server.jobs, "first")) as connection:
        connection.execute("CREATE TABLE things (id int)")
    server.run_script("second")
    with psycopg.connect(server.url_of(server.jobs, "second")) as connection:
        assert connection.execute("SELECT count(*) FROM things").fetchone() == (0,)
        (stored,) = connection.execute("SHOW password_encryption").fetchone() or ("",)
        assert stored == "scram-sha-256"


def test_server_does_not_see_the_passwords(server: Server):
    """The statement that sets a password, which the server logs if it fails or is slow, has its verifier."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        # A password in clear text would be stored in the form that this asks for.
        connection.execute(f"ALTER ROLE {server.administrator} SET password_encryption = 'md5'")  # type: ignore[call-overload]
        server.run_script("first")
        found = connection.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname IN (%s, %s)", [server.jobs, server.storage]
        ).fetchall()
    assert [password.partition("$")[0] for (password,) in found] == ["SCRAM-SHA-256", "SCRAM-SHA-256"]
