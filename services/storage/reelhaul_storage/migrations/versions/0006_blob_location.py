"""Record where the blobs are, and where they were before a move that has not ended."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table(
        "blob_location",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("previous_url", sa.String(2000), nullable=False),
    )
    # The one row, which transactions lock.
    op.bulk_insert(table, [{"id": 1, "generation": 0, "url": "", "previous_url": ""}])


def downgrade() -> None:
    op.drop_table("blob_location")
