"""Fragments: the JSON of messages that repeat, kept by the serialized bytes of each message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass

# What an entry takes besides its key and its value (two objects and a slot of a dict), and what the hash of
# a message takes in a set.
_ENTRY_BYTES, _HASH_BYTES = 200, 100


class FragmentCache:
    """Keeps up to *max_bytes* of messages and their JSON, in one table for each message type and encoder.

    The key is the whole content of a message: an entry is found only with the bytes that an upstream
    has just sent for this very request, so nothing passes from one tenant to another, and nothing
    becomes stale.

    A message is kept when it comes for the second time; of the first only its hash is kept, so that what
    never repeats costs little and displaces nothing. There are two generations. A new one starts when one
    holds half of *max_bytes*; what was not used since then is dropped with the generation before it. That
    costs less per use than an exact LRU.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_generation_bytes = max_bytes // 2
        self._generation_bytes = 0
        #: Look-ups that found an entry, and those that did not.
        self.hits = self.misses = 0
        self._tables: list[FragmentTable] = []

    def add_table(self) -> FragmentTable:
        """Return a new table, which shares the limit of this cache."""
        table = FragmentTable(self)
        self._tables.append(table)
        return table

    @property
    def size_bytes(self) -> int:
        """Bytes of all entries, with what each takes besides its content."""
        hashes = sum(len(table.seen) for table in self._tables)
        return _HASH_BYTES * hashes + sum(
            _ENTRY_BYTES + len(key) + len(fragment)
            for table in self._tables
            for generation in (table.new, table.old)
            for key, fragment in generation.items()
        )

    def make_room(self, size: int) -> bool:
        """Start a new generation if this one has no room for *size* bytes; return whether it has now."""
        if size > self._max_generation_bytes:
            return False
        self._generation_bytes += size
        if self._generation_bytes > self._max_generation_bytes:
            self._generation_bytes = size
            for table in self._tables:
                table.seen, table.new, table.old = set(), {}, table.new
        return True


class FragmentTable:
    """The entries of one message type."""

    def __init__(self, cache: FragmentCache) -> None:
        self._cache = cache
        self.new: dict[bytes, bytes] = {}
        self.old: dict[bytes, bytes] = {}
        #: Hashes of messages that came once.
        self.seen: set[int] = set()

    def get(self, message: bytes) -> bytes | None:
        """Return the JSON of *message* if it is kept."""
        fragment = self.new.get(message)
        if fragment is None and (fragment := self.old.get(message)) is not None:
            self._keep(message, fragment)
        if fragment is None:
            self._cache.misses += 1
        else:
            self._cache.hits += 1
        return fragment

    def add(self, message: bytes, fragment: bytes) -> None:
        """Keep *fragment*, the JSON of *message*, the second time; unless it is larger than the cache."""
        message_hash = hash(message)
        if message_hash in self.seen:
            # A copy: the bytes of orjson occupy the buffer that it wrote into, 4 KiB or more.
            self._keep(message, bytes(memoryview(fragment)))
        elif self._cache.make_room(_HASH_BYTES):
            self.seen.add(message_hash)

    def _keep(self, message: bytes, fragment: bytes) -> None:
        if self._cache.make_room(_ENTRY_BYTES + len(message) + len(fragment)):
            self.new[message] = fragment


def element_splitter(field_number: int) -> Callable[[bytes], tuple[list[bytes], bytes]]:
    """Return the function that splits the bytes of a message into its elements and the rest.

    The elements are those of the repeated message field *field_number*, serialized; the rest is the
    message without them. Neither is parsed: for protobuf, a message field has the wire form of a bytes
    field, and the rest are unknown fields. The function raises DecodeError.
    """
    field = descriptor_pb2.FieldDescriptorProto(
        name="elements",
        number=field_number,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    file = descriptor_pb2.FileDescriptorProto(name="split.proto", syntax="proto3")
    file.message_type.add(name="Split", field=[field])
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    parse = GetMessageClass(pool.FindMessageTypeByName("Split")).FromString

    def split(message: bytes) -> tuple[list[bytes], bytes]:
        parts: Any = parse(message)
        elements = list(parts.elements)
        parts.ClearField("elements")
        return elements, parts.SerializeToString()

    return split
