"""What is true of artifacts and uploads by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_runtime.errors import NotFound
from reelhaul_runtime.identity import Caller
from reelhaul_storage.digests import Digests
from reelhaul_storage.errors import EtagMismatch, Expired

#: How long an unfinished write is kept after its last byte.
UPLOAD_LIFETIME = timedelta(hours=24)
#: How long a publisher may take between claiming a blob and committing its artifact.
CLAIM_LIFETIME = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """What a write becomes: all of an artifact that its maker chooses."""

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
    """One stored file. Its content never changes; *key* is where the bytes rest."""

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
    verify_time: datetime
    #: Grows by one with every change.
    revision: int = 1

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"artifacts/{self.id}"

    @property
    def etag(self) -> str:
        """Strong, quoted: of the content and of all that can be changed."""
        return f'"{self.content.sha256[:16]}-{self.revision}"'

    def check_etag(self, etag: str) -> None:
        """Raise ETAG_MISMATCH unless *etag* is empty or the present one."""
        if etag and etag != self.etag:
            raise EtagMismatch(self.name, self.etag)

    def check_visible_to(self, who: Caller) -> None:
        """Raise RESOURCE_NOT_FOUND unless *who* may know of it."""
        if not who.suite and who.tenant != self.tenant:
            raise NotFound(self.name)

    def check_not_expired(self, now: datetime) -> None:
        """Raise ARTIFACT_EXPIRED where it is past its time."""
        if self.expire_time <= now:
            raise Expired(self.name, self.expire_time)


@dataclass(frozen=True, slots=True)
class Upload:
    """An unfinished write, or one that was finished as *artifact* a short time ago."""

    id: str
    draft: NewArtifact
    create_time: datetime
    expire_time: datetime
    total_size: int = 0
    #: SHA-256 that the maker knew at the beginning, or empty.
    expected_sha256: str = ""
    direct: bool = False
    request_id: str = ""
    #: Tells a repeated request from another one under the same request_id.
    request_digest: str = ""
    #: The id of what it became, or empty.
    artifact_id: str = ""
    #: Checked content on its way to rest under *key*, or resting there: what is left of a
    #: finish that broke off. None and empty where there was none.
    claimed_content: Digests | None = None
    claimed_key: str = ""

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"uploads/{self.id}"

    def check_not_expired(self, now: datetime) -> None:
        """Raise ARTIFACT_EXPIRED where it was dropped."""
        if self.expire_time <= now:
            raise Expired(self.name, self.expire_time)

    def check_visible_to(self, who: Caller) -> None:
        """Raise RESOURCE_NOT_FOUND unless *who* may know of it."""
        if not who.suite and who.tenant != self.draft.tenant:
            raise NotFound(self.name)


@dataclass(frozen=True, slots=True)
class ExpectedChecksums:
    """What the maker of content says that it is. An empty sha256 and a crc32c of None are unsaid."""

    sha256: str = ""
    crc32c: int | None = None

    def match(self, content: Digests) -> bool:
        """Whether *content* is what was meant."""
        return self.sha256 in ("", content.sha256) and self.crc32c in (None, content.crc32c)


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of a write; *finish* is set on the last one of a write that ends with it."""

    offset: int
    content: bytes
    crc32c: int | None = None
    finish: ExpectedChecksums | None = None


@dataclass(frozen=True, slots=True)
class Query:
    """Which artifacts are wanted, and in which order.

    ``equal`` names attributes of Artifact. ``after`` is the (order value, id) of the last
    one seen, or None.
    """

    limit: int
    tenant: str | None = None
    equal: tuple[tuple[str, str | int], ...] = ()
    order: str = "create_time"
    descending: bool = True
    after: tuple[datetime | int, str] | None = None

    def cursor(self, artifact: Artifact) -> tuple[datetime | int, str]:
        """Where *artifact* stands in this order."""
        value: datetime | int
        value = artifact.content.size if self.order == "size" else getattr(artifact, self.order)
        return value, artifact.id


def build_artifact(
    upload: Upload,
    content: Digests,
    key: str,
    *,
    id: str,  # noqa: A002
    now: datetime,
    verify_time: datetime | None = None,
) -> Artifact:
    """What *upload* becomes once *content* rests under *key*, verified then or *now*."""
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
        verify_time=verify_time or now,
    )
