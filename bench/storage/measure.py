"""Benchmark ``storage``: artifacts on disk and on S3, against cp, bare files, boto3 and nginx.

Parts: stream (write and read through gRPC), small (artifacts of 10 KB), adopt (files of a shared folder),
memory (a sparse file), s3 (straight to the bucket), gateway (HTTP downloads), readers (200 at once).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from statistics import median

from tests.s3_server import running_s3_server

from bench.report import Report
from bench.storage import rivals
from bench.storage.harness import MemoryMeter, StorageProcess, running_gateway, running_storage
from reelhaul.storage.v1 import storage_service_pb2 as pb
from reelhaul.type.v1.media_pb2 import ArtifactInfo
from reelhaul_fetcher.clients.part_upload import PartUploader
from reelhaul_fetcher.clients.storage import ArtifactUploader
from reelhaul_fetcher.model.engine_requests import Product
from reelhaul_fetcher.ports import ArtifactMetadata

_MIB = 1 << 20
_READ_RATE = 400e6
_SMALL_BYTES = 10_000
_SMALL_CALLERS = 32
_READERS = 200
_READER_BYTES = 16 * _MIB


async def measure(report: Report, only: set[str]) -> None:
    """Measure all parts, or those in *only*."""
    parts: dict[str, Callable[[Report, Path, int, int], Awaitable[None]]] = {
        "stream": _measure_stream,
        "small": _measure_small,
        "adopt": _measure_adopt,
        "memory": _measure_memory,
        "s3": _measure_s3,
        "gateway": _measure_gateway,
        "readers": _measure_readers,
    }
    rounds, size = (2, 128 * _MIB) if report.short else (5, 1024 * _MIB)
    for name, measure_part in parts.items():
        if not only or name in only:
            with tempfile.TemporaryDirectory(prefix="reelhaul-bench-") as folder:
                await measure_part(report, Path(folder), rounds, size)


async def _measure_stream(report: Report, folder: Path, rounds: int, size: int) -> None:
    report.print_title(f"{size // _MIB} MiB through gRPC, and with cp")
    source, sha256 = _create_file(folder / "source", size)
    writes, reads, copies, synced_copies = [], [], [], []
    async with running_storage(folder / "data") as storage:
        for _ in range(rounds):
            begin = time.perf_counter()
            artifact = await storage.write(source, sha256)
            writes.append(size / (time.perf_counter() - begin))
            synced_copies.append(size / rivals.time_cp(source, folder / "copy", sync=True))
            begin = time.perf_counter()
            await storage.read(artifact.name)
            reads.append(size / (time.perf_counter() - begin))
            copies.append(size / rivals.time_cp(source, folder / "copy", sync=False))
            await storage.delete(artifact.name)
    rates = {"write, synced": writes, "cp and sync": synced_copies, "read": reads, "cp": copies}
    report.add_figures("MB/s", {name: [rate / 1e6 for rate in rounds] for name, rounds in rates.items()})
    report.add_figure("write over cp and sync", "x", [median(writes) / median(synced_copies)])
    bar = min(0.5 * median(copies), _READ_RATE)
    report.add_target("storage-read-rate-over-half-of-cp-or-400", median(reads) / bar, ">=", 1)


async def _measure_small(report: Report, folder: Path, rounds: int, _: int) -> None:
    number = 500 if report.short else 10_000
    report.print_title(f"{number} artifacts of 10 KB, {_SMALL_CALLERS} at a time, and bare synced files")
    artifacts, files = [], []
    async with running_storage(folder / "data") as storage:
        for round_number in range(min(rounds, 3)):
            contents = [os.urandom(_SMALL_BYTES) for _ in range(number)]
            pending = iter(contents)

            async def write_some() -> None:
                for content in pending:  # noqa: B023 - awaited within the round
                    await storage.write_bytes(content)

            begin = time.perf_counter()
            await asyncio.gather(*(write_some() for _ in range(_SMALL_CALLERS)))
            artifacts.append(number / (time.perf_counter() - begin))
            bare = folder / f"bare{round_number}"
            files.append(number / rivals.time_bare_files(bare, contents, _SMALL_CALLERS))
    report.add_figures("per s", {"artifacts": artifacts, "bare files": files})
    report.add_figure("artifacts over bare files", "x", [median(artifacts) / median(files)])


async def _measure_adopt(report: Report, folder: Path, rounds: int, size: int) -> None:
    report.print_title("a file of the shared folder is taken over by link, after it was hashed ahead")
    finish: dict[int, list[float]] = {_MIB: [], size: []}
    total: dict[int, list[float]] = {_MIB: [], size: []}
    async with running_storage(folder / "data") as storage:
        work = folder / "data" / "work"
        work.mkdir(exist_ok=True)
        for _ in range(rounds):
            for length in finish:
                path, _sha256 = _create_file(work / "file", length)
                seconds, finish_seconds = await _adopt(storage, path.name, length, ahead=True)
                finish[length].append(finish_seconds * 1000)
                seconds, _finish_seconds = await _adopt(storage, path.name, length, ahead=False)
                total[length].append(seconds * 1000)
    for length in finish:
        report.add_figure(f"finish, {length // _MIB} MiB, hashed ahead", "ms", finish[length])
        report.add_figure(f"create and finish, {length // _MIB} MiB, nothing ahead", "ms", total[length])
    report.add_target("storage-adopt-large-over-small", median(finish[size]) / median(finish[_MIB]), "<=", 2)


async def _adopt(storage: StorageProcess, path: str, size: int, *, ahead: bool) -> tuple[float, float]:
    """Adopt the file *path*, which may be hashed *ahead*; return the seconds, and those of the finish."""
    begin = time.perf_counter()
    request = pb.CreateUploadRequest(adopt_path=path)
    request.upload.artifact.file_name, request.upload.total_size = "bench", size
    upload = await storage.stub.CreateUpload(request)
    if ahead:
        # Storage hashes at 300 MB/s or more.
        await asyncio.sleep(0.3 + size / 300e6)
    finish_begin = time.perf_counter()
    artifact = await storage.stub.FinishUpload(pb.FinishUploadRequest(name=upload.name, adopt_path=path))
    end = time.perf_counter()
    await storage.delete(artifact.name)
    return end - begin, end - finish_begin


async def _measure_memory(report: Report, folder: Path, _: int, size: int) -> None:
    report.print_title("memory of storage while zeros are written and read")
    peaks = {}
    async with running_storage(folder / "data") as storage:
        for length in (size, 10 * size):
            async with MemoryMeter(storage.process) as meter:
                artifact = await storage.write_zeros(length)
                await storage.read(artifact.name)
            await storage.delete(artifact.name)
            peaks[length] = meter.peak_megabytes
            report.add_figure(f"peak, {length // _MIB:,} MiB", "MB", [peaks[length]])
    report.add_target("storage-memory-of-a-ten-times-larger-file", peaks[10 * size] / peaks[size], "<=", 1.1)


async def _measure_s3(report: Report, folder: Path, rounds: int, size: int) -> None:
    report.print_title(
        f"{size // _MIB} MiB to S3: by the fetcher's client straight to the bucket, and by boto3 alone"
    )
    source, sha256 = _create_file(folder / "source", size)
    ahead, whole, streamed, boto3_rates = [], [], [], []
    with running_s3_server(folder / "s3") as server:
        settings = {"REELHAUL_STORAGE_URL": server.storage_url("bench"), **server.credentials()}
        async with running_storage(folder / "data", settings) as storage, PartUploader.open() as parts:
            uploader = ArtifactUploader(storage.channel, parts, folder / "nothing-shared")
            for number in range(rounds):
                ahead.append(size / await _upload(uploader, storage, source, size, ahead=True))
                boto3_rates.append(size / rivals.time_boto3(server, source, f"rival/{number}"))
                server.client().delete_object(Bucket="media", Key=f"rival/{number}")
                whole.append(size / await _upload(uploader, storage, source, size, ahead=False))
                if number < 2:
                    begin = time.perf_counter()
                    artifact = await storage.write(source, sha256)
                    streamed.append(size / (time.perf_counter() - begin))
                    await storage.delete(artifact.name)
    rates = {
        "straight to the bucket, hashed ahead": ahead,
        "straight to the bucket, hashed first": whole,
        "boto3 alone": boto3_rates,
        "through storage's stream": streamed,
    }
    report.add_figures("MB/s", {name: [rate / 1e6 for rate in rounds] for name, rounds in rates.items()})
    report.add_target("storage-direct-s3-over-boto3", median(ahead) / median(boto3_rates), ">=", 0.9)
    report.add_target("storage-direct-s3-and-hash-over-boto3", median(whole) / median(boto3_rates), ">=", 0.9)


async def _upload(
    uploader: ArtifactUploader, storage: StorageProcess, source: Path, size: int, *, ahead: bool
) -> float:
    """Store *source* with the fetcher's client, which may hash it *ahead*; return the seconds."""
    product, metadata = _product(source, size), _metadata()
    if ahead:
        uploader.prepare(product, metadata)
        # The client hashes at 400 MB/s or more.
        await asyncio.sleep(0.5 + size / 400e6)
    begin = time.perf_counter()
    artifact = await uploader.store(product, metadata, lambda _: None, lambda _: None)
    seconds = time.perf_counter() - begin
    await storage.delete(artifact.name)
    return seconds


