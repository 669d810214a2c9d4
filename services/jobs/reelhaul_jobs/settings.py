"""What the jobs service is told from outside."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from reelhaul_runtime.settings import SuiteSettings


class Settings(SuiteSettings):
    """The suite's settings and those of jobs, as ``REELHAUL_*``."""

    #: ``sqlite:///FILE`` or ``postgresql://…``; empty: jobs.db in the data folder.
    jobs_database_url: str = Field(default="", repr=False)
    #: Seconds that a worker's lease lasts; it renews every third of it.
    jobs_lease_seconds: float = Field(default=30.0, ge=1.0, le=600.0)
    #: Days that an ended job is kept, with its artifacts, where its caller does not say.
    jobs_retention_days: float = Field(default=7.0, gt=0, le=3650)
    #: Leaves out what keeps jobs safe, to see that the crash test notices: ``no-fence``, ``no-sweeper``.
    mutant: Literal["", "no-fence", "no-sweeper"] = ""

    @model_validator(mode="after")
    def _be_whole(self) -> Self:
        if self.mutant and not self.chaos:
            raise ValueError("REELHAUL_MUTANT loses jobs: it is for crash tests, with REELHAUL_CHAOS=1")
        return self

    @property
    def database_url(self) -> str:
        """The database's URL, the default filled in."""
        return self.jobs_database_url or f"sqlite:///{self.data_dir}/jobs.db"
