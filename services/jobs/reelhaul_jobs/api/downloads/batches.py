"""BatchCreateDownloads: many flat requests, and the blame for each in its own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_jobs.api.downloads import requests, responses
from reelhaul_jobs.api.downloads.error_fields import flat_name, flattened
from reelhaul_jobs.api.error_paths import at, renamed
from reelhaul_jobs.service.batches import none_admitted
from reelhaul_runtime import errors
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError

_MOST = 500
_PLACED = re.compile(r"requests\[(\d+)\]\.?(.*)")
_Failure = flat.BatchCreateDownloadsResponse.Failure


@dataclass(frozen=True, slots=True)
class Asked:
    """A flat batch as BatchCreateJobs takes it; with ``partial`` less those that never can be."""

    request: flat.BatchCreateDownloadsRequest
    jobs: job_service_pb2.BatchCreateJobsRequest
    #: Place in the request of each of ``jobs``.
    places: list[int]
    failed: dict[int, ReelhaulError]

    @contextmanager
    def told_flat(self) -> Iterator[None]:
        """Raise BatchCreateJobs' failures with the names that the caller wrote; BATCH_FAILED at once."""
        if self.failed and not self.places:
            raise self._none_admitted()
        try:
            yield
        except ReelhaulError as error:
            if self.failed and error.reason == ErrorReason.BATCH_FAILED:
                raise self._none_admitted() from error
            raise renamed(error, self._name) from error

    def answer(self, created: job_service_pb2.BatchCreateJobsResponse) -> flat.BatchCreateDownloadsResponse:
        """What became of the batch."""
        refused = {
            self.places[place]: flattened(errors.from_status(status))
            for place, status in created.failed_requests.items()
        }
        failed = self.failed | refused
        return flat.BatchCreateDownloadsResponse(
            batch_id=created.batch_id,
            jobs=[responses.download(job) for job in created.jobs],
            failed=[self._failure(place, failed[place]) for place in sorted(failed)],
        )

    def _none_admitted(self) -> ReelhaulError:
        first = errors.to_status(self.failed[min(self.failed)])
        return none_admitted(first, len(self.failed) + len(self.places))

    def _failure(self, place: int, error: ReelhaulError) -> _Failure:
        url = _one(self.request, place).url
        return _Failure(index=place, url=url, error=responses.error(errors.to_status(error)))

    def _name(self, field: str) -> str:
        found = _PLACED.fullmatch(field)
        if found is None:
            return {"requests": "urls"}.get(field, field)
        place, inner = self.places[int(found[1])], flat_name(found[2])
        return _named(self.request, place, inner)


def asked_of(request: flat.BatchCreateDownloadsRequest) -> Asked:
    """*request* as BatchCreateJobs. Raises what is wrong with the first bad item, unless partial."""
    count = len(request.urls) + len(request.items)
    if not 1 <= count <= _MOST:
        raise FieldInvalid("urls", f"1..{_MOST} urls and items in all, not {count}")
    _check_unset(request.options, "options", ("url", "request_id", "validate_only"))
    asked = Asked(request, job_service_pb2.BatchCreateJobsRequest(), [], {})
    for place in range(count):
        try:
            one = requests.create(_one(request, place))
        except ReelhaulError as error:
            if not request.partial:
                raise renamed(error, lambda field, at=place: _named(request, at, field)) from error  # type: ignore[misc]
            asked.failed[place] = error
        else:
            asked.jobs.requests.append(one)
            asked.places.append(place)
    asked.jobs.return_partial_success, asked.jobs.request_id = request.partial, request.request_id
    return asked


def _one(request: flat.BatchCreateDownloadsRequest, place: int) -> flat.CreateDownloadRequest:
    """What is asked for at *place*, urls first."""
    if place < len(request.urls):
        one = flat.CreateDownloadRequest()
        one.CopyFrom(request.options)
        one.url = request.urls[place]
        return one
    return request.items[place - len(request.urls)]


def _named(request: flat.BatchCreateDownloadsRequest, place: int, field: str) -> str:
    """What *field* of the download at *place* is called in the whole request."""
    if place >= len(request.urls):
        item = f"items[{place - len(request.urls)}]"
        return f"{item}.{field}" if field else item
    return f"urls[{place}]" if field in ("", "url") else f"options.{field}"


def _check_unset(one: flat.CreateDownloadRequest, name: str, fields: tuple[str, ...]) -> None:
    for field in fields:
        if getattr(one, field):
            raise at(name, FieldInvalid(field, "it must be unset here"))
