"""Create the databases of jobs and storage, each owned by a role of its own that can connect to no other.

Runs in the image `server` as the task `databases` (docs/aws.md). The environment has the name and password of
the administrator, and the URLs of both databases. Running it again sets the passwords to those of the URLs.
"""

import os

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

URLS = ("REELHAUL_JOBS_DATABASE_URL", "REELHAUL_STORAGE_DATABASE_URL")


def main() -> None:
    """Create what is missing of both."""
    for name in URLS:
        target = conninfo_to_dict(os.environ[name])
        administrator = {
            "user": os.environ["ADMINISTRATOR"],
            "password": os.environ["ADMINISTRATOR_PASSWORD"],
            "dbname": "postgres",
        }
        with psycopg.connect(make_conninfo("", **{**target, **administrator}), autocommit=True) as connection:
            create(connection, str(target["user"]), str(target["password"]), str(target["dbname"]))
        print(f"database {target['dbname']}: owned by the role {target['user']}")


def create(connection: psycopg.Connection, role: str, password: str, database: str) -> None:
    """Create *role* with *password*, and *database*, owned by it and closed to others."""
    # The server logs statements that fail or are slow: they have a verifier in place of the password.
    verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    names = {
        "role": sql.Identifier(role),
        "database": sql.Identifier(database),
        "verifier": sql.Literal(verifier),
    }

    def execute(statement: str) -> None:
        connection.execute(sql.SQL(statement).format(**names))

    if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
        execute("CREATE ROLE {role}")
    execute("ALTER ROLE {role} LOGIN PASSWORD {verifier}")
    # The administrator of RDS is no superuser: it must be a member of a role to give it a database.
    execute("GRANT {role} TO CURRENT_USER")
    if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone():
        execute("CREATE DATABASE {database} OWNER {role}")
    execute("REVOKE ALL ON DATABASE {database} FROM PUBLIC")
    execute("REVOKE {role} FROM CURRENT_USER")


if __name__ == "__main__":
    main()
