"""Staging on S3: what is stored of an unfinished upload, and how it becomes a blob.

Content is written as parts of a multipart upload at the key of the future blob, so that publishing
copies nothing. What is shorter than a part is the object ``staging/<upload>``: the content of a small
upload, or the *tail* that follows the parts. Its metadata says at which offset it begins, so that a
tail which later parts cover is recognised.

Parts cannot be read before they are an object. An upload that must be read to be hashed is therefore
*sealed*: completed at its key, while ``staging/<upload>`` becomes a marker that the object is not
published yet.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count, takewhile

from reelhaul_runtime import failpoints
from reelhaul_storage.digests import Hasher
from reelhaul_storage.errors import OffsetConflict
from reelhaul_storage.model import PartUrls, SentPart
from reelhaul_storage.s3.bucket import Bucket, MultipartUpload, Part, StagedChanged
from reelhaul_storage.s3.checks import build_check_key
from reelhaul_storage.s3.location import BLOBS
from reelhaul_storage.s3.reader import RangeReader

#: Parts of a multipart upload, by S3's rules.
MAX_PARTS = 10_000
_MIN_PART = 5 << 20

_BLOBS, STAGING = BLOBS, "staging/"
_PART = 8 << 20
_MIB = 1 << 20
_MAX_DIRECT_PARTS = 1000
# Signed URLs are valid for less time than the upload.
_URL_SECONDS = 12 * 3600
# Names of the metadata of staging/<upload>.
_OFFSET, _SEALED_KEY, _SEALED_PARTS = "offset", "sealed-key", "sealed-parts"


@dataclass(frozen=True, slots=True)
class Tail:
    """The content of ``staging/<upload>``."""

    size: int
    etag: str


@dataclass
class Staged:
    """What is staged of one upload."""

    upload: str
    #: The multipart upload of the parts; None if there is none.
    multipart: MultipartUpload | None = None
    #: The parts from the first on, without a gap.
    parts: list[Part] = field(default_factory=list)
    #: What follows the parts; None if nothing does.
    tail: Tail | None = None
    #: Key and size of the object that the parts became; empty unless the upload is sealed.
    sealed_key: str = ""
    sealed_size: int = 0
    #: Hashers of the content up to some sizes, as far as this process has seen it.
    hashers: dict[int, Hasher] = field(default_factory=lambda: {0: Hasher()})

    @property
    def parts_size(self) -> int:
        """Bytes in the parts."""
        return sum(part.size for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.sealed_size or self.parts_size + (self.tail.size if self.tail else 0)

    @property
    def key(self) -> str:
        """The key of the blob that the parts become; empty if the content is not in parts."""
        return self.sealed_key or (_blob_key(self.multipart) if self.multipart and self.parts else "")

    def add_part(self, part: Part) -> None:
        """Add the next part, which covers the tail."""
        self.parts.append(part)
        self.tail = None
        size = self.parts_size
        self.hashers = {at: hasher for at, hasher in self.hashers.items() if at >= size}


class Staging:
    """Staged uploads and blobs in *bucket*. Every method blocks and may raise STORAGE_UNAVAILABLE."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def load(self, upload: str) -> Staged:
        """Return what is staged of *upload*."""
        staged = Staged(upload)
        small = self._bucket.head(STAGING + upload)
        uploads = self._list_multipart_uploads(upload)
        if small is not None and _SEALED_KEY in small.metadata:
            self._load_sealed(staged, small.metadata, uploads)
            return staged
        for multipart in uploads:
            parts = _take_full_parts(self._list_parts(multipart))
            if staged.multipart is None or len(parts) > len(staged.parts):
                staged.multipart, staged.parts = multipart, parts
        if small is not None and small.metadata.get(_OFFSET) == str(staged.parts_size):
            staged.tail = Tail(small.size, small.etag)
        return staged

    def open_multipart(self, staged: Staged) -> MultipartUpload:
        """Return the multipart upload of *staged*, which is opened if there is none."""
        if staged.multipart is None:
            staged.multipart = self._bucket.create_multipart_upload(_BLOBS + build_key(staged.upload))
            failpoints.hit("storage.multipart.after_create")
        return staged.multipart

    def put_part(self, multipart: MultipartUpload, number: int, content: bytes) -> Part:
        """Store part *number*. Raises StagedChanged."""
        part = self._bucket.put_part(multipart, number, content)
        failpoints.hit("storage.part.after_put")
        return part

    def read_tail(self, staged: Staged) -> bytes:
        """Return the content of the tail; empty if there is none. Raises StagedChanged."""
        if staged.tail is None:
            return b""
        return b"".join(self._open(STAGING + staged.upload, staged.tail.size).read_all())

    def write_tail(self, staged: Staged, content: bytes) -> None:
        """Store *content* as what follows the parts."""
        etag = self._bucket.put(STAGING + staged.upload, content, {_OFFSET: str(staged.parts_size)})
        failpoints.hit("storage.tail.after_put")
        staged.tail = Tail(len(content), etag)

    def hash(self, staged: Staged) -> Hasher:
        """Return the hasher of all content; reads it only if this process has not seen all of it.

        Seals the upload if it must read parts. Raises StagedChanged.
        """
        hasher = staged.hashers.get(staged.size)
        if hasher is None:
            if staged.parts:
                self._seal(staged)
            key = _BLOBS + staged.sealed_key if staged.sealed_key else STAGING + staged.upload
            hasher = Hasher()
            for piece in self._open(key, staged.size).read_all():
                hasher.update(piece)
            staged.hashers = {staged.size: hasher}
        return hasher

    def open_parts(self, upload: str, total_size: int) -> PartUrls:
        """Return URLs for the parts of *total_size* bytes, which a client may send itself."""
        multipart = self.open_multipart(self.load(upload))
        part_size = choose_direct_part_size(total_size)
        numbers = range(1, -(-total_size // part_size) + 1)
        urls = tuple(self._bucket.sign_part(multipart, number, _URL_SECONDS) for number in numbers)
        return PartUrls(urls, part_size)

    def take_parts(self, upload: str, total_size: int, sent: Sequence[SentPart]) -> Staged:
        """Return what is staged if that is *sent*. Raises WRITE_OFFSET_CONFLICT if it is not."""
        for multipart in self._list_multipart_uploads(upload):
            stored = {(part.number, part.etag.strip('"')): part for part in self._list_parts(multipart)}
            parts = [stored.get((part.number, part.etag.strip('"'))) for part in sent]
            found = [part for part in parts if part is not None]
            if len(found) == len(sent) and sum(part.size for part in found) == total_size:
                return Staged(upload, multipart, found, hashers={})
        raise OffsetConflict("the parts are not there: ask for part_urls and send them again", 0)

    def publish(self, staged: Staged, key: str, size: int, replace: bool) -> None:
        """Make the *size* staged bytes the blob *key*. Raises WRITE_OFFSET_CONFLICT, StagedChanged.

        Without *replace*, a blob of that size at *key* is kept: it has the same content.
        """
        if staged.size != size:
            raise OffsetConflict("the upload was written to while it was finished", staged.size)
        if staged.key == key:
            self._publish_in_place(staged)
        elif replace or self.blob_size(key) != size:
            self._publish_copy(staged, key)
        failpoints.hit("storage.publish.before_discard")
        if staged.sealed_key and staged.sealed_key != key:
            self._bucket.delete(_BLOBS + staged.sealed_key)
        if staged.multipart is not None and staged.key != key:
            self._bucket.abort(staged.multipart)
        self._bucket.delete(STAGING + staged.upload)

    def discard(self, upload: str) -> None:
        """Delete what is staged of *upload*, but no object among the blobs.

        A sealed object may be published already, for another upload of the same content. If it is not, it is
        an unknown key from now on, which garbage collection deletes.
        """
        for multipart in self._list_multipart_uploads(upload):
            self._bucket.abort(multipart)
        self._bucket.delete(STAGING + upload)

    def blob_size(self, key: str) -> int | None:
        """Return the size of blob *key*; None if it does not exist."""
        found = self._bucket.head(_BLOBS + key)
        if found is None:
            # 404 may also be the answer for the whole bucket, or of a proxy: no blob is missing then.
            self._bucket.check_exists()
        return None if found is None else found.size

    def read_blob(self, key: str, offset: int, length: int) -> RangeReader:
        """Open a part of blob *key* for reading. Raises KeyError."""
        try:
            return RangeReader(self._bucket, _BLOBS + key, offset, length)
        except KeyError:
            self._bucket.check_exists()
            raise

    def delete_blob(self, key: str) -> None:
        """Delete blob *key*. A missing one is not an error."""
        self._bucket.delete(_BLOBS + key)

    def list_staged(self, before: datetime) -> Iterator[list[str]]:
        """Yield pages of uploads with staged bytes that were stored *before*."""
        seen: set[str] = set()
        for page in self._bucket.list_objects(STAGING, before):
            names = [key.removeprefix(STAGING) for key in page]
            seen.update(names)
            yield names
        for uploads in self._bucket.list_multipart_uploads(_BLOBS, before):
            names = [_blob_key(multipart).partition(".")[0] for multipart in uploads]
            yield sorted(set(names) - seen)
            seen.update(names)

    def list_blobs(self, before: datetime) -> Iterator[list[str]]:
        """Yield pages of keys that were published *before*.

        Without the objects of uploads that have something staged: they may be sealed and not published. The
        staged ones are listed after the objects, so that an object whose marker is already gone was claimed
        before its key is yielded.
        """
        for page in self._bucket.list_objects(_BLOBS, before):
            pages = self._bucket.list_objects(STAGING)
            staged = {key.removeprefix(STAGING) for keys in pages for key in keys}
            keys = [key.removeprefix(_BLOBS) for key in page]
            yield [key for key in keys if key.partition(".")[0] not in staged]

    def check(self) -> None:
        """Write an object, read it and delete it. A crash leaves it like the bytes of an unknown upload."""
        key, content = build_check_key(STAGING), b"reelhaul"
        self._bucket.put(key, content)
        try:
            if b"".join(self._open(key, len(content)).read_all()) != content:
                raise StagedChanged(key)
        finally:
            self._bucket.delete(key)

    def _load_sealed(self, staged: Staged, marker: Mapping[str, str], uploads: list[MultipartUpload]) -> None:
        key, last = marker[_SEALED_KEY], int(marker[_SEALED_PARTS])
        size = self.blob_size(key)
        if size is None:
            # A crash came between the marker and the completion.
            for multipart in uploads:
                if _blob_key(multipart) == key:
                    latest = {part.number: part for part in self._list_parts(multipart)}
                    parts = [part for number, part in latest.items() if number <= last]
                    with suppress(StagedChanged):
                        self._bucket.complete(multipart, parts)
                        size = sum(part.size for part in parts)
        if size is not None:
            staged.sealed_key, staged.sealed_size = key, size
            staged.hashers.clear()

    def _seal(self, staged: Staged) -> None:
        """Complete the parts, if that is not done yet, without publishing the object."""
        if staged.sealed_key:
            return
        key, size, multipart = staged.key, staged.size, self.open_multipart(staged)
        if self.blob_size(key) is not None:
            # An earlier finish claimed the key, and others may use it by now. These parts may differ.
            if multipart in self._list_multipart_uploads(staged.upload):
                self.discard(staged.upload)
            raise StagedChanged(key)
        parts = self._copy_tail(staged, multipart)
        marker = {_SEALED_KEY: key, _SEALED_PARTS: str(len(parts))}
        self._bucket.put(STAGING + staged.upload, b"", marker)
        failpoints.hit("storage.seal.after_marker")
        self._bucket.complete(multipart, parts)
        failpoints.hit("storage.seal.after_complete")
        staged.multipart, staged.parts, staged.tail = None, [], None
        staged.sealed_key, staged.sealed_size = key, size

    def _publish_in_place(self, staged: Staged) -> None:
        """Make the blob at the key of the parts."""
        if not staged.sealed_key:
            multipart = self.open_multipart(staged)
            self._bucket.complete(multipart, self._copy_tail(staged, multipart))
        elif self.blob_size(staged.sealed_key) != staged.sealed_size:
            raise StagedChanged(staged.sealed_key)

    def _publish_copy(self, staged: Staged, key: str) -> None:
        """Make the blob at another key than that of the parts."""
        if staged.parts or staged.sealed_key:
            self._seal(staged)
            self._copy(_BLOBS + staged.sealed_key, key)
        elif staged.tail is not None:
            tail = staged.tail
            self._bucket.copy(STAGING + staged.upload, _BLOBS + key, tail.size, tail.etag)
        else:
            self._bucket.put(_BLOBS + key, b"")

    def _copy_tail(self, staged: Staged, multipart: MultipartUpload) -> list[Part]:
        """Make the tail the last part; return all parts."""
        if staged.tail is None:
            return staged.parts
        number, tail = len(staged.parts) + 1, staged.tail
        source = STAGING + staged.upload
        return [*staged.parts, self._bucket.copy_part(multipart, number, source, tail.size, tail.etag)]

    def _copy(self, source: str, key: str) -> None:
        found = self._bucket.head(source)
        if found is None:
            raise StagedChanged(source)
        self._bucket.copy(source, _BLOBS + key, found.size, found.etag)

    def _list_multipart_uploads(self, upload: str) -> list[MultipartUpload]:
        pages = self._bucket.list_multipart_uploads(f"{_BLOBS}{upload}.")
        return [multipart for page in pages for multipart in page]

    def _list_parts(self, multipart: MultipartUpload) -> list[Part]:
        try:
            return self._bucket.list_parts(multipart)
        except StagedChanged:
            return []

    def _open(self, key: str, size: int) -> RangeReader:
        try:
            return RangeReader(self._bucket, key, 0, size)
        except KeyError:
            raise StagedChanged(key) from None


def build_key(upload: str) -> str:
    """Return the key for a new blob of *upload*: never one that was used before.

    A slow deletion of an earlier blob can therefore not delete the new one.
    """
    return f"{upload}.{secrets.token_hex(6)}"


def choose_part_size(number: int, total_size: int) -> int:
    """Return the size of part *number* of *total_size* bytes (0: unknown), so that ``MAX_PARTS`` suffice.

    Parts of a known size are equal, as some servers require. Those of an unknown size grow: 440 GB fit.
    """
    if total_size:
        smallest = -(-total_size // (MAX_PARTS - 1))
        return max(_PART, -(-smallest // _MIB) * _MIB)
    return _PART * (1 + number // 1000)


def choose_direct_part_size(total_size: int) -> int:
    """Return the size of the parts that a client sends: so few parts that all URLs fit into one response."""
    smallest = -(-total_size // _MAX_DIRECT_PARTS)
    return max(_PART, -(-smallest // _MIB) * _MIB)


def _blob_key(multipart: MultipartUpload) -> str:
    return multipart.key.removeprefix(_BLOBS)


def _take_full_parts(parts: list[Part]) -> list[Part]:
    """Return the parts before the first gap or short part: a short one is a copy of the tail."""
    latest = {part.number: part for part in parts if part.size >= _MIN_PART}
    return [latest[number] for number in takewhile(latest.__contains__, count(1))]