async def _measure_gateway(report: Report, folder: Path, rounds: int, size: int) -> None:
    report.print_title(
        f"download of {size // _MIB} MiB by curl: gateway's stream, redirect, nginx with sendfile"
    )
    nginx = rivals.find_nginx()
    if nginx is None:
        report.print_title("SKIP: nginx is not installed")
        return
    (folder / "root").mkdir()
    source, sha256 = _create_file(folder / "root" / "file", size)
    streamed, redirected, nginx_rates = [], [], []
    async with (
        running_storage(folder / "data") as storage,
        running_gateway(storage) as (origin, _process),
        rivals.running_nginx(nginx, folder / "nginx", source.parent) as nginx_origin,
    ):
        artifact = await storage.write(source, sha256)
        url = f"{origin}/v1/{artifact.name}:download"
        for _ in range(rounds):
            redirect = ("-L", f"{url}?redirect=true")
            streamed.append(await asyncio.to_thread(rivals.curl_bytes_per_second, url))
            redirected.append(await asyncio.to_thread(rivals.curl_bytes_per_second, *redirect))
            rate = await asyncio.to_thread(rivals.curl_bytes_per_second, f"{nginx_origin}/file")
            nginx_rates.append(rate)
    rates = {"gateway, streamed": streamed, "gateway, redirected": redirected, "nginx": nginx_rates}
    report.add_figures("MB/s", {name: [rate / 1e6 for rate in rounds] for name, rounds in rates.items()})
    report.add_figure("streamed over nginx", "x", [median(streamed) / median(nginx_rates)])
    report.add_target(
        "storage-gateway-download-over-nginx", median(redirected) / median(nginx_rates), ">=", 0.5
    )


