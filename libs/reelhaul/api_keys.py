"""The strings of API keys: "rh_live_", 32 random bytes in base62, and a checksum that finds typing errors.

A string is 57 characters: the prefix, 43 of the random bytes and 6 of the CRC-32 of those 43. The checksum is
no secret: it lets a client reject a mistyped key without a call, every wrong letter and every swap of two
neighbours included.
"""

from __future__ import annotations

import hashlib
import secrets
import zlib

PREFIX = "rh_live_"
#: Characters of a string, and of its beginning that is stored in clear, for people.
LENGTH, SHOWN_LENGTH = 57, 12

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS = frozenset(_ALPHABET)
_RANDOM_BYTES = 32
# ceil(256 / log2(62)) and ceil(32 / log2(62)).
_BODY_LENGTH, _CHECKSUM_LENGTH = 43, 6


def create_key_string() -> str:
    """Return a new key string."""
    body = _to_base62(secrets.randbits(8 * _RANDOM_BYTES), _BODY_LENGTH)
    return PREFIX + body + _checksum(body)


def describe_error(key_string: str) -> str:
    """Return what is wrong with the form of *key_string*, without any of it; empty if it can be a key."""
    if not key_string.startswith(PREFIX):
        return f"an API key begins with {PREFIX}"
    if len(key_string) != LENGTH:
        return f"an API key has {LENGTH} characters, not {len(key_string)}"
    body, checksum = key_string[len(PREFIX) : -_CHECKSUM_LENGTH], key_string[-_CHECKSUM_LENGTH:]
    if not _LETTERS.issuperset(body):
        return f"after {PREFIX} an API key has letters and digits only"
    if checksum != _checksum(body):
        return "the checksum of the API key is wrong: a character is mistyped or missing"
    return ""


def is_well_formed(key_string: str) -> bool:
    """Return whether *key_string* has the form and the checksum of a key string."""
    return not describe_error(key_string)


def hash_key_string(key_string: str) -> bytes:
    """Return the SHA-256 of *key_string*, which is what servers store. Its 256 bits need no slow hash."""
    return hashlib.sha256(key_string.encode(errors="replace")).digest()


def check_credential(credential: str) -> str:
    """Return *credential*, an API key or a token of an identity provider, if it can be sent.

    Raises ValueError, whose text has nothing of it, if it begins as an API key does and is none, or holds
    characters that a header cannot.
    """
    if credential.startswith("rh_") and (problem := describe_error(credential)):
        raise ValueError(problem)
    if not (credential.isascii() and credential.isprintable()) or " " in credential:
        raise ValueError("an API key consists of printable ASCII characters without spaces")
    return credential


def _checksum(body: str) -> str:
    return _to_base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _to_base62(value: int, length: int) -> str:
    letters = ""
    for _ in range(length):
        value, digit = divmod(value, len(_ALPHABET))
        letters = _ALPHABET[digit] + letters
    return letters
