"""Archives: reads several artifacts as one zip file that is built while it is sent."""

from __future__ import annotations

import hashlib
import logging
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from reelhaul_runtime.errors import FieldInvalid, NotFound, ReelhaulError
from reelhaul_runtime.identity import caller
from reelhaul_storage.errors import EtagMismatch, RangeInvalid
from reelhaul_storage.model import Artifact, Query
from reelhaul_storage.ports import Catalog
from reelhaul_storage.service.artifacts import Artifacts
from reelhaul_storage.zip_layout import Member, Part, ZipLayout, unique_names

log = logging.getLogger(__name__)

#: Most artifacts of one archive.
MAX_MEMBERS = 1000
# Part of the etag, to be changed with the layout: the same etag means the same bytes.
_FORMAT = "zip 1"
# Headers and small files are sent together in messages of about this size.
_MIN_PIECE = 64 << 10


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip file of *artifacts*: in order of their creation, each modified when it was created."""

    artifacts: Sequence[Artifact]
    layout: ZipLayout
    #: Strong etag of the bytes, quoted.
    etag: str

    @property
    def size(self) -> int:
        """Size of the zip file in bytes."""
        return self.layout.size


class Archives:
    """Use cases of archives. A caller's archives contain artifacts of its tenant only.

    An archive is chosen by a query or by ids of artifacts. Artifacts that do not exist or have expired
    are left out.
    """

    def __init__(self, catalog: Catalog, artifacts: Artifacts, now: Callable[[], datetime]) -> None:
        self._catalog = catalog
        self._artifacts = artifacts
        self._now = now

    async def describe(self, selection: Query | Sequence[str]) -> Archive:
        """Return the archive of *selection*.

        Raises RESOURCE_NOT_FOUND if it is empty, FIELD_INVALID if it has too many artifacts, and
        ARTIFACT_CORRUPT if one is known to be damaged.
        """
        artifacts = sorted(
            await self._select(selection), key=lambda artifact: (artifact.create_time, artifact.id)
        )
        if not artifacts:
            raise NotFound("artifacts")
        for artifact in artifacts:
            artifact.check_intact()
        names = unique_names(artifact.file_name for artifact in artifacts)
        members = [
            Member(name, artifact.content.size, artifact.create_time)
            for name, artifact in zip(names, artifacts, strict=True)
        ]
        return Archive(artifacts, ZipLayout(members), _hash(members, artifacts))

    async def read(
        self, selection: Query | Sequence[str], offset: int = 0, limit: int = 0, etag: str = ""
    ) -> AsyncIterator[bytes]:
        """Return a stream of the archive's bytes from *offset*, at most *limit* (0: no limit).

        Raises RANGE_INVALID and ETAG_MISMATCH before the first byte. The stream raises
        RESOURCE_NOT_FOUND, ARTIFACT_EXPIRED or ARTIFACT_CORRUPT if an artifact cannot be read completely.
        """
        archive = await self.describe(selection)
        if etag not in ("", archive.etag):
            raise EtagMismatch("the archive", archive.etag)
        if offset >= archive.size:
            raise RangeInvalid(archive.size)
        length = min(limit or archive.size, archive.size - offset)
        crc32s = await self._catalog.find_crc32s({artifact.key for artifact in archive.artifacts})
        return _join(self._read_sections(archive, crc32s, offset, length))

    async def _select(self, selection: Query | Sequence[str]) -> list[Artifact]:
        """Return the readable artifacts of *selection*."""
        who, now = caller(), self._now()
        if isinstance(selection, Query):
            artifacts = await self._artifacts.list_artifacts(selection, None)
            if len(artifacts) > MAX_MEMBERS:
                raise FieldInvalid("filter", f"selects more than {MAX_MEMBERS} artifacts")
        else:
            artifacts = await self._catalog.get_artifacts(selection)
        return [each for each in artifacts if each.is_visible_to(who) and each.expire_time > now]

    async def _read_sections(
        self, archive: Archive, crc32s: dict[str, int], offset: int, length: int
    ) -> AsyncIterator[bytes]:
        layout = archive.layout
        for section in layout.sections(offset, length):
            artifact, part = archive.artifacts[section.index], slice(section.start, section.stop)
            if section.part is Part.HEADER:
                yield layout.header(section.index)[part]
            elif section.part is Part.CONTENT:
                async for piece in self._read_content(artifact, crc32s, section.start, section.stop):
                    yield piece
            elif section.part is Part.DESCRIPTOR:
                yield layout.descriptor(section.index, await self._get_crc32(artifact, crc32s))[part]
            else:
                known = [await self._get_crc32(artifact, crc32s) for artifact in archive.artifacts]
                yield layout.directory(known)[part]

    async def _read_content(
        self, artifact: Artifact, crc32s: dict[str, int], start: int, stop: int
    ) -> AsyncIterator[bytes]:
        """Stream bytes of *artifact*; if it is read as a whole, its CRC-32 is known afterwards."""
        crc32 = 0
        unknown = artifact.key not in crc32s and stop - start == artifact.content.size
        _, pieces = await self._artifacts.read(artifact.id, start, stop - start)
        async for piece in pieces:
            if unknown:
                crc32 = zlib.crc32(piece, crc32)
            yield piece
        if unknown:
            crc32s[artifact.key] = crc32
            await self._save_crc32(artifact, crc32)

    async def _get_crc32(self, artifact: Artifact, crc32s: dict[str, int]) -> int:
        """Return the CRC-32 of the content, which is read if it is unknown: once in the life of a blob."""
        size = artifact.content.size
        if size and artifact.key not in crc32s:
            async for _ in self._read_content(artifact, crc32s, 0, size):
                pass
        return crc32s[artifact.key] if size else 0

    async def _save_crc32(self, artifact: Artifact, crc32: int) -> None:
        try:
            await self._catalog.set_crc32(artifact.key, artifact.content, crc32)
        except ReelhaulError as error:
            # The archive is complete without it; the next one computes it again.
            log.warning("CRC-32 not saved", extra={"blob": artifact.key, "cause": repr(error)})


def _hash(members: Sequence[Member], artifacts: Sequence[Artifact]) -> str:
    """Return the etag: a digest of all that the bytes of the archive depend on."""
    digest = hashlib.sha256(_FORMAT.encode())
    for member, artifact in zip(members, artifacts, strict=True):
        seconds = int(member.modify_time.timestamp())
        digest.update(f"\n{member.name}\0{member.size}\0{seconds}\0{artifact.content.sha256}".encode())
    return f'"{digest.hexdigest()}"'


async def _join(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join small *pieces*: a message for each header would cost more than its bytes."""
    joined = bytearray()
    async for piece in pieces:
        if not joined and len(piece) >= _MIN_PIECE:
            yield piece
            continue
        joined += piece
        if len(joined) >= _MIN_PIECE:
            yield bytes(joined)
            joined.clear()
    if joined:
        yield bytes(joined)
