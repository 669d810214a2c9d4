"""Jobs know their site and egress; gates say how each egress stands with each site."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from reelhaul_jobs.model.sites import site_of

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BATCH = 1000


def upgrade() -> None:
    """Add them; each job there is gets its site."""
    op.add_column("jobs", sa.Column("site", sa.String(length=255), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("egress", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("workers", sa.Column("egress", sa.String(length=64), nullable=False, server_default=""))
    op.create_table(
        "gates",
        sa.Column("site", sa.String(length=255), nullable=False),
        sa.Column("egress", sa.String(length=64), nullable=False),
        sa.Column("delay", sa.BigInteger(), nullable=False),
        sa.Column("next_start", sa.BigInteger(), nullable=True),
        sa.Column("parked_until", sa.BigInteger(), nullable=True),
        sa.Column("parked_since", sa.BigInteger(), nullable=True),
        sa.Column("cooldown", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("probe", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("site", "egress"),
        sqlite_with_rowid=False,
    )
    _name_sites()
    op.drop_index("jobs_ready", "jobs")
    op.drop_index("jobs_due", "jobs")
    _index_ready(["tenant", "site", "due", "id"])
    looked_after = sa.text("lane IN (1, 3, 4)")
    op.create_index(
        "jobs_due",
        "jobs",
        ["lane", "due", "tenant", "site"],
        unique=False,
        sqlite_where=looked_after,
        postgresql_where=looked_after,
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_index("jobs_ready", "jobs")
    op.drop_index("jobs_due", "jobs")
    op.drop_table("gates")
    op.drop_column("workers", "egress")
    op.drop_column("jobs", "egress")
    op.drop_column("jobs", "site")
    _index_ready(["tenant", "due", "id"])
    op.create_index("jobs_due", "jobs", ["lane", "due", "tenant"], unique=False)


def _index_ready(columns: list[str]) -> None:
    op.create_index(
        "jobs_ready",
        "jobs",
        columns,
        unique=False,
        sqlite_where=sa.text("lane = 2"),
        postgresql_where=sa.text("lane = 2"),
    )


def _name_sites() -> None:
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id"), sa.column("url"), sa.column("site"))
    unnamed = sa.select(jobs.c.id, jobs.c.url).order_by(jobs.c.id).limit(_BATCH)
    named = sa.update(jobs).where(jobs.c.id == sa.bindparam("job")).values(site=sa.bindparam("of_site"))
    last = ""
    while found := connection.execute(unnamed.where(jobs.c.id > last)).all():
        connection.execute(named, [{"job": row.id, "of_site": site_of(row.url)} for row in found])
        last = found[-1].id
