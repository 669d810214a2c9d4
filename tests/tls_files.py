"""TLS files: certificates of services, by authorities that tests create."""

from __future__ import annotations

import os
from pathlib import Path

import trustme

from reelhaul_runtime.certificate import TlsFiles

#: The DNS name of all services in the tests.
SERVICE_NAME = "reelhaul.internal"


class Authority:
    """A certificate authority that writes PEM files."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._ca.cert_pem.bytes()

    def issue(self, folder: Path, *names: str, authorities: bytes = b"") -> TlsFiles:
        """Write a certificate for *names* and its key into *folder*, in place of earlier ones.

        *authorities* are those that its owner trusts, this one unless given.
        """
        folder.mkdir(exist_ok=True)
        pair = self._ca.issue_cert(*names)
        files = TlsFiles(folder / "certificate.pem", folder / "key.pem", folder / "ca.pem", SERVICE_NAME)
        chain = b"".join(blob.bytes() for blob in pair.cert_chain_pems)
        _replace(folder / "ca.pem", authorities or self.pem)
        _replace(folder / "key.pem", pair.private_key_pem.bytes())
        _replace(folder / "certificate.pem", chain)
        return files


def _replace(file: Path, content: bytes) -> None:
    """Replace *file* at once, as tools that renew certificates do."""
    temporary = file.with_suffix(".new")
    temporary.write_bytes(content)
    os.replace(temporary, file)
