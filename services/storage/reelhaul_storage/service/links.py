"""Links: creates, revokes and resolves URLs of artifacts that need no credential."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import datetime, timedelta

from reelhaul_runtime.addresses import unmap
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.identity import caller
from reelhaul_storage.errors import LinkAddressForbidden, LinkInvalid, Unsupported
from reelhaul_storage.local_links import LinkKeys, LocalLink, Signature
from reelhaul_storage.model import Artifact, LinkTerms, Network
from reelhaul_storage.ports import BlobStore, Catalog, LinkSigner
from reelhaul_storage.service.artifacts import Artifacts

_DEFAULT_TTL = timedelta(hours=1)
#: The longest that S3 allows (Signature Version 4).
_MAX_TTL = timedelta(days=7)


class Links:
    """Use cases of links. A caller signs and revokes links to artifacts of its tenant."""

    def __init__(
        self, catalog: Catalog, artifacts: Artifacts, signer: LinkSigner, now: Callable[[], datetime]
    ) -> None:
        self._catalog = catalog
        self._artifacts = artifacts
        self._signer = signer
        self._now = now

    async def sign(
        self,
        id: str,  # noqa: A002
        ttl: timedelta | None = None,
        network: Network | None = None,
        *,
        inline: bool = False,
    ) -> tuple[str, datetime]:
        """Return a link and when it expires: after *ttl*, or with the artifact if that is earlier.

        Raises RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED, ARTIFACT_CORRUPT, FIELD_INVALID (ttl), and
        METHOD_UNSUPPORTED (*network*).
        """
        ttl = _DEFAULT_TTL if ttl is None else ttl
        if not timedelta(seconds=1) <= ttl <= _MAX_TTL:
            raise FieldInvalid("ttl", "must be from 1 second to 7 days")
        artifact = await self._artifacts.get(id)
        artifact.check_intact()
        # Links carry whole seconds.
        expire_time = min(self._now() + ttl, artifact.expire_time).replace(microsecond=0)
        return await self._signer.sign(artifact, LinkTerms(expire_time, inline, network)), expire_time

    async def revoke(self, id: str) -> Artifact:  # noqa: A002
        """Revoke the links that were signed so far; return the artifact.

        Raises RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED, METHOD_UNSUPPORTED.
        """
        if not self._signer.revocable:
            raise Unsupported(
                "RevokeArtifactUrls",
                "the links of this backend work until they expire: sign them with a short ttl,"
                " or delete the artifact",
            )
        now, who = self._now(), caller()

        def change(artifact: Artifact) -> Artifact:
            artifact.check_visible_to(who)
            artifact.check_not_expired(now)
            return replace(
                artifact,
                link_generation=artifact.link_generation + 1,
                update_time=now,
                revision=artifact.revision + 1,
            )

        return await self._catalog.update_artifact(id, change)


class LinkedArtifacts:
    """Use case of the HTTP port: reads artifacts for whoever presents a link that storage has signed."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        artifacts: Artifacts,
        keys: LinkKeys,
        now: Callable[[], datetime],
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._artifacts = artifacts
        self._keys = keys
        self._now = now

    async def get(self, link: LocalLink, signature: Signature, address: str) -> Artifact:
        """Return the artifact of *link*, which a client at the IP address *address* presents.

        Raises CREDENTIAL_INVALID (altered, expired or revoked), ADDRESS_FORBIDDEN, RESOURCE_NOT_FOUND
        (deleted), ARTIFACT_EXPIRED, ARTIFACT_CORRUPT.
        """
        now = self._now()
        if not self._keys.verify(link, signature):
            raise LinkInvalid("the link is damaged, or signed with a key that is no longer in use")
        if link.expire_time <= now:
            raise LinkInvalid("the link has expired: request another one")
        if link.network is not None and not _contains(link.network, address):
            raise LinkAddressForbidden("the link does not work from this address")
        artifact = await self._catalog.get_artifact(link.artifact_id)
        artifact.check_not_expired(now)
        if artifact.link_generation != link.generation:
            raise LinkInvalid("the link was revoked: request another one")
        artifact.check_intact()
        if await self._blobs.size(artifact.key) != artifact.content.size:
            await self._artifacts.report_damage(artifact, now)
        return artifact

    def read(self, artifact: Artifact, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Stream *length* bytes from *offset*. Raises ARTIFACT_CORRUPT."""
        return self._artifacts.read_verified(artifact, offset, length)


def _contains(network: Network, address: str) -> bool:
    try:
        # A zone (fe80::1%eth0) is not part of the address.
        client = unmap(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    return client in network
