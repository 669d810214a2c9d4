"""NATS security: the files by which a service and the broker prove themselves to each other."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from pathlib import Path

from reelhaul_runtime.certificate import TlsFiles

# https://docs.nats.io/using-nats/developer/connecting/creds
_CREDENTIALS_FILE = re.compile(
    rb"-+BEGIN NATS USER JWT-+\s+([\w.=-]{1,16384})\s+-+END NATS USER JWT-+"
    rb".{0,4096}?-+BEGIN USER NKEY SEED-+\s+([A-Z2-7]{58})\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)
_MAX_CREDENTIALS_BYTES = 64 << 10
# A seed is two bytes of its kind, the seed of an Ed25519 key, and a checksum of two bytes. That of a user
# begins with SU. https://pkg.go.dev/github.com/nats-io/nkeys
_SEED = slice(2, 34)
_USER_SEED_PREFIX = b"SU"


class CredentialsError(ValueError):
    """The file with the credentials for the broker cannot be used; the text never has what is in it."""


@dataclass(frozen=True, slots=True)
class NatsSecurity:
    """How a connection to the broker is secured, beside what is in its URL."""

    #: The authorities of the broker's certificate, and the certificate of this client.
    tls: TlsFiles = field(default_factory=TlsFiles)
    #: A file of a user's JWT and seed, as ``nsc generate creds`` writes it.
    credentials: Path | None = None


#: Of a connection that what is in its URL secures.
NO_FILES = NatsSecurity()


def read_credentials(file: Path) -> tuple[bytes, bytes]:
    """Return the JWT and the seed in *file*. Raises CredentialsError."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_CREDENTIALS_BYTES)
    except OSError as error:
        raise CredentialsError(f"{file} cannot be read: {error.strerror}") from None
    match = _CREDENTIALS_FILE.search(content)
    if match is None or not match[2].startswith(_USER_SEED_PREFIX):
        raise CredentialsError(f"{file} has no JWT and seed of a user, as `nsc generate creds` writes them")
    return match[1], match[2]


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the signature of *message* by the key of *seed*."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    try:
        raw = base64.b32decode(seed + b"=" * (-len(seed) % 8))[_SEED]
    except binascii.Error:
        raise CredentialsError("the seed of the broker's credentials is malformed") from None
    return Ed25519PrivateKey.from_private_bytes(raw).sign(message)
