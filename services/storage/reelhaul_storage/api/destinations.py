"""DestinationServicer: converts and validates requests, calls one use case, converts the result back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from google.protobuf import empty_pb2

from reelhaul.storage.v1 import destination_pb2, destination_service_pb2_grpc
from reelhaul.storage.v1 import destination_service_pb2 as pb
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.errors import FieldInvalid, ReelhaulError, Violation
from reelhaul_runtime.identity import caller
from reelhaul_runtime.page_tokens import PageTokens, limit_page_size
from reelhaul_storage.api import requests
from reelhaul_storage.model import Destination
from reelhaul_storage.service.destinations import Credentials, Destinations

_COLLECTION = "destinations"
_ID = re.compile(r"[a-z][a-z0-9-]{2,62}", re.ASCII)
# General purpose buckets of S3; a dot in the name works with path_style only, as TLS names have none.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_REGION = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?", re.ASCII)
_ACCESS_KEY_ID = re.compile(r"[!-~]{1,128}", re.ASCII)
_SECRET = re.compile(r"[!-~]{1,256}", re.ASCII)
_ROLE = re.compile(r"arn:aws[a-z-]{0,12}:iam::[0-9]{12}:role/[\w+=,.@/-]{1,140}", re.ASCII)
_ENCRYPTIONS = ("", "AES256", "aws:kms")
_MAX_URL, _MAX_PREFIX, _MAX_DISPLAY_NAME, _MAX_OBJECT_NAME = 300, 500, 100, 400
_ATTRIBUTES = (
    "display_name",
    "bucket",
    "prefix",
    "endpoint_url",
    "region",
    "path_style",
    "server_side_encryption",
)
_CREDENTIALS = ("access_key", "assume_role")


class DestinationServicer(destination_service_pb2_grpc.DestinationServiceServicer):
    """DestinationService over gRPC."""

    def __init__(self, destinations: Destinations, page_tokens: PageTokens) -> None:
        self._destinations = destinations
        self._page_tokens = page_tokens

    async def CreateDestination(
        self, request: pb.CreateDestinationRequest, context: Any
    ) -> destination_pb2.Destination:
        if not _ID.fullmatch(request.destination_id):
            raise FieldInvalid("destination_id", "must match ^[a-z][a-z0-9-]{2,62}$")
        attributes = _attributes_from_proto(request.destination, _ATTRIBUTES)
        credentials = _credentials_from_proto(request.destination)
        if credentials is None:
            raise FieldInvalid("destination.access_key", "access_key or assume_role is required")
        return _to_proto(await self._destinations.create(request.destination_id, attributes, credentials))

    async def GetDestination(
        self, request: pb.GetDestinationRequest, context: Any
    ) -> destination_pb2.Destination:
        return _to_proto(await self._destinations.get(_parse_name(request.name, "name"), request.tenant))

    async def ListDestinations(
        self, request: pb.ListDestinationsRequest, context: Any
    ) -> pb.ListDestinationsResponse:
        limit = limit_page_size(request.page_size)
        arguments = f"{_COLLECTION} of {caller().tenant}"
        position = self._page_tokens.read(arguments, request.page_token)
        found = await self._destinations.list_page(position[0] if position else "", limit + 1)
        response = pb.ListDestinationsResponse(destinations=map(_to_proto, found[:limit]))
        if len(found) > limit:
            response.next_page_token = self._page_tokens.create(arguments, found[limit - 1].id)
        return response

    async def UpdateDestination(
        self, request: pb.UpdateDestinationRequest, context: Any
    ) -> destination_pb2.Destination:
        message = request.destination
        id_, paths = _parse_name(message.name, "destination.name"), _paths(request)
        credentials = _credentials_from_proto(message) if paths & set(_CREDENTIALS) else None
        attributes = _attributes_from_proto(message, paths & set(_ATTRIBUTES))
        return _to_proto(await self._destinations.update(id_, message.etag, attributes, credentials))

    async def DeleteDestination(self, request: pb.DeleteDestinationRequest, context: Any) -> empty_pb2.Empty:
        await self._destinations.delete(_parse_name(request.name, "name"), request.etag)
        return empty_pb2.Empty()

    async def TestDestination(
        self, request: pb.TestDestinationRequest, context: Any
    ) -> pb.TestDestinationResponse:
        start = time.monotonic()
        await self._destinations.test(_parse_name(request.name, "name"))
        response = pb.TestDestinationResponse()
        response.duration.FromTimedelta(timedelta(seconds=time.monotonic() - start))
        return response

    async def DeliverArtifact(
        self, request: pb.DeliverArtifactRequest, context: Any
    ) -> pb.DeliverArtifactResponse:
        artifact = requests.parse_name(request.artifact, "artifacts", "artifact")
        id_, name = _parse_name(request.destination, "destination"), request.object_name
        _check_text(name, "object_name", _MAX_OBJECT_NAME)
        if not name:
            raise FieldInvalid("object_name", "is required")
        delivered = await self._destinations.deliver(id_, request.tenant, artifact, name)
        return pb.DeliverArtifactResponse(uri=delivered.uri, size_bytes=delivered.size, etag=delivered.etag)


def _parse_name(name: str, field: str) -> str:
    """Return the id of ``destinations/<id>`` or of the bare id. Raises FIELD_INVALID."""
    id_ = name.removeprefix(f"{_COLLECTION}/")
    if not _ID.fullmatch(id_):
        raise FieldInvalid(field, f"must be {_COLLECTION}/ followed by an id")
    return id_


def _paths(request: pb.UpdateDestinationRequest) -> set[str]:
    """Return the fields to change: those of the mask, or without a mask all that are set."""
    mutable = (*_ATTRIBUTES, *_CREDENTIALS)
    if not request.HasField("update_mask"):
        return {descriptor.name for descriptor, _ in request.destination.ListFields()} & set(mutable)
    paths = set(request.update_mask.paths)
    if paths == {"*"}:
        return set(_ATTRIBUTES) | ({request.destination.WhichOneof("credentials") or ""} - {""})
    if unknown := sorted(paths.difference(mutable)):
        raise FieldInvalid("update_mask", f"{unknown[0][:64]} cannot be updated")
    for name in sorted(paths.intersection(_CREDENTIALS)):
        if not request.destination.HasField(name):  # type: ignore[arg-type]
            raise FieldInvalid(f"destination.{name}", "is required by update_mask")
    return paths


def _attributes_from_proto(message: destination_pb2.Destination, names: Iterable[str]) -> dict[str, Any]:
    """Return the values of *names*, validated. Raises FIELD_INVALID, URL_INVALID."""
    values = {name: getattr(message, name) for name in names}
    if "region" in values:
        values["region"] = values["region"] or "us-east-1"
        _check_pattern(values["region"], "region", _REGION, "must be a region like eu-central-1")
    if "bucket" in values:
        _check_pattern(values["bucket"], "bucket", _BUCKET, "must be the name of a bucket of S3")
    if "endpoint_url" in values:
        values["endpoint_url"] = values["endpoint_url"].rstrip("/")
        _check_url(values["endpoint_url"])
    if "prefix" in values:
        _check_text(values["prefix"], "destination.prefix", _MAX_PREFIX)
    _check_text(values.get("display_name", ""), "destination.display_name", _MAX_DISPLAY_NAME)
    if values.get("server_side_encryption", "") not in _ENCRYPTIONS:
        raise FieldInvalid("destination.server_side_encryption", "must be AES256, aws:kms or empty")
    return values


def _credentials_from_proto(message: destination_pb2.Destination) -> Credentials | None:
    """Return the credentials of *message*; None if there are none. Raises FIELD_INVALID."""
    match message.WhichOneof("credentials"):
        case "access_key":
            key = message.access_key
            text = "must have 1 to 128 printable ASCII characters"
            _check_pattern(key.access_key_id, "access_key.access_key_id", _ACCESS_KEY_ID, text)
            text = "must have 1 to 256 printable ASCII characters"
            _check_pattern(key.secret_access_key, "access_key.secret_access_key", _SECRET, text)
            return Credentials(access_key_id=key.access_key_id, secret=key.secret_access_key)
        case "assume_role":
            role = message.assume_role.role_arn
            text = "must be the ARN of a role, like arn:aws:iam::123456789012:role/media"
            _check_pattern(role, "assume_role.role_arn", _ROLE, text)
            return Credentials(role_arn=role)
        case _:
            return None


def _check_url(url: str) -> None:
    """Raise URL_INVALID unless *url* is empty or names a host, over http or https, and no more."""
    try:
        parts = urlsplit(url)
        valid = parts.port != 0 and parts.scheme in ("https", "http") and bool(parts.hostname)
    except ValueError:
        valid, parts = False, urlsplit("")
    more = parts.path or parts.query or parts.fragment or "@" in parts.netloc or not url.isprintable()
    if url and (not valid or more or len(url) > _MAX_URL):
        field, text = "destination.endpoint_url", "must be https://host or https://host:port"
        raise ReelhaulError(
            ErrorReason.URL_INVALID,
            f"{field} {text}",
            metadata={"url": ""},
            violations=[Violation(field, text)],
        )


def _check_pattern(value: str, field: str, pattern: re.Pattern[str], text: str) -> None:
    if not pattern.fullmatch(value):
        raise FieldInvalid(f"destination.{field}", text)


def _check_text(value: str, field: str, limit: int) -> None:
    if len(value.encode()) > limit or not value.isprintable():
        raise FieldInvalid(field, f"must have at most {limit} bytes, all of them printable")


def _to_proto(destination: Destination) -> destination_pb2.Destination:
    """Convert *destination*, without its secret."""
    message = destination_pb2.Destination(
        name=destination.name,
        display_name=destination.display_name,
        bucket=destination.bucket,
        prefix=destination.prefix,
        endpoint_url=destination.endpoint_url,
        region=destination.region,
        path_style=destination.path_style,
        server_side_encryption=destination.server_side_encryption,
        tenant=destination.tenant,
        etag=destination.etag,
    )
    message.create_time.FromDatetime(destination.create_time)
    message.update_time.FromDatetime(destination.update_time)
    if destination.role_arn:
        message.assume_role.role_arn = destination.role_arn
        message.assume_role.external_id = destination.external_id
    else:
        message.access_key.access_key_id = destination.access_key_id
    return message
