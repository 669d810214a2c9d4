"""Fetches: what is asked to be fetched, and by what name; how a worker is to be drained."""

from __future__ import annotations

import re
from datetime import timedelta

from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.fetcher.v1.fetch_pb2 import Fetch
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.work.v1 import lease_pb2
from reelhaul_runtime import identity
from reelhaul_runtime.errors import FieldInvalid
from reelhaul_runtime.validation import fields, formats, urls
from reelhaul_runtime.validation.violations import FieldViolations

_MAX_TENANT = 128
_MAX_GRACE = timedelta(hours=12)
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def work_of(request: fetcher_service_pb2.ExecuteFetchRequest) -> lease_pb2.FetchSpec:
    """What *request* asks to be fetched, every default filled in. Raises as ``Findings.raise_any``."""
    findings, asked = FieldViolations(), Fetch()
    asked.CopyFrom(request.fetch)
    if asked.attempt:
        findings.add("fetch.attempt", "a fetch that is asked for directly serves none")
    fields.clear_output(asked)
    fields.check_enums(asked, "fetch", findings)
    urls.check(asked.url, "fetch.url", findings)
    formats.check(asked.format, "fetch.format", findings)
    if asked.format.live.mode == FormatSpec.Live.WAIT:
        findings.add("fetch.format.live.mode", "nothing waits without a queue: make a job of it, or RECORD")
    if len(asked.tenant) > _MAX_TENANT or not asked.tenant.isprintable():
        findings.add("fetch.tenant", f"at most {_MAX_TENANT} printable characters")
    findings.raise_any()
    formats.fill(asked.format)
    tenant = asked.tenant or identity.caller().tenant
    return lease_pb2.FetchSpec(url=asked.url, format=asked.format, tenant=tenant)


def request_id_of(request: fetcher_service_pb2.ExecuteFetchRequest) -> str:
    """Its request_id, lower-case or empty. Raises FIELD_INVALID."""
    told = request.request_id.lower()
    if told and not re.fullmatch(_UUID, told):
        raise FieldInvalid("request_id", "it is not a UUID")
    return told


def fetch_name(name: str) -> str:
    """*name*, if it is one of a fetch. Raises FIELD_INVALID."""
    if not re.fullmatch(f"fetches/{_UUID}", name):
        raise FieldInvalid("name", "must be fetches/ and a lower-case UUID")
    return name


def grace_of(request: fetcher_service_pb2.DrainFetcherRequest) -> float | None:
    """Seconds until unfinished work is handed back; None: however long it takes. Raises FIELD_INVALID."""
    if not request.HasField("grace"):
        return None
    findings = FieldViolations()
    findings.duration("grace", request.grace, timedelta(0), _MAX_GRACE)
    findings.raise_any()
    return request.grace.ToTimedelta().total_seconds()
