"""Location: bucket, prefix and options of ``s3://bucket/prefix?option=value``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_OPTIONS = ("endpoint_url", "region", "path_style", "sse", "sse_kms_key_id")
_MAX_PREFIX = 256

#: Where blobs are, below the prefix.
BLOBS = "blobs/"


@dataclass(frozen=True, slots=True)
class Location:
    """Where the objects of one store are. Credentials are no part of it."""

    bucket: str
    #: Empty, or ends with a slash.
    prefix: str = ""
    #: Address of a server other than AWS; empty: the endpoint of the region.
    endpoint_url: str = ""
    region: str = ""
    #: Whether the bucket is in the path of URLs rather than in their host name.
    path_style: bool = False
    #: Server-side encryption: empty (the default of the bucket), ``AES256`` or ``aws:kms``.
    sse: str = ""
    sse_kms_key_id: str = ""

    def blob_key(self, key: str) -> str:
        """Return the key of the object of blob *key*."""
        return f"{self.prefix}{BLOBS}{key}"

    @property
    def encryption(self) -> dict[str, str]:
        """The arguments of boto3 that make S3 encrypt a new object."""
        arguments = {"ServerSideEncryption": self.sse, "SSEKMSKeyId": self.sse_kms_key_id}
        return {name: value for name, value in arguments.items() if value}


def parse_location(url: str) -> Location:
    """Return the location that *url* names. Raises ValueError, without a value of *url*."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or parts.fragment:
        raise ValueError("must be s3://bucket/prefix?option=value")
    if "@" in parts.netloc:
        raise ValueError("must not contain credentials: set AWS_ACCESS_KEY_ID or another source of boto3")
    if not _BUCKET.fullmatch(parts.netloc) or ".." in parts.netloc:
        raise ValueError("the bucket must have 3 to 63 lower-case letters, digits, dots and hyphens")
    prefix = unquote(parts.path).strip("/")
    components = prefix.split("/")
    if prefix and (len(prefix) > _MAX_PREFIX or not _PREFIX.fullmatch(prefix) or {".", ".."} & {*components}):
        raise ValueError("the prefix must consist of names with letters, digits and !_.*'()- between slashes")
    options = _parse_options(parts.query)
    return Location(
        bucket=parts.netloc,
        prefix=f"{prefix}/" if prefix else "",
        path_style=options.pop("path_style", "false") == "true",
        **options,
    )


def _parse_options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=20)
    options = dict(pairs)
    unknown = sorted(set(options).difference(_OPTIONS))
    if unknown:
        raise ValueError(f"unknown option {unknown[0][:64]!r}: the options are {', '.join(_OPTIONS)}")
    if len(pairs) != len(options):
        raise ValueError("each option may be set once")
    if options.get("path_style", "true") not in ("true", "false"):
        raise ValueError("path_style must be true or false")
    if not _REGION.fullmatch(options.get("region", "us-east-1")):
        raise ValueError("region must be a name such as eu-central-1")
    if options.get("sse", "AES256") not in ("AES256", "aws:kms"):
        raise ValueError("sse must be AES256 or aws:kms")
    if "sse_kms_key_id" in options and options.get("sse") != "aws:kms":
        raise ValueError("sse_kms_key_id requires sse=aws:kms")
    if "endpoint_url" in options:
        _check_endpoint(options["endpoint_url"])
    return options


def _check_endpoint(endpoint_url: str) -> None:
    try:
        endpoint = urlsplit(endpoint_url)
        valid = endpoint.scheme in ("http", "https") and bool(endpoint.hostname) and endpoint.port != 0
    except ValueError:
        valid = False
    if not valid or "@" in endpoint.netloc or endpoint.path not in ("", "/") or endpoint.query:
        raise ValueError("endpoint_url must be https://host or http://host:port")
