"""Index the unfinished uploads of a tenant, whose number is limited."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_UNFINISHED = sa.text("artifact = ''")


def upgrade() -> None:
    op.create_index(
        "ix_uploads_unfinished",
        "uploads",
        ["tenant"],
        unique=False,
        sqlite_where=_UNFINISHED,
        postgresql_where=_UNFINISHED,
    )


def downgrade() -> None:
    op.drop_index("ix_uploads_unfinished", "uploads")
