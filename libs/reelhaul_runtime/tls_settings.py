"""Settings of TLS between services."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from reelhaul_runtime.certificate import (
    CertificateError,
    TlsFiles,
    check_authorities,
    check_name,
    load_context,
)

_DNS_NAME = r"^([A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63}){0,8})?$"


class TlsSettings(BaseSettings):
    """By which certificates services and their callers prove themselves to each other."""

    #: PEM files of this service's certificate chain and its key: jobs, fetcher and storage then serve gRPC
    #: with TLS, and services connect to each other with TLS.
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    #: PEM file of the authorities that the certificates of the services are of. Unset: the well-known ones.
    tls_ca: Path | None = None
    #: A DNS name that the certificates of all services have, and no others of these authorities: clients of
    #: gRPC then need a certificate too, and calls between services one with this name. Empty: only servers
    #: need certificates.
    tls_service_name: str = Field(default="", pattern=_DNS_NAME)

    @field_validator("tls_certificate", "tls_key", "tls_ca", mode="before")
    @classmethod
    def _unset_empty(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        check_pair("REELHAUL_TLS", self.tls_certificate, self.tls_key)
        if self.tls_ca is not None:
            try:
                check_authorities(self.tls_ca)
            except CertificateError as error:
                raise ValueError(f"REELHAUL_TLS_CA: {error}") from None
        if self.tls_service_name and (self.tls_certificate is None or self.tls_ca is None):
            raise ValueError(
                "REELHAUL_TLS_SERVICE_NAME needs REELHAUL_TLS_CERTIFICATE, REELHAUL_TLS_KEY and"
                " REELHAUL_TLS_CA"
            )
        if self.tls_service_name and self.tls_certificate is not None:
            try:
                check_name(self.tls_certificate, self.tls_service_name)
            except CertificateError as error:
                raise ValueError(
                    f"REELHAUL_TLS_CERTIFICATE: {error}, as REELHAUL_TLS_SERVICE_NAME requires"
                ) from None
        return self

    @property
    def tls(self) -> TlsFiles | None:
        """The files for TLS between services; None: they connect without."""
        if self.tls_certificate is None and self.tls_ca is None:
            return None
        return TlsFiles(self.tls_certificate, self.tls_key, self.tls_ca, self.tls_service_name)


def check_pair(prefix: str, certificate: Path | None, key: Path | None) -> None:
    """Raise ValueError unless *certificate* and *key*, of the settings *prefix*, are a pair or both unset."""
    if certificate is not None and key is not None:
        try:
            load_context(certificate, key)
        except CertificateError as error:
            name = "KEY" if error.file == key else "CERTIFICATE"
            raise ValueError(f"{prefix}_{name}: {error}") from None
    elif certificate is not None:
        raise ValueError(f"{prefix}_KEY is not set: TLS needs that of the certificate")
    elif key is not None:
        raise ValueError(f"{prefix}_CERTIFICATE is not set: TLS needs that of the key")
