"""Index the expansions of a tenant that have not ended, whose number is limited."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_LIVE = sa.text("kind = 2 AND end_time IS NULL")


def upgrade() -> None:
    """Create the index."""
    op.create_index(
        "jobs_live_expansions", "jobs", ["tenant"], unique=False, sqlite_where=_LIVE, postgresql_where=_LIVE
    )


def downgrade() -> None:
    """Drop the index."""
    op.drop_index("jobs_live_expansions", "jobs")
