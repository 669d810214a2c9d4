"""The checks of ``reelhaul doctor`` about the gateway."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from reelhaul_gateway.settings import Settings
from reelhaul_runtime.certificate import CertificateError, check_name
from reelhaul_runtime.doctor.check import Check, Finding, ok, warning


def checks() -> Sequence[Check]:
    """Return the checks of the workers, of the drain, and of the certificate."""
    settings = Settings()
    return [
        Check("gateway.workers", lambda: _check_workers(settings)),
        Check("gateway.certificate", lambda: _check_names(settings)),
    ]


def _check_workers(settings: Settings) -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    text = f"{settings.gateway_workers} worker{'s' * (settings.gateway_workers > 1)} on {cores} cores"
    if settings.gateway_workers > cores:
        yield warning(text, "set REELHAUL_GATEWAY_WORKERS to the number of cores at most")
    else:
        yield ok(text)
    if settings.gateway_unready_seconds >= settings.drain_seconds:
        yield warning(
            "REELHAUL_GATEWAY_UNREADY_SECONDS leaves no time of REELHAUL_DRAIN_SECONDS to end requests",
            "raise REELHAUL_DRAIN_SECONDS",
        )


def _check_names(settings: Settings) -> Iterator[Finding]:
    """Yield whether the certificate has the names by which clients address the gateway."""
    file = settings.gateway_tls_certificate
    if file is None:
        yield ok("the gateway serves HTTP: it has no certificate")
        return
    hosts = [host for host in settings.gateway_allowed_hosts if not host.startswith("*.")]
    missing = []
    for host in hosts:
        try:
            check_name(file, host)
        except CertificateError:
            missing.append(host)
    if missing:
        yield warning(
            f"{file} is not for {', '.join(missing[:10])} of REELHAUL_GATEWAY_ALLOWED_HOSTS",
            "issue a certificate for all names, or check that a wildcard in it covers them",
        )
    else:
        yield ok(f"{file} is for all {len(hosts)} names of REELHAUL_GATEWAY_ALLOWED_HOSTS")
