"""Add the site and egress of jobs, the egress of workers, and the table of rate limits (gates)."""

from __future__ import annotations

from urllib.parse import urlsplit

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BATCH = 1000

# How this revision names sites, whatever later builds do.
_SITES = {
    "youtube.com": "youtube.com",
    "youtu.be": "youtube.com",
    "youtube-nocookie.com": "youtube.com",
    "youtubekids.com": "youtube.com",
    "x.com": "x.com",
    "twitter.com": "x.com",
    "facebook.com": "facebook.com",
    "fb.watch": "facebook.com",
    "fb.com": "facebook.com",
    "dailymotion.com": "dailymotion.com",
    "dai.ly": "dailymotion.com",
    "reddit.com": "reddit.com",
    "redd.it": "reddit.com",
    "bilibili.com": "bilibili.com",
    "b23.tv": "bilibili.com",
    "tiktok.com": "tiktok.com",
    "vimeo.com": "vimeo.com",
    "twitch.tv": "twitch.tv",
    "instagram.com": "instagram.com",
    "soundcloud.com": "soundcloud.com",
}


def upgrade() -> None:
    """Add the columns and the table, and set the site of every job."""
    op.add_column("jobs", sa.Column("site", sa.String(length=255), nullable=False, server_default=""))
    op.add_column("jobs", sa.Column("egress", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("workers", sa.Column("egress", sa.String(length=64), nullable=False, server_default=""))
    op.create_table(
        "gates",
        sa.Column("site", sa.String(length=255), nullable=False),
        sa.Column("egress", sa.String(length=64), nullable=False),
        sa.Column("delay", sa.BigInteger(), nullable=False),
        sa.Column("next_start", sa.BigInteger(), nullable=True),
        sa.Column("parked_until", sa.BigInteger(), nullable=True),
        sa.Column("parked_since", sa.BigInteger(), nullable=True),
        sa.Column("cooldown", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("probe", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("site", "egress"),
        sqlite_with_rowid=False,
    )
    _set_sites()
    op.drop_index("jobs_ready", "jobs")
    op.drop_index("jobs_due", "jobs")
    _index_ready(["tenant", "site", "due", "id"])
    in_flight = sa.text("lane IN (1, 3, 4)")
    op.create_index(
        "jobs_due",
        "jobs",
        ["lane", "due", "tenant", "site"],
        unique=False,
        sqlite_where=in_flight,
        postgresql_where=in_flight,
    )


def downgrade() -> None:
    """Drop the columns and the table."""
    op.drop_index("jobs_ready", "jobs")
    op.drop_index("jobs_due", "jobs")
    op.drop_table("gates")
    op.drop_column("workers", "egress")
    op.drop_column("jobs", "egress")
    op.drop_column("jobs", "site")
    _index_ready(["tenant", "due", "id"])
    op.create_index("jobs_due", "jobs", ["lane", "due", "tenant"], unique=False)


def _index_ready(columns: list[str]) -> None:
    op.create_index(
        "jobs_ready",
        "jobs",
        columns,
        unique=False,
        sqlite_where=sa.text("lane = 2"),
        postgresql_where=sa.text("lane = 2"),
    )


def _set_sites() -> None:
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id"), sa.column("url"), sa.column("site"))
    page = sa.select(jobs.c.id, jobs.c.url).order_by(jobs.c.id).limit(_BATCH)
    set_site = sa.update(jobs).where(jobs.c.id == sa.bindparam("job")).values(site=sa.bindparam("of_site"))
    last = ""
    while rows := connection.execute(page.where(jobs.c.id > last)).all():
        connection.execute(set_site, [{"job": row.id, "of_site": _site_of(row.url)} for row in rows])
        last = rows[-1].id


def _site_of(url: str) -> str:
    host = (urlsplit(url).hostname or "").rstrip(".")
    for prefix in ("www.", "m.", "mobile."):
        if host.startswith(prefix) and "." in host.removeprefix(prefix):
            host = host.removeprefix(prefix)
            break
    labels = host.split(".")
    for start in range(len(labels) - 1):
        if site := _SITES.get(".".join(labels[start:])):
            return site
    return host[:255]
