"""Metrics of storage. docs/metrics.md says what they mean."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

OPERATIONS = Counter(
    "reelhaul_storage_operations_total", "operations of the backend", ["backend", "operation", "outcome"]
)
OPERATION_SECONDS = Histogram(
    "reelhaul_storage_operation_seconds",
    "duration of operations of the backend; of a read until its first bytes",
    ["backend", "operation"],
    buckets=(0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0),
)
UPLOADS = Counter("reelhaul_storage_uploads_total", "uploads that were finished or refused", ["result"])
BYTES = Counter("reelhaul_storage_bytes_total", "bytes published as blobs, and read from them", ["direction"])
SCRUBBED_BYTES = Counter("reelhaul_storage_scrubbed_bytes_total", "bytes whose digest was checked again")
SCRUB_ERRORS = Counter(
    "reelhaul_storage_scrub_errors_total", "blobs that were found damaged by the scrub", ["kind"]
)
DELETED_BYTES = Counter(
    "reelhaul_storage_deleted_bytes_total",
    "bytes of blobs that lost their last artifact, which garbage collection deletes",
)
LINK_REQUESTS = Counter("reelhaul_link_requests_total", "requests of signed links", ["code"])

#: The results of UPLOADS.
STORED, DEDUPLICATED, REFUSED = (UPLOADS.labels(each) for each in ("stored", "deduplicated", "refused"))
WRITTEN, READ = BYTES.labels("written"), BYTES.labels("read")
#: The kinds of SCRUB_ERRORS.
MISSING, CORRUPT = SCRUB_ERRORS.labels("missing"), SCRUB_ERRORS.labels("corrupt")
