"""What the storage service is told from outside, as ``REELHAUL_*``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from reelhaul_runtime.settings import SuiteSettings


class Settings(SuiteSettings):
    """The suite's settings and those of storage."""

    #: Where bytes rest: ``file:///folder``. Empty: ``artifacts`` in the data folder.
    storage_url: str = ""
    #: Where the catalogue rests. Empty: ``storage.db`` in the data folder.
    storage_database_url: str = Field(default="", repr=False)
    #: The folder shared with fetchers, from which FinishUpload may take files over. Unset:
    #: ``work`` in the data folder.
    storage_adopt_dir: Path | None = None
    #: Days that an artifact stays for which no expiry was asked.
    storage_default_ttl_days: float = Field(default=7, gt=0)
    #: Largest artifact.
    storage_max_artifact_bytes: int = Field(default=256 << 30, gt=0)
    #: Bytes of the disk that are left free: below, nothing new is taken.
    storage_reserve_bytes: int = Field(default=256 << 20, ge=0)
    #: Seconds between two sweeps of what has expired.
    storage_sweep_seconds: float = Field(default=30, gt=0)

    @property
    def url(self) -> str:
        """Where bytes rest, default filled in."""
        return self.storage_url or f"file://{self.data_dir.resolve()}/artifacts"

    @property
    def database_url(self) -> str:
        """Where the catalogue rests, default filled in."""
        return self.storage_database_url or f"sqlite:///{self.data_dir.resolve()}/storage.db"

    @property
    def adopt_dir(self) -> Path:
        """The folder shared with fetchers, default filled in."""
        return self.storage_adopt_dir or self.data_dir.resolve() / "work"
