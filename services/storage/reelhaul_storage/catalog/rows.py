"""Converts between table rows and the model."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping

from reelhaul_storage.digests import Digests
from reelhaul_storage.model import Artifact, NewArtifact, Upload

# Not columns of artifacts under these names.
_OF_BLOB = ("content", "damage_time")


def artifact_values(artifact: Artifact) -> dict[str, Any]:
    """Return the column values of *artifact*."""
    values = {name: getattr(artifact, name) for name in Artifact.__slots__ if name not in _OF_BLOB}
    content = artifact.content
    values |= {"size": content.size, "sha256": content.sha256, "crc32c": content.crc32c}
    return values | {"labels": dict(artifact.labels), "kind": int(artifact.kind)}


def artifact_from_row(row: RowMapping) -> Artifact:
    """Convert a row of ``artifacts`` joined with its blob's damage_time."""
    values = dict(row)
    content = Digests(values.pop("size"), values.pop("sha256"), values.pop("crc32c"))
    return Artifact(content=content, **values)


def upload_values(upload: Upload) -> dict[str, Any]:
    """Return the column values of the new upload *upload*."""
    draft = asdict(upload.draft)
    draft["expire_time"] = upload.draft.expire_time.isoformat()
    return {
        "id": upload.id,
        "tenant": draft.pop("tenant"),
        "draft": draft,
        "total_size": upload.total_size,
        "reserved_size": upload.reserved_size,
        "expected_sha256": upload.expected_sha256,
        "direct": upload.direct,
        "create_time": upload.create_time,
        "expire_time": upload.expire_time,
        "request_id": upload.request_id or None,
        "request_digest": upload.request_digest,
        "claimed_key": "",
        "artifact": upload.artifact_id,
    }


def upload_from_row(row: RowMapping) -> Upload:
    """Convert a row of ``uploads`` joined with its claimed blob."""
    intact = row["key"] and row["damage_time"] is None
    draft = dict(row["draft"])
    draft["expire_time"] = datetime.fromisoformat(draft["expire_time"])
    return Upload(
        id=row["id"],
        draft=NewArtifact(tenant=row["tenant"], **draft),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        total_size=row["total_size"],
        reserved_size=row["reserved_size"],
        expected_sha256=row["expected_sha256"],
        direct=row["direct"],
        request_id=row["request_id"] or "",
        request_digest=row["request_digest"],
        artifact_id=row["artifact"],
        # Bytes that were damaged before the finish must be written again.
        claimed_content=Digests(row["size"], row["sha256"], row["crc32c"]) if intact else None,
        claimed_key=row["key"] or "",
    )
