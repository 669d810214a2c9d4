"""Record scrubs, index damaged blobs and the artifacts of jobs, and record what uploads reserve."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_DAMAGED = sa.text("damage_time IS NOT NULL")


def upgrade() -> None:
    op.add_column("blobs", sa.Column("scrub_time", sa.BigInteger))
    op.create_index(
        "ix_blobs_damage_time", "blobs", ["damage_time"], sqlite_where=_DAMAGED, postgresql_where=_DAMAGED
    )
    op.add_column("uploads", sa.Column("reserved_size", sa.BigInteger, nullable=False, server_default="0"))
    op.drop_index("ix_artifacts_job", "artifacts")
    op.create_index(
        "ix_artifacts_job_tenant_create_time_id", "artifacts", ["job", "tenant", "create_time", "id"]
    )


def downgrade() -> None:
    op.drop_index("ix_artifacts_job_tenant_create_time_id", "artifacts")
    op.create_index("ix_artifacts_job", "artifacts", ["job"])
    with op.batch_alter_table("uploads") as uploads:
        uploads.drop_column("reserved_size")
    op.drop_index("ix_blobs_damage_time", "blobs")
    with op.batch_alter_table("blobs") as blobs:
        blobs.drop_column("scrub_time")
