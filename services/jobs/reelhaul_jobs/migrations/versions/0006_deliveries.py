"""Store which destination a job's artifacts are delivered to, and when the next delivery is to be tried."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_DELIVERING = sa.text("delivery_time IS NOT NULL")


def upgrade() -> None:
    """Add the columns and the index."""
    op.add_column("jobs", sa.Column("deliver_to", sa.String(63), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("delivery_time", sa.BigInteger))
    op.create_index(
        "jobs_delivering",
        "jobs",
        ["delivery_time"],
        unique=False,
        sqlite_where=_DELIVERING,
        postgresql_where=_DELIVERING,
    )


def downgrade() -> None:
    """Drop the index and the columns."""
    op.drop_index("jobs_delivering", "jobs")
    op.drop_column("jobs", "delivery_time")
    op.drop_column("jobs", "deliver_to")
