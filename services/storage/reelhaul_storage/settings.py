"""Settings of the storage service, read from ``REELHAUL_*``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from reelhaul_runtime.addresses import Network
from reelhaul_runtime.sealing import check_keys, load_or_create_key, parse_keys
from reelhaul_runtime.server_addresses import split_addresses
from reelhaul_runtime.settings import (
    SuiteSettings,
    check_database_url,
    check_folder,
    split_networks,
)
from reelhaul_storage.s3.location import parse_location

_MIN_KEY_CHARACTERS = 32
_KEY_PAIR_ID = re.compile(r"[A-Z0-9]{1,128}")


class Settings(SuiteSettings):
    """The suite's settings plus those of storage."""

    #: Where blobs are stored: ``file:///folder``, or ``s3://bucket/prefix`` with the options endpoint_url,
    #: region, path_style, sse (AES256 or aws:kms) and sse_kms_key_id; credentials as boto3 finds them.
    #: Empty: ``artifacts`` in the data folder.
    storage_url: str = ""
    #: Database of the catalog. Empty: ``storage.db`` in the data folder.
    storage_database_url: str = Field(default="", repr=False)
    #: Where clients reach the HTTP port of storage, in signed links. Empty: http:// and its address.
    storage_public_url: str = ""
    #: Secrets that sign links, comma separated: the first signs, all are accepted. Empty: the suite token.
    storage_link_keys: str = Field(default="", repr=False)
    #: A CloudFront distribution in front of the bucket of ``storage_url``, whose signed URLs are the links;
    #: the id of the public key that it knows, and the PEM file of its private key. Empty: S3 signs the links.
    storage_cloudfront_url: str = ""
    storage_cloudfront_key_pair_id: str = ""
    storage_cloudfront_key_file: Path | None = Field(default=None, repr=False)
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
    #: Keys that the secrets of destinations are encrypted with, comma separated: the first encrypts, any
    #: decrypts. Empty: one in the data folder, created when it is first needed.
    storage_seal_keys: str = Field(default="", repr=False)
    #: Networks that destinations may be in in addition to public addresses, comma separated.
    storage_destination_networks: Annotated[tuple[Network, ...], NoDecode] = ()

    @field_validator("storage_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        return check_storage_url(value) if value else value

    @field_validator("storage_public_url", "storage_cloudfront_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        url = urlsplit(value)
        plain = url.scheme in ("http", "https") and url.hostname and not (url.query or url.fragment)
        if value and (not plain or "@" in url.netloc):
            raise ValueError("must be http:// or https:// with a host, and a path if needed")
        return value.rstrip("/")

    @field_validator("storage_link_keys")
    @classmethod
    def _check_link_keys(cls, value: str) -> str:
        if any(len(key) < _MIN_KEY_CHARACTERS for key in split_addresses(value)):
            raise ValueError(
                f"each key must have at least {_MIN_KEY_CHARACTERS} characters,"
                " for example of `openssl rand -hex 32`"
            )
        return value

    @model_validator(mode="after")
    def _require_public_url(self) -> Self:
        host = self.storage_http_address.rpartition(":")[0].strip("[]")
        if self.url.startswith("file:") and host in ("", "0.0.0.0", "::") and not self.storage_public_url:  # noqa: S104 - compared, not bound
            raise ValueError(
                f"REELHAUL_STORAGE_HTTP_ADDRESS={self.storage_http_address} is no address that links can"
                " have: set REELHAUL_STORAGE_PUBLIC_URL, for example https://media.example.org"
            )
        return self

    @field_validator("storage_database_url")
    @classmethod
    def _check_database_url(cls, value: str) -> str:
        return check_database_url(value)

    @field_validator("storage_seal_keys")
    @classmethod
    def _check_seal_keys(cls, value: str) -> str:
        check_keys(value)
        return value

    @field_validator("storage_destination_networks", mode="before")
    @classmethod
    def _split_destination_networks(cls, value: object) -> object:
        return split_networks(value)

    @field_validator("storage_cloudfront_key_pair_id")
    @classmethod
    def _check_key_pair_id(cls, value: str) -> str:
        if value and not _KEY_PAIR_ID.fullmatch(value):
            raise ValueError("must be the id of a public key of CloudFront, for example K2JCJMDEHXQW5F")
        return value

    @field_validator("storage_cloudfront_key_file")
    @classmethod
    def _check_key_file(cls, value: Path | None) -> Path | None:
        if value is not None:
            from reelhaul_storage.s3.links import load_private_key  # imports botocore

            load_private_key(value)
        return value

    @model_validator(mode="after")
    def _require_all_of_cloudfront(self) -> Self:
        parts = (
            self.storage_cloudfront_url,
            self.storage_cloudfront_key_pair_id,
            self.storage_cloudfront_key_file,
        )
        if any(parts) and not (all(parts) and self.url.startswith("s3:")):
            raise ValueError(
                "REELHAUL_STORAGE_CLOUDFRONT_URL, REELHAUL_STORAGE_CLOUDFRONT_KEY_PAIR_ID and"
                " REELHAUL_STORAGE_CLOUDFRONT_KEY_FILE are set together, for an s3:// REELHAUL_STORAGE_URL"
            )
        return self

    @field_validator("storage_adopt_dir", "storage_cloudfront_key_file", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def url(self) -> str:
        """``storage_url`` or its default."""
        return self.storage_url or f"file://{self.data_dir.resolve()}/artifacts"

    @property
    def link_keys(self) -> list[str]:
        """The secrets that sign links; empty if none is set."""
        return split_addresses(self.storage_link_keys)

    @property
    def database_url(self) -> str:
        """``storage_database_url`` or its default."""
        return self.storage_database_url or f"sqlite:///{self.data_dir.resolve()}/storage.db"

    @property
    def adopt_dir(self) -> Path:
        """``storage_adopt_dir`` or its default."""
        return self.storage_adopt_dir or self.data_dir.resolve() / "work"

    def load_seal_keys(self) -> tuple[str, ...]:
        """Return the keys of ``storage_seal_keys``, or the one in the data folder."""
        return parse_keys(self.storage_seal_keys) or (load_or_create_key(self.seal_key_path),)

    @property
    def seal_key_path(self) -> Path:
        """The key in the data folder, which is created when it is first needed."""
        return self.data_dir / "storage-seal.key"


def check_storage_url(url: str) -> str:
    """Return *url* if blobs can be stored there. Raises ValueError."""
    if url.startswith("s3:"):
        parse_location(url)
        return url
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc or not parts.path.startswith("/"):
        raise ValueError("must be file:///folder or s3://bucket/prefix")
    check_folder(Path(unquote(parts.path)))
    return url


def is_same_location(one: str, other: str) -> bool:
    """Return whether two valid storage URLs name the same place, with whatever options."""
    return _identify(one) == _identify(other)


def _identify(url: str) -> tuple[str, ...]:
    if url.startswith("s3:"):
        location = parse_location(url)
        return location.endpoint_url.rstrip("/"), location.bucket, location.prefix
    return (str(Path(unquote(urlsplit(url).path)).resolve()),)
