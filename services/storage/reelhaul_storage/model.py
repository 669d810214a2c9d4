"""Model of storage: artifacts, uploads, and the rules about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.filters.ast import Node
from reelhaul_runtime.identity import Caller
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import Corrupt, EtagMismatch, Expired

Network = IPv4Network | IPv6Network

#: How long an unfinished upload is kept after its last write.
UPLOAD_LIFETIME = timedelta(hours=24)
#: Unfinished uploads of a tenant: more than all its downloads at once need, and few enough to list.
MAX_UPLOADS_PER_TENANT = 10_000
#: Destinations of a tenant.
MAX_DESTINATIONS_PER_TENANT = 100
#: How long a writer may take from claiming a blob to committing its artifact.
CLAIM_LIFETIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """The attributes of an artifact that its writer chooses."""

    tenant: str
    expire_time: datetime
    file_name: str = ""
    media_type: str = ""
    job: str = ""
    epoch: int = 0
    kind: ArtifactInfo.Kind.ValueType = ArtifactInfo.Kind.KIND_UNSPECIFIED
    language_code: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One stored file. Its content never changes; *key* is the key of its blob."""

    id: str
    tenant: str
    file_name: str
    media_type: str
    content: Digests
    key: str
    job: str
    epoch: int
    kind: ArtifactInfo.Kind.ValueType
    language_code: str
    labels: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    expire_time: datetime
    #: When its bytes were last read completely and intact; None: not since they were sent.
    verify_time: datetime | None
    #: Grows by one with every change.
    revision: int = 1
    #: Signed links of an earlier generation are revoked.
    link_generation: int = 0
    #: When its bytes were found damaged; None: they are not known to be.
    damage_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"artifacts/{self.id}"

    @property
    def etag(self) -> str:
        """The strong etag, quoted; it covers the content and every mutable attribute."""
        return f'"{self.content.sha256[:16]}-{self.revision}"'

    def check_etag(self, etag: str) -> None:
        """Raise ETAG_MISMATCH unless *etag* is empty or current."""
        if etag and etag != self.etag:
            raise EtagMismatch(self.name, self.etag)

    def is_visible_to(self, caller: Caller) -> bool:
        """Return whether *caller* is of this tenant or sees all tenants."""
        return caller.sees_all_tenants or caller.tenant == self.tenant

    def check_visible_to(self, caller: Caller) -> None:
        """Raise RESOURCE_NOT_FOUND unless the artifact is visible to *caller*."""
        if not self.is_visible_to(caller):
            raise NotFound(self.name)

    def check_not_expired(self, now: datetime) -> None:
        """Raise ARTIFACT_EXPIRED if the artifact has expired."""
        if self.expire_time <= now:
            raise Expired(self.name, self.expire_time)

    def check_intact(self) -> None:
        """Raise ARTIFACT_CORRUPT if its bytes are known to be damaged."""
        if self.damage_time is not None:
            raise Corrupt(self.name)


@dataclass(frozen=True, slots=True)
class Upload:
    """A write: unfinished, or finished a short time ago as artifact *artifact_id*."""

    id: str
    draft: NewArtifact
    create_time: datetime
    expire_time: datetime
    total_size: int = 0
    #: Bytes of disk space that it needs until it is finished.
    reserved_size: int = 0
    #: SHA-256 that the writer announced, or empty.
    expected_sha256: str = ""
    direct: bool = False
    request_id: str = ""
    #: Digest of the request, to detect another request under the same request_id.
    request_digest: str = ""
    #: Empty until the upload is finished.
    artifact_id: str = ""
    #: The verified content that a finish claimed before it was interrupted, and the key of its
    #: blob, published or about to be. None and empty if there is no claim.
    claimed_content: Digests | None = None
    claimed_key: str = ""
    #: While it is finished: the generation of the blobs' location when that began.
    generation: int = 0

    @property
    def name(self) -> str:
        """The resource name."""
        return f"uploads/{self.id}"

    def check_not_expired(self, now: datetime) -> None:
        """Raise ARTIFACT_EXPIRED if the upload has expired."""
        if self.expire_time <= now:
            raise Expired(self.name, self.expire_time)

    def check_visible_to(self, caller: Caller) -> None:
        """Raise RESOURCE_NOT_FOUND if *caller* is neither the suite nor of this tenant."""
        if not caller.suite and caller.tenant != self.draft.tenant:
            raise NotFound(self.name)


@dataclass(frozen=True, slots=True)
class ExpectedChecksums:
    """Checksums that the writer states for its content. Empty sha256 or None crc32c: not stated."""

    sha256: str = ""
    crc32c: int | None = None

    def match(self, content: Digests) -> bool:
        """Return whether *content* has the stated checksums."""
        return self.sha256 in ("", content.sha256) and self.crc32c in (None, content.crc32c)


