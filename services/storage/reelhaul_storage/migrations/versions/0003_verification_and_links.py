"""Record when blobs were verified or found damaged, and which signed links of an artifact are valid."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("blobs") as blobs:
        blobs.add_column(sa.Column("crc32", sa.BigInteger))
        blobs.add_column(sa.Column("verify_time", sa.BigInteger))
        blobs.add_column(sa.Column("damage_time", sa.BigInteger))
        blobs.create_index("ix_blobs_verify_time", ["verify_time", "key"])
    with op.batch_alter_table("artifacts") as artifacts:
        artifacts.add_column(sa.Column("link_generation", sa.Integer, nullable=False, server_default="0"))
        artifacts.alter_column("verify_time", existing_type=sa.BigInteger, nullable=True)


def downgrade() -> None:
    op.execute("UPDATE artifacts SET verify_time = create_time WHERE verify_time IS NULL")
    with op.batch_alter_table("artifacts") as artifacts:
        artifacts.alter_column("verify_time", existing_type=sa.BigInteger, nullable=False)
        artifacts.drop_column("link_generation")
    with op.batch_alter_table("blobs") as blobs:
        blobs.drop_index("ix_blobs_verify_time")
        blobs.drop_column("damage_time")
        blobs.drop_column("verify_time")
        blobs.drop_column("crc32")
