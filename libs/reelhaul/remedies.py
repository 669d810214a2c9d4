"""Remedies: what a caller does about each reason of an error, in one sentence.

The errors of the clients have them as ``remedy``; where the server knows better, ``help_url`` leads to more.
"""

from __future__ import annotations

from collections.abc import Mapping

_WAIT = "Try again later; the server does so by itself for a job."
_COOKIES = "Configure cookies of an account at the server, and name them in the field cookies."
_NEW_COOKIES = "Replace the cookies at the server with new ones from a browser."
_READ_AGAIN = "Read the resource again, and repeat the change."
_BUG = "Report it with the request id; the server's log has the details under it."

#: By ErrorReason, as its name.
REMEDIES: Mapping[str, str] = {
    "FIELD_INVALID": "Correct the fields that the error names.",
    "FILTER_INVALID": "Correct the filter at the position that the error names.",
    "ORDER_BY_INVALID": "Order by a field that the message lists.",
    "PAGE_TOKEN_INVALID": "List from the first page again, with the same arguments for all pages.",
    "RESUME_TOKEN_INVALID": "Watch without a resume token; the stream starts with the present state.",
    "REQUEST_ID_REUSED": "Use a new request_id for a request that differs.",
    "REQUEST_IN_PROGRESS": "Repeat the call in a moment; it returns what the first one did.",
    "REQUEST_TIMED_OUT": "Repeat the call; with a request_id nothing is done twice.",
    "REQUEST_CANCELLED": "Repeat the call if it was not meant to be cancelled.",
    "RESOURCE_NOT_FOUND": "Check the name and the key: resources of others look as if they did not exist.",
    "RESOURCE_EXISTS": "Use the existing resource, or another id.",
    "ETAG_MISMATCH": _READ_AGAIN,
    "STATE_CONFLICT": "Read the state of the resource; it does not allow this call.",
    "ARTIFACT_EXPIRED": "Download the URL again.",
    "METHOD_UNSUPPORTED": "Use a method that the server supports: /docs lists them.",
    "BATCH_FAILED": "Correct the items; the message names the first error.",
    "ROUTE_UNKNOWN": "Check the path and the address of the server: /docs lists the paths.",
    "CREDENTIAL_MISSING": "Set REELHAUL_API_KEY, or pass api_key.",
    "CREDENTIAL_INVALID": "Use a key that is not expired or deleted; an administrator creates one.",
    "PERMISSION_INSUFFICIENT": "Use a key of a higher level, or with the grant that the error names.",
    "ADDRESS_FORBIDDEN": "Call from a network that the key allows, or let an administrator add it.",
    "RATE_LIMIT_EXCEEDED": "Wait for retry_delay, and call less often.",
    "QUOTA_EXCEEDED": "Wait until the quota renews, delete what is not needed, or ask for a larger quota.",
    "OVERLOADED": "Try again in a moment.",
    "SERVICE_UNAVAILABLE": "Check that the suite runs and that the address is right; then try again.",
    "URL_INVALID": "Use an http or https URL without user info, at most 2048 characters long.",
    "URL_FORBIDDEN": "Use a public URL; an operator can allow private networks.",
    "SITE_UNSUPPORTED": "Use the page that shows the video, or the URL of the media file itself.",
    "MEDIA_NOT_FOUND": "Check in a browser that the video still exists.",
    "MEDIA_LOGIN_REQUIRED": _COOKIES,
    "MEDIA_GEO_BLOCKED": "Let the operator add a proxy in a region where the video is available.",
    "MEDIA_DRM_PROTECTED": "There is none: protected media is never downloaded.",
    "MEDIA_NOT_LIVE_YET": 'Wait for the event with live="wait".',
    "FORMAT_UNAVAILABLE": "Probe the URL for what is offered, and relax the request.",
    "MEDIA_TOO_LARGE": "Request a lower quality, or raise max_size_bytes within the limit of the key.",
    "UPSTREAM_THROTTLED": _WAIT,
    "UPSTREAM_UNAVAILABLE": _WAIT,
    "EXTRACTOR_FAILED": "Let the operator upgrade yt-dlp: the site has changed.",
    "POSTPROCESSING_FAILED": "Request another format, or without the conversion.",
    "WORKER_LOST": "Retry the job; a worker of the server was lost.",
    "ATTEMPT_TIMED_OUT": "Retry the job with a longer attempt_deadline, or request less.",
    "JOB_CANCELLED": "Retry the job if it was not meant to be cancelled.",
    "UPSTREAM_BLOCKED": "Wait, or let the operator add cookies or another proxy for the site.",
    "UPSTREAM_STALLED": _WAIT,
    "VERIFICATION_FAILED": "Retry the job later; what the site sent was not complete.",
    "STORAGE_UNAVAILABLE": "Let the operator free space or check the store; then retry.",
    "WRITE_CHECKSUM_MISMATCH": "Write again from persisted_size.",
    "WRITE_OFFSET_CONFLICT": "Write from persisted_size, by one writer.",
    "RANGE_INVALID": "Read from an offset within the file.",
    "ARTIFACT_CORRUPT": "Download the URL again, and let the operator check the disk.",
    "WORKER_DISK_FULL": "Retry the job later; the operator frees space at the worker.",
    "DESTINATION_UNAVAILABLE": "Check that the destination responds; deliveries are tried again.",
    "DESTINATION_REFUSED": "Correct the credentials, the bucket or the permissions of the destination.",
    "MEDIA_FORBIDDEN": "There is none: the site shows this video to nobody.",
    "MEDIA_IS_LIVE": 'Record the stream with live="record".',
    "MEDIA_TOO_LONG": "Download a section by start_seconds and end_seconds, or raise max_duration_seconds.",
    "SUBTITLES_UNAVAILABLE": "Probe the URL for the languages on offer, or do without require_subtitles.",
    "TRANSLATION_UNAVAILABLE": "Request another language, or no translation.",
    "COOKIES_UNKNOWN": "Use a name of cookies that are stored at the server for your tenant.",
    "COOKIES_EXPIRED": _NEW_COOKIES,
    "COOKIES_REFUSED": _NEW_COOKIES,
    "RECORDING_LOST": "There is none: the broadcast is over and its recording was lost.",
    "CLIP_OUT_OF_RANGE": "Start the clip before the end of the media.",
    "SITE_FORBIDDEN": "Use a key that allows the site, or let an administrator allow it.",
    "INTERNAL_ERROR": _BUG,
}