@dataclass(frozen=True, slots=True)
class PartUrls:
    """Where a client sends an upload in parts of *part_size* bytes, the last one shorter; one URL per part.

    Whoever knows a URL can send its part: URLs are in no log.
    """

    urls: tuple[str, ...] = field(repr=False)
    part_size: int


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that a client has sent to its URL, with the ETag that it got for it."""

    number: int
    etag: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a write; *finish* is set on the last one of a write that also finishes."""

    offset: int
    content: bytes
    crc32c: int | None = None
    finish: ExpectedChecksums | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A bucket that artifacts of *tenant* are delivered to, and who may write to it."""

    tenant: str
    id: str
    bucket: str
    create_time: datetime
    update_time: datetime
    display_name: str = ""
    prefix: str = ""
    #: Empty: AWS.
    endpoint_url: str = ""
    region: str = "us-east-1"
    path_style: bool = False
    #: ``AES256``, ``aws:kms``, or empty.
    server_side_encryption: str = ""
    #: A key pair, its secret encrypted; or else the role to assume.
    access_key_id: str = ""
    sealed_secret: bytes = field(default=b"", repr=False)
    role_arn: str = ""
    external_id: str = ""
    #: Grows by one with every change.
    revision: int = 1

    @property
    def name(self) -> str:
        """The resource name."""
        return f"destinations/{self.id}"

    @property
    def etag(self) -> str:
        """The strong etag, quoted; an id that is used again does not get an earlier one."""
        return f'"{self.create_time.timestamp():.6f}-{self.revision}"'

    def check_etag(self, etag: str) -> None:
        """Raise ETAG_MISMATCH unless *etag* is empty or current."""
        if etag and etag != self.etag:
            raise EtagMismatch(self.name, self.etag)


@dataclass(frozen=True, slots=True)
class DeliveredObject:
    """An object in the bucket of a destination, verified there."""

    uri: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class LinkTerms:
    """What a signed link allows."""

    #: Until when a download may start, in whole seconds.
    expire_time: datetime
    #: Whether a browser may show the file in place of saving it.
    inline: bool = False
    #: The network from which the link works; None: everywhere.
    network: Network | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Filter, order and page of a list of artifacts.

    ``tenant`` is None for all tenants. ``after`` is the cursor of the last artifact of the previous page,
    or None.
    """

    limit: int
    tenant: str | None = None
    where: Node | None = None
    order: str = "create_time"
    descending: bool = True
    after: tuple[datetime | int, str] | None = None

    def cursor(self, artifact: Artifact) -> tuple[datetime | int, str]:
        """Return the position of *artifact* in this order: (order value, id)."""
        value: datetime | int
        value = artifact.content.size if self.order == "size" else getattr(artifact, self.order)
        return value, artifact.id


@dataclass(frozen=True, slots=True)
class TenantUsage:
    """How many artifacts a tenant has, and the sum of their sizes in bytes."""

    tenant: str
    artifacts: int
    size: int


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored content and its key."""

    key: str
    content: Digests


@dataclass(frozen=True, slots=True)
class BlobLocation:
    """Where the blobs are, as the catalog records it."""

    #: Grows with every change; 0: the blobs were never moved.
    generation: int = 0
    #: A value of REELHAUL_STORAGE_URL; empty: the blobs are where that setting says.
    url: str = ""
    #: Where blobs may still be that are not at *url* yet; empty if all are there.
    previous_url: str = ""


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The space on a disk, in bytes."""

    free: int
    total: int
    #: What all unfinished uploads together may take, with what is staged of them already.
    available: int
    #: Whether files of the shared folder are adopted by links, which take no space.
    adopts_by_link: bool


@dataclass(frozen=True, slots=True)
class BlobHealth:
    """How many blobs are damaged, and when the one read least recently was found intact.

    *oldest_verify_time* is None if there is no blob, or one that was never read.
    """

    damaged: int
    oldest_verify_time: datetime | None


def build_artifact(
    upload: Upload,
    content: Digests,
    key: str,
    *,
    id: str,  # noqa: A002
    now: datetime,
    verify_time: datetime | None,
) -> Artifact:
    """Return the artifact of *upload* with *content* under *key*, verified at *verify_time*."""
    draft = upload.draft
    return Artifact(
        id=id,
        tenant=draft.tenant,
        file_name=draft.file_name or id,
        media_type=draft.media_type or "application/octet-stream",
        content=content,
        key=key,
        job=draft.job,
        epoch=draft.epoch,
        kind=draft.kind,
        language_code=draft.language_code,
        labels=dict(draft.labels),
        create_time=now,
        update_time=now,
        expire_time=draft.expire_time,
        verify_time=verify_time,
    )
