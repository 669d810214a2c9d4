"""Create the audit log, whose entries the database itself refuses to change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SQLITE = (
    """
    CREATE TRIGGER audit_entries_unchanged BEFORE UPDATE ON audit_entries
    BEGIN SELECT RAISE(ABORT, 'audit entries are never changed'); END
    """,
    # REPLACE would delete the entry of the same id without the trigger of DELETE.
    """
    CREATE TRIGGER audit_entries_not_replaced BEFORE INSERT ON audit_entries
    WHEN EXISTS (SELECT 1 FROM audit_entries WHERE id = NEW.id)
    BEGIN SELECT RAISE(IGNORE); END
    """,
    """
    CREATE TRIGGER audit_entries_kept BEFORE DELETE ON audit_entries
    WHEN OLD.create_time > (CAST(strftime('%s', 'now') AS INTEGER) - 86400) * 1000000
    BEGIN SELECT RAISE(ABORT, 'audit entries are kept for a day at least'); END
    """,
)
_POSTGRESQL = (
    """
    CREATE FUNCTION keep_audit_entry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            RAISE EXCEPTION 'audit entries are kept for a day at least';
        ELSIF TG_OP = 'UPDATE' THEN
            RAISE EXCEPTION 'audit entries are never changed';
        ELSIF OLD.create_time > (EXTRACT(EPOCH FROM now()) - 86400) * 1000000 THEN
            RAISE EXCEPTION 'audit entries are kept for a day at least';
        END IF;
        RETURN OLD;
    END $$
    """,
    """
    CREATE TRIGGER audit_entries_kept BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION keep_audit_entry()
    """,
    """
    CREATE TRIGGER audit_entries_not_truncated BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_entry()
    """,
)


def upgrade() -> None:
    """Create the table and its triggers."""
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("create_time", sa.BigInteger(), nullable=False),
        sa.Column("principal", sa.String(300), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("method", sa.String(128), nullable=False),
        sa.Column("resource", sa.String(300), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("status_code", sa.SmallInteger(), nullable=False),
        sa.Column("status", sa.LargeBinary(), nullable=False),
        sa.Column("changed_paths", sa.Text(), nullable=False),
        sa.Column("call_id", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    for name, columns in (
        ("audit_entries_by_time", ["create_time", "id"]),
        ("audit_entries_by_tenant", ["tenant", "create_time", "id"]),
        ("audit_entries_by_resource", ["resource", "create_time", "id"]),
    ):
        op.create_index(name, "audit_entries", columns)
    for statement in _POSTGRESQL if op.get_bind().dialect.name == "postgresql" else _SQLITE:
        op.execute(statement)


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("audit_entries")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION keep_audit_entry")
