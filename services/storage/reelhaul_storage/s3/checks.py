"""Check at startup: whether the bucket exists, the credentials suffice, and the clock is right."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from botocore.exceptions import ClientError

from reelhaul_runtime.settings import InvalidSetting
from reelhaul_storage.errors import BackendUnavailable
from reelhaul_storage.s3.bucket import Bucket, response_date

log = logging.getLogger(__name__)

# S3 refuses requests whose time differs more.
_MAX_SKEW_SECONDS = 15 * 60

_URL, _KEY, _SECRET = "{url}", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
# The causes of BackendUnavailable that are wrong settings, with the setting and what is wrong with it.
_WRONG_SETTINGS = {
    "NoSuchBucket": (_URL, "the bucket does not exist: create it"),
    "404": (_URL, "the bucket does not exist: create it"),
    "InvalidBucketName": (_URL, "S3 does not accept the name of the bucket"),
    "AuthorizationHeaderMalformed": (_URL, "region is not that of the bucket"),
    "PermanentRedirect": (_URL, "region is not that of the bucket"),
    "IllegalLocationConstraintException": (_URL, "region is not that of the bucket"),
    "301": (_URL, "region is not that of the bucket"),
    "SSLError": (_URL, "the certificate of the endpoint is not trusted: AWS_CA_BUNDLE names others to trust"),
    "KMS.NotFoundException": (_URL, "sse_kms_key_id is not a key that S3 knows"),
    "InvalidAccessKeyId": (_KEY, "S3 does not know this access key"),
    "NoCredentialsError": (_KEY, "boto3 finds no credentials: set it, or another source that boto3 knows"),
    "PartialCredentialsError": (_KEY, "boto3 finds only a part of the credentials"),
    "SignatureDoesNotMatch": (_SECRET, "it does not belong to the access key"),
    "ExpiredToken": ("AWS_SESSION_TOKEN", "it has expired"),
    "InvalidToken": ("AWS_SESSION_TOKEN", "S3 does not accept it"),
}


def check_access(bucket: Bucket, key: str, setting: str) -> None:
    """Write, read and delete an object at *key*, and do whatever else storage needs to be allowed.

    Blocks. Raises InvalidSetting, with the name of the setting (*setting* is that of the bucket's URL), for
    what an operator must change. If S3 does not answer now, it logs that and returns.
    """
    steps: list[tuple[str, Callable[[], object]]] = [
        ("s3:ListBucket", lambda: _check_clock(bucket.get_server_time(), setting)),
        ("s3:ListBucket", bucket.check_exists),
        ("s3:PutObject", lambda: bucket.put(key, b"reelhaul")),
        ("s3:GetObject", lambda: bucket.get(key, 0, 1)),
        ("s3:DeleteObject", lambda: bucket.delete(key)),
        ("s3:ListBucketMultipartUploads", lambda: next(bucket.list_multipart_uploads(key), None)),
        ("s3:AbortMultipartUpload", lambda: bucket.abort(bucket.create_multipart_upload(key))),
    ]
    for action, step in steps:
        try:
            step()
        except BackendUnavailable as error:
            _raise_if_wrong(error, action, setting)
            log.warning("S3 does not answer at the start", extra={"cause": error.metadata.get("cause")})
            return


def build_check_key(folder: str) -> str:
    """Return a key below *folder* that no other check uses."""
    return f"{folder}check-{secrets.token_hex(6)}"


def _raise_if_wrong(error: BackendUnavailable, action: str, setting: str) -> None:
    cause = error.metadata.get("cause", "")
    if cause in ("AccessDenied", "403"):
        raise InvalidSetting(f"{setting}: the credentials do not allow {action} in the bucket") from error
    if cause == "RequestTimeTooSkewed" and isinstance(error.__cause__, ClientError):
        date = response_date(error.__cause__.response)
        _check_clock(date, setting, always=True)
    if cause in _WRONG_SETTINGS:
        name, text = _WRONG_SETTINGS[cause]
        raise InvalidSetting(f"{name.format(url=setting)}: {text}") from error


def _check_clock(date: str, setting: str, *, always: bool = False) -> None:
    """Raise InvalidSetting if the clock differs too much from *date*, a Date header; *always* for any."""
    try:
        skew = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError):
        skew = 0
    if always or abs(skew) > _MAX_SKEW_SECONDS:
        difference = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'}"
        raise InvalidSetting(
            f"{setting}: the clock of this machine is {difference} that of S3: synchronize it"
        )
