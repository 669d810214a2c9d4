"""Part upload: to a real S3 server, and to one that fails in the ways that S3 documents."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from tests.s3_server import BUCKET, S3Server

from reelhaul.storage.v1 import upload_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_fetcher.clients.part_upload import PartUploader
from reelhaul_runtime.errors import ReelhaulError

# The smallest part of S3.
_PART = 5 << 20
_SIZE = 2 * _PART + 1234


_CONTENT = os.urandom(_SIZE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "video.mp4"
    path.write_bytes(_CONTENT)
    return path


def _upload(urls: list[str], size: int = _SIZE, part_size: int = _PART) -> upload_pb2.Upload:
    return upload_pb2.Upload(total_size=size, part_size=part_size, part_urls=urls)


async def test_parts_become_the_file(s3_server: S3Server, file: Path):
    """S3 puts the parts together to the file; progress counts whole parts only; parts it has are not sent."""
    s3, progress = s3_server.client(), list[int]()
    key = {"Bucket": BUCKET, "Key": "test-parts/video"}
    id_ = s3.create_multipart_upload(**key)["UploadId"]
    urls = [
        s3.generate_presigned_url("upload_part", {**key, "UploadId": id_, "PartNumber": number})
        for number in (1, 2, 3)
    ]
    first = s3.upload_part(**key, UploadId=id_, PartNumber=1, Body=_CONTENT[:_PART])["ETag"]
    etags = {1: first}
    async with PartUploader.open() as uploader:
        # The URL of a part that S3 has is not used.
        await uploader.send(file, _upload(["http://127.0.0.1:9/", *urls[1:]]), etags, progress.append)
    parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]
    s3.complete_multipart_upload(**key, UploadId=id_, MultipartUpload={"Parts": parts})  # type: ignore[typeddict-item]
    assert s3.get_object(**key)["Body"].read() == _CONTENT
    assert progress in ([2 * _PART, _SIZE], [_PART + 1234, _SIZE])


@asynccontextmanager
async def _failing_server(
    *failures: web.Response | None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve S3 whose first responses are *failures* (None: the connection breaks); yield URL and bodies."""
    bodies, left = list[bytes](), list(failures)

    async def put(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        if not left:
            return web.Response(headers={"etag": '"e"'})
        if (failure := left.pop(0)) is not None:
            return failure
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application(client_max_size=1 << 20)
    app.router.add_put("/part", put)
    runner = web.AppRunner(app)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await server.start()
    try:
        yield (
            f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}/part?X-Amz-Signature=secret",
            bodies,
        )
    finally:
        await runner.cleanup()


def _error(status: int, code: str, **headers: str) -> web.Response:
    return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>", headers=headers)


@pytest.mark.parametrize(
    "failure",
    [
        _error(503, "SlowDown"),
        _error(503, "SlowDown", **{"Retry-After": "1"}),
        _error(500, "InternalError"),
        _error(429, "TooManyRequests"),
        _error(400, "BadDigest"),
        _error(400, "RequestTimeout"),
        None,
    ],
    ids=["slow down", "retry after", "internal", "429", "bad digest", "timeout", "connection"],
)
async def test_temporary_failure(failure: web.Response | None, file: Path):
    """A part that S3 could not take for the moment is sent again."""
    etags = dict[int, str]()
    async with _failing_server(failure) as (url, bodies), PartUploader.open() as uploader:
        await uploader.send(file, _upload([url], 7, 7), etags, lambda _: None)
    assert bodies == [_CONTENT[:7]] * 2
    assert etags == {1: '"e"'}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (403, "AccessDenied"),
        (403, "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed"),
        (404, "NoSuchUpload"),
        (400, "EntityTooLarge"),
        (307, "TemporaryRedirect"),
    ],
)
async def test_refused_part(status: int, code: str, file: Path):
    """A URL that S3 refuses is not tried again; the error has S3's reason, and not the URL."""
    refused = _error(status, code, location="http://127.0.0.1:9/elsewhere")
    async with _failing_server(refused) as (url, bodies), PartUploader.open() as uploader:
        with pytest.raises(ReelhaulError, match=f"{status} {code}") as failure:
            await uploader.send(file, _upload([url], 7, 7), {}, lambda _: None)
    assert failure.value.reason == ErrorReason.STORAGE_UNAVAILABLE
    assert failure.value.retryable
    assert "http" not in failure.value.text
    assert len(bodies) == 1


@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "unknown"])
async def test_certificate(file: Path, tmp_path: Path, trusted: bool):
    """A server whose certificate is not trusted gets nothing; REELHAUL_FETCHER_CA_FILE adds certificates."""
    authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    etags = dict[int, str]()
    async with (
        _failing_server(tls=tls) as (url, bodies),
        PartUploader.open(tmp_path / "ca.pem" if trusted else None) as uploader,
    ):
        if trusted:
            await uploader.send(file, _upload([url], 7, 7), etags, lambda _: None)
        else:
            with pytest.raises(ReelhaulError, match="S3 does not answer"):
                await uploader.send(file, _upload([url], 7, 7), etags, lambda _: None)
    assert len(bodies) == len(etags) == trusted


async def test_s3_is_away(file: Path):
    """Without S3 the upload fails after some seconds, and says so without the URL."""
    async with PartUploader.open() as uploader:
        with pytest.raises(ReelhaulError, match="S3 does not answer") as failure:
            await uploader.send(file, _upload(["http://127.0.0.1:9/part?secret"], 7, 7), {}, lambda _: None)
    assert failure.value.reason == ErrorReason.STORAGE_UNAVAILABLE
    assert "secret" not in str(failure.value)
