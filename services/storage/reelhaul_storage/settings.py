"""Settings of the storage service, read from ``REELHAUL_*``."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator

from reelhaul_runtime.settings import SuiteSettings, check_database_url, check_folder


class Settings(SuiteSettings):
    """The suite's settings plus those of storage."""

    #: Where blobs are stored: ``file:///folder``. Empty: ``artifacts`` in the data folder.
    storage_url: str = ""
    #: Database of the catalog. Empty: ``storage.db`` in the data folder.
    storage_database_url: str = Field(default="", repr=False)
    #: Folder shared with the fetchers; FinishUpload may adopt files from it. Unset: ``work`` in the
    #: data folder.
    storage_adopt_dir: Path | None = None
    #: Days until an artifact expires if its writer sets no expiry.
    storage_default_ttl_days: float = Field(default=7, gt=0)
    #: Maximum size of one artifact.
    storage_max_artifact_bytes: int = Field(default=256 << 30, gt=0)
    #: Free disk space that storage leaves unused: uploads that would take it are refused.
    storage_reserve_bytes: int = Field(default=256 << 20, ge=0)
    #: Bytes per second that are read again in the background to find damaged ones. 0: none.
    storage_scrub_bytes_per_second: int = Field(default=8 << 20, ge=0)
    #: Seconds for which bytes stay after the last artifact with them was deleted or expired.
    storage_grace_seconds: float = Field(default=0, ge=0)
    #: Seconds between two garbage collections.
    storage_sweep_seconds: float = Field(default=30, gt=0)

    @field_validator("storage_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value:
            url = urlsplit(value)
            if url.scheme != "file" or url.netloc or not url.path.startswith("/"):
                raise ValueError("this build stores artifacts in a folder: use file:///folder")
            check_folder(Path(unquote(url.path)))
        return value

    @field_validator("storage_database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        return check_database_url(value)

    @field_validator("storage_adopt_dir", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def url(self) -> str:
        """``storage_url`` or its default."""
        return self.storage_url or f"file://{self.data_dir.resolve()}/artifacts"

    @property
    def database_url(self) -> str:
        """``storage_database_url`` or its default."""
        return self.storage_database_url or f"sqlite:///{self.data_dir.resolve()}/storage.db"

    @property
    def adopt_dir(self) -> Path:
        """``storage_adopt_dir`` or its default."""
        return self.storage_adopt_dir or self.data_dir.resolve() / "work"
