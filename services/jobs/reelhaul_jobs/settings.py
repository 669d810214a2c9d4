"""What the jobs service is told from outside."""

from __future__ import annotations

from pydantic import Field

from reelhaul_runtime.settings import SuiteSettings


class Settings(SuiteSettings):
    """The suite's settings and those of jobs, as ``REELHAUL_*``."""

    #: ``sqlite:///FILE`` or ``postgresql://…``; empty: jobs.db in the data folder.
    jobs_database_url: str = Field(default="", repr=False)
    #: Seconds that a worker's lease lasts; it renews every third of it.
    jobs_lease_seconds: float = Field(default=30.0, ge=1.0, le=600.0)

    @property
    def database_url(self) -> str:
        """The database's URL, the default filled in."""
        return self.jobs_database_url or f"sqlite:///{self.data_dir}/jobs.db"
