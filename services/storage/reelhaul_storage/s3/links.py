"""Links to blobs on S3: presigned URLs, and URLs of a CloudFront distribution in front of the bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from ipaddress import IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from botocore.signers import CloudFrontSigner
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from reelhaul_runtime.file_responses import choose_media_type, content_disposition
from reelhaul_storage.errors import Unsupported
from reelhaul_storage.model import Artifact, LinkTerms
from reelhaul_storage.s3.bucket import create_client, errors_as_unavailable
from reelhaul_storage.s3.location import Location

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_MIN_KEY_BITS = 2048


class S3LinkSigner:
    """Implements ports.LinkSigner by presigned URLs (Signature Version 4). They work for GET only."""

    revocable = False

    def __init__(self, location: Location, client: S3Client, now: Callable[[], datetime]) -> None:
        self._location, self._client, self._now = location, client, now

    @classmethod
    @asynccontextmanager
    async def open(cls, location: Location, now: Callable[[], datetime]) -> AsyncIterator[S3LinkSigner]:
        """Open the signer of links to *location*; it sends no request but those for credentials."""
        client = await asyncio.to_thread(create_client, location)
        try:
            yield cls(location, client, now)
        finally:
            client.close()

    async def sign(self, artifact: Artifact, terms: LinkTerms) -> str:
        if terms.network is not None:
            raise Unsupported(
                "SignArtifactUrl",
                "ip_cidr: links of S3 work from everywhere; links of CloudFront can be bound to a network",
            )
        # It blocks while temporary credentials are renewed.
        return await asyncio.to_thread(self._presign, artifact, terms)

    def _presign(self, artifact: Artifact, terms: LinkTerms) -> str:
        disposition, media_type = _response_headers(artifact, terms)
        seconds = int((terms.expire_time - self._now()).total_seconds())
        parameters = {
            "Bucket": self._location.bucket,
            "Key": self._location.blob_key(artifact.key),
            "ResponseContentDisposition": disposition,
            "ResponseContentType": media_type,
        }
        with errors_as_unavailable():
            return self._client.generate_presigned_url("get_object", parameters, ExpiresIn=max(1, seconds))


class CloudFrontLinkSigner:
    """Implements ports.LinkSigner by signed URLs of the CloudFront distribution at *base_url*.

    Its origin is the bucket; it must pass the parameters ``response-content-*`` on to S3. *key* is the
    private key of the public key that CloudFront knows as *key_pair_id*.
    """

    revocable = False

    def __init__(self, base_url: str, key_pair_id: str, key: RSAPrivateKey, location: Location) -> None:
        self._base_url, self._location = base_url, location
        # https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/private-content-signed-urls.html
        # SHA-1 is what CloudFront verifies; the caller chooses no part of the message but its length.
        self._signer = CloudFrontSigner(key_pair_id, lambda message: key.sign(message, PKCS1v15(), SHA1()))  # noqa: S303

    async def sign(self, artifact: Artifact, terms: LinkTerms) -> str:
        if isinstance(terms.network, IPv6Network):
            raise Unsupported("SignArtifactUrl", "ip_cidr: CloudFront binds links to IPv4 networks only")
        disposition, media_type = _response_headers(artifact, terms)
        query = urlencode(
            {"response-content-disposition": disposition, "response-content-type": media_type},
            quote_via=quote,
            safe="",
        )
        url = f"{self._base_url}/{quote(self._location.blob_key(artifact.key))}?{query}"
        if terms.network is None:
            # A canned policy: CloudFront derives it from the URL.
            signed: str = self._signer.generate_presigned_url(url, date_less_than=terms.expire_time)
        else:
            policy = self._signer.build_policy(url, terms.expire_time, ip_address=str(terms.network))
            signed = self._signer.generate_presigned_url(url, policy=policy)
        return signed


def load_private_key(path: Path) -> RSAPrivateKey:
    """Return the RSA key in the PEM file at *path*. Raises ValueError, with no part of its content."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ValueError("must be a file with a private key in PEM, without a password") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _MIN_KEY_BITS:
        raise ValueError(f"must be an RSA key of at least {_MIN_KEY_BITS} bits")
    return key


def _response_headers(artifact: Artifact, terms: LinkTerms) -> tuple[str, str]:
    """Return Content-Disposition and Content-Type of the response to a link."""
    media_type = choose_media_type(artifact.media_type)
    return content_disposition(artifact.file_name, media_type, inline=terms.inline), media_type
