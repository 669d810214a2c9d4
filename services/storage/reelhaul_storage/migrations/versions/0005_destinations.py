"""Store the destinations that artifacts are delivered to."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "destinations",
        sa.Column("tenant", sa.String(128), nullable=False),
        sa.Column("id", sa.String(63), nullable=False),
        sa.Column("display_name", sa.String(100), nullable=False),
        sa.Column("bucket", sa.String(63), nullable=False),
        sa.Column("prefix", sa.String(500), nullable=False),
        sa.Column("endpoint_url", sa.String(300), nullable=False),
        sa.Column("region", sa.String(32), nullable=False),
        sa.Column("path_style", sa.Boolean, nullable=False),
        sa.Column("server_side_encryption", sa.String(16), nullable=False),
        sa.Column("access_key_id", sa.String(128), nullable=False),
        sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
        sa.Column("role_arn", sa.String(200), nullable=False),
        sa.Column("external_id", sa.String(64), nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id", name="pk_destinations"),
    )


def downgrade() -> None:
    op.drop_table("destinations")