async def _measure_readers(report: Report, folder: Path, _: int, size: int) -> None:
    report.print_title(
        f"memory while {_READERS} clients read ranges of {_READER_BYTES // _MIB} MiB through the gateway"
    )
    source, sha256 = _create_file(folder / "source", size)
    async with running_storage(folder / "data") as storage, running_gateway(storage) as (origin, gateway):
        artifact = await storage.write(source, sha256)
        path = f"/v1/{artifact.name}:download"
        await _read_range(origin, path, 0)
        before = storage.process.megabytes, gateway.megabytes
        begin = time.perf_counter()
        async with MemoryMeter(storage.process) as storage_meter, MemoryMeter(gateway) as gateway_meter:
            offsets = [number * (size - _READER_BYTES) // _READERS for number in range(_READERS)]
            sizes = await asyncio.gather(*(_read_range(origin, path, offset) for offset in offsets))
        seconds = time.perf_counter() - begin
        assert set(sizes) == {_READER_BYTES}
    growth = {
        "storage": (storage_meter.peak_megabytes - before[0]) / _READERS,
        "gateway": (gateway_meter.peak_megabytes - before[1]) / _READERS,
    }
    report.add_figure("all readers", "MB/s", [_READERS * _READER_BYTES / seconds / 1e6])
    for name, megabytes in growth.items():
        report.add_figure(f"growth of {name} per reader", "MB", [megabytes])
    report.add_target("storage-memory-per-reader-over-1-MB", max(growth.values()), "<=", 1)


async def _read_range(origin: str, path: str, offset: int) -> int:
    """Read a range with a plain HTTP client of small buffers; return the number of bytes."""
    host, _, port = origin.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=64 << 10)
    last = offset + _READER_BYTES - 1
    headers = f"Host: {host}:{port}\r\nRange: bytes={offset}-{last}\r\nConnection: close\r\n\r\n"
    writer.write(f"GET {path} HTTP/1.1\r\n{headers}".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if b" 206 " not in head.partition(b"\r\n")[0]:
        raise RuntimeError(head.decode())
    size = 0
    while content := await reader.read(64 << 10):
        size += len(content)
    writer.close()
    return size


def _create_file(path: Path, size: int) -> tuple[Path, bytes]:
    """Write *size* random bytes to *path*; return it and their SHA-256."""
    digest = hashlib.sha256()
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        for _ in range(max(size // _MIB, 1)):
            content = os.urandom(min(size, _MIB))
            file.write(content)
            digest.update(content)
        os.fsync(file.fileno())
    return path, digest.digest()


def _product(path: Path, size: int) -> Product:
    return Product(path=path, info=ArtifactInfo(file_name="bench", media_type="video/mp4", size_bytes=size))


def _metadata() -> ArtifactMetadata:
    job = f"jobs/{uuid.uuid4()}"
    return ArtifactMetadata(job=job, epoch=1, tenant="bench", labels={}, ttl=timedelta(hours=1))
