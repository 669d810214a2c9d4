"""Create the tables artifacts, blobs, doomed and uploads."""

import sqlalchemy as sa
from alembic import op

# A UTC time as microseconds since 1970.
UtcMicroseconds = sa.BigInteger

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("crc32c", sa.BigInteger(), nullable=False),
        sa.Column("create_time", UtcMicroseconds(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_blobs"),
        sa.UniqueConstraint("sha256", name="uq_blobs_sha256"),
    )
    op.create_table(
        "doomed",
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("doom_time", UtcMicroseconds(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_doomed"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("draft", sa.JSON(), nullable=False),
        sa.Column("total_size", sa.BigInteger(), nullable=False),
        sa.Column("expected_sha256", sa.String(length=64), nullable=False),
        sa.Column("direct", sa.Boolean(), nullable=False),
        sa.Column("create_time", UtcMicroseconds(), nullable=False),
        sa.Column("expire_time", UtcMicroseconds(), nullable=False),
        sa.Column("request_id", sa.String(length=36)),
        sa.Column("request_digest", sa.String(length=64), nullable=False),
        sa.Column("claimed_key", sa.String(length=128), nullable=False),
        sa.Column("claimed_until", UtcMicroseconds()),
        sa.Column("artifact", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_claimed_key", "uploads", ["claimed_key"])
    op.create_index("ix_uploads_create_time_id", "uploads", ["create_time", "id"])
    op.create_index("ix_uploads_expire_time", "uploads", ["expire_time"])
    op.create_index("uq_uploads_tenant_request_id", "uploads", ["tenant", "request_id"], unique=True)
    op.create_table(
        "artifacts",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("tenant", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=128), nullable=False),
        sa.Column("file_name", sa.String(length=200), nullable=False),
        sa.Column("media_type", sa.String(length=127), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("crc32c", sa.BigInteger(), nullable=False),
        sa.Column("job", sa.String(length=128), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Integer(), nullable=False),
        sa.Column("language_code", sa.String(length=35), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("create_time", UtcMicroseconds(), nullable=False),
        sa.Column("update_time", UtcMicroseconds(), nullable=False),
        sa.Column("expire_time", UtcMicroseconds(), nullable=False),
        sa.Column("verify_time", UtcMicroseconds(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["key"], ["blobs.key"], name="fk_artifacts_key"),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_expire_time", "artifacts", ["expire_time"])
    op.create_index("ix_artifacts_job", "artifacts", ["job"])
    op.create_index("ix_artifacts_key", "artifacts", ["key"])
    op.create_index("ix_artifacts_tenant_create_time_id", "artifacts", ["tenant", "create_time", "id"])
    op.create_index("ix_artifacts_tenant_expire_time_id", "artifacts", ["tenant", "expire_time", "id"])
    op.create_index("ix_artifacts_tenant_sha256", "artifacts", ["tenant", "sha256"])
    op.create_index("ix_artifacts_tenant_size_id", "artifacts", ["tenant", "size", "id"])
