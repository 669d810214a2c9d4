"""Add the state to the indexes of lists by update and by end: lists of several states are merged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LISTED = sa.text("delete_time IS NULL")


def upgrade() -> None:
    """Replace both indexes."""
    op.drop_index("jobs_by_update", "jobs")
    op.drop_index("jobs_by_end", "jobs")
    _index("jobs_by_state_update", ["tenant", "state", "update_time", "id"])
    _index("jobs_by_state_end", ["tenant", "state", "end_order", "id"])


def downgrade() -> None:
    """Restore both indexes."""
    op.drop_index("jobs_by_state_update", "jobs")
    op.drop_index("jobs_by_state_end", "jobs")
    _index("jobs_by_update", ["tenant", "update_time", "id"])
    _index("jobs_by_end", ["tenant", "end_order", "id"])


def _index(name: str, columns: list[str]) -> None:
    op.create_index(name, "jobs", columns, unique=False, sqlite_where=_LISTED, postgresql_where=_LISTED)
