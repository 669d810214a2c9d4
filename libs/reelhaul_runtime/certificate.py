"""Certificates: PEM files of certificates and keys, checked, and loaded again when they change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

log = logging.getLogger(__name__)

# Key exchange with forward secrecy and authenticated encryption; TLS 1.3 has no others.
# https://wiki.mozilla.org/Security/Server_Side_TLS, "intermediate"
_TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_POLL_SECONDS = 0.5


class CertificateError(ValueError):
    """*file*, of a certificate or a key, cannot be used; the text names it."""

    def __init__(self, file: Path, message: str) -> None:
        super().__init__(message)
        self.file = file


class WatchedFiles:
    """Files that are loaded again by *load* when they change. *load* may raise CertificateError."""

    def __init__(self, files: Sequence[Path], load: Callable[[], None]) -> None:
        self._files, self._load = files, load
        self._loaded = self._read_versions()

    async def watch(self) -> None:
        """Load the files again whenever they change, until cancelled; return at once if there are none.

        Files that cannot be used replace nothing, which is logged.
        """
        previous = self._loaded
        while self._files:
            await asyncio.sleep(_POLL_SECONDS)
            versions = self._read_versions()
            # Files that still change are not complete: they are replaced one after the other.
            if versions == previous != self._loaded:
                self._loaded = versions
                self._reload()
            previous = versions

    def _reload(self) -> None:
        try:
            self._load()
        except CertificateError as error:
            log.warning("the earlier TLS certificate stays in use: %s", error)
        else:
            log.info("replaced the TLS certificate", extra={"file": str(self._files[0])})

    def _read_versions(self) -> tuple[tuple[int, ...], ...]:
        return tuple(map(_read_version, self._files))


class Certificate:
    """The TLS context of a certificate chain and its key, two PEM files. Raises CertificateError."""

    def __init__(self, certificate_file: Path, key_file: Path) -> None:
        self._files = (certificate_file, key_file)
        watched = WatchedFiles(self._files, self._load)
        self._load()
        self.watch = watched.watch

    def _load(self) -> None:
        #: For new connections; those that are open keep theirs.
        self.context = load_context(*self._files)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of a service for TLS with the other services, by the settings REELHAUL_TLS_*."""

    #: The certificate chain of this service and its key; None: it has none.
    certificate: Path | None = None
    key: Path | None = None
    #: The authorities of the other services' certificates; None: the well-known ones.
    ca: Path | None = None
    #: The DNS name in the certificate of every service, which both ends of a connection check. Empty: servers
    #: ask for no certificate, and clients check the name in the address.
    service_name: str = ""

    @property
    def all(self) -> tuple[Path, ...]:
        """The files that are set."""
        return tuple(file for file in (self.certificate, self.key, self.ca) if file is not None)

    def read(self) -> TlsContent:
        """Return the content of the files. Raises CertificateError if it cannot be used."""
        if self.certificate is not None and self.key is not None:
            load_context(self.certificate, self.key)
        if self.ca is not None:
            check_authorities(self.ca)
        return TlsContent(
            *(None if file is None else _read(file) for file in (self.certificate, self.key, self.ca))
        )


@dataclass(frozen=True, slots=True)
class TlsContent:
    """The content of ``TlsFiles``."""

    certificate: bytes | None
    key: bytes | None
    ca: bytes | None


def load_context(certificate_file: Path, key_file: Path) -> ssl.SSLContext:
    """Return the TLS context of a server with these files. Raises CertificateError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"])
    load_chain(context, certificate_file, key_file)
    return context


def load_chain(context: ssl.SSLContext, certificate_file: Path, key_file: Path) -> None:
    """Load the certificate chain and its key into *context*. Raises CertificateError."""
    _check_content(certificate_file, b"-----BEGIN CERTIFICATE-----", "certificate")
    _check_content(key_file, b"PRIVATE KEY-----", "private key")

    def refuse_password() -> str:
        raise CertificateError(key_file, f"the key in {key_file} is encrypted: store it decrypted")

    try:
        context.load_cert_chain(certificate_file, key_file, password=refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            message = f"the key in {key_file} is not that of the certificate in {certificate_file}"
            raise CertificateError(key_file, message) from None
        message = f"{certificate_file} with {key_file} cannot be used: {error.reason or 'damaged PEM data'}"
        raise CertificateError(certificate_file, message) from None
    except OSError as error:
        # One was removed, to be replaced, after it was checked.
        message = f"{certificate_file} with {key_file} cannot be read: {error.strerror}"
        raise CertificateError(certificate_file, message) from None


def check_authorities(file: Path) -> None:
    """Check that *file* has certificates of authorities. Raises CertificateError."""
    _check_content(file, b"-----BEGIN CERTIFICATE-----", "certificate")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError as error:
        message = f"{file} cannot be used: {error.reason or 'damaged PEM data'}"
        raise CertificateError(file, message) from None
    except OSError as error:
        raise CertificateError(file, f"{file} cannot be read: {error.strerror}") from None


def check_name(file: Path, name: str) -> None:
    """Check that the first certificate in *file* has the DNS name *name*. Raises CertificateError."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(_read(file))
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = names.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        found = []
    except ValueError as error:
        raise CertificateError(file, f"{file} cannot be used: {error}") from None
    if name not in found:
        text = f"{file} is not for the DNS name {name}, but for {', '.join(found[:10]) or 'none'}"
        raise CertificateError(file, text)


def read_expiry(file: Path) -> datetime:
    """Return when the first certificate in *file* expires. Raises CertificateError."""
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(_read(file)).not_valid_after_utc
    except ValueError as error:
        raise CertificateError(file, f"{file} cannot be used: {error}") from None


def _check_content(path: Path, mark: bytes, what: str) -> None:
    if mark not in _read(path):
        raise CertificateError(path, f"{path} has no {what} in PEM format")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateError(path, f"{path} cannot be read: {error.strerror}") from None


def _read_version(path: Path) -> tuple[int, ...]:
    """Return what differs when the file at *path* is written or replaced; empty if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
