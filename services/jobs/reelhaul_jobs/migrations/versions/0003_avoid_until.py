"""A job may keep away from the worker that could not do it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add until when."""
    op.add_column("jobs", sa.Column("avoid_until", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("jobs", "avoid_until")
