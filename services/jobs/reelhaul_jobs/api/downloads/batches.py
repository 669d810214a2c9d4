"""BatchCreateDownloads: its conversion, with errors that name what the caller wrote."""

from __future__ import annotations

from functools import partial

from google.rpc import status_pb2

from reelhaul.downloads.v1 import download_service_pb2 as flat
from reelhaul.jobs.v1 import job_service_pb2
from reelhaul_jobs.api.downloads import requests, responses
from reelhaul_jobs.api.downloads.field_names import flat_name
from reelhaul_jobs.api.jobs.batches import MAX_BATCH, BatchItems
from reelhaul_jobs.model.lists import Batch
from reelhaul_jobs.model.results import JobView
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, to_status


def items_from_request(request: flat.BatchCreateDownloadsRequest) -> BatchItems:
    """Return the jobs that *request* describes.

    Raises what is wrong with the first bad item; with ``partial`` the bad ones are among ``failed``.
    """
    count = len(request.urls) + len(request.items)
    if not 1 <= count <= MAX_BATCH:
        raise FieldInvalid(
            "urls", f"must have between 1 and {MAX_BATCH} elements together with items, not {count}"
        )
    for field in ("url", "request_id", "validate_only"):
        if getattr(request.options, field):
            raise FieldInvalid(f"options.{field}", "must be unset here")
    batch = job_service_pb2.BatchCreateJobsRequest(
        return_partial_success=request.partial, request_id=request.request_id
    )
    indexes, failed = list[int](), dict[int, status_pb2.Status]()
    for index in range(count):
        item = _item(request, index)
        try:
            if request.partial:
                converted = requests.create_request(item)
            else:
                converted = requests.create_request(item, partial(_path, request, index))
        except ReelhaulError as error:
            if not request.partial:
                raise
            failed[index] = to_status(error)
        else:
            batch.requests.append(converted)
            indexes.append(index)
    return BatchItems(
        request=batch,
        indexes=indexes,
        failed=failed,
        names=flat_name,
        path=partial(_path, request),
        requests_field="urls",
    )


def create_response(
    request: flat.BatchCreateDownloadsRequest, batch: Batch
) -> flat.BatchCreateDownloadsResponse:
    """Return what became of each item of *request*."""
    jobs = [batch.jobs[index] for index in sorted(batch.jobs)]
    return flat.BatchCreateDownloadsResponse(
        batch_id=jobs[0].batch_id,
        jobs=[responses.download(JobView.from_row(job)) for job in jobs],
        failed=[
            flat.BatchCreateDownloadsResponse.Failure(
                index=index,
                url=_item(request, index).url,
                error=responses.error_from_status(batch.failed[index]),
            )
            for index in sorted(batch.failed)
        ],
    )


def _item(request: flat.BatchCreateDownloadsRequest, index: int) -> flat.CreateDownloadRequest:
    """Return the request at *index*, urls first."""
    if index >= len(request.urls):
        return request.items[index - len(request.urls)]
    item = flat.CreateDownloadRequest()
    item.CopyFrom(request.options)
    item.url = request.urls[index]
    return item


def _path(request: flat.BatchCreateDownloadsRequest, index: int, field: str) -> str:
    """Return what the whole request calls *field* of the item at *index*."""
    if index >= len(request.urls):
        return f"items[{index - len(request.urls)}].{field}"
    return f"urls[{index}]" if field == "url" else f"options.{field}"
