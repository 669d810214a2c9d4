"""Other ways to move the same bytes: cp, bare files, boto3, nginx."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from tests.s3_server import BUCKET, S3Server
from tests.servers import free_port

from bench.processes import running
from bench.storage.harness import wait_until_accepting

_NGINX = """\
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  client_body_temp_path {folder}/tmp; proxy_temp_path {folder}/tmp; fastcgi_temp_path {folder}/tmp;
  uwsgi_temp_path {folder}/tmp; scgi_temp_path {folder}/tmp;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


def time_cp(source: Path, target: Path, *, sync: bool) -> float:
    """Copy *source* with cp, on request until it is on the disk; return the seconds."""
    target.unlink(missing_ok=True)
    begin = time.perf_counter()
    subprocess.run(["cp", "--reflink=never", str(source), str(target)], check=True)
    if sync:
        subprocess.run(["sync", str(target)], check=True)
    return time.perf_counter() - begin


def time_bare_files(folder: Path, contents: Sequence[bytes], threads: int) -> float:
    """Write each of *contents* to a file of its own and sync it; return the seconds."""
    folder.mkdir()

    def write(number: int) -> None:
        fd = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT)
        os.write(fd, contents[number])
        os.fsync(fd)
        os.close(fd)

    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(len(contents))))
    seconds = time.perf_counter() - begin
    shutil.rmtree(folder)
    return seconds


def time_boto3(server: S3Server, source: Path, key: str) -> float:
    """Upload *source* with boto3's managed transfer; return the seconds."""
    client = server.client()
    begin = time.perf_counter()
    client.upload_file(str(source), BUCKET, key)
    return time.perf_counter() - begin


def curl_bytes_per_second(*arguments: str) -> float:
    """Download with curl to /dev/null; return the rate. Raises CalledProcessError."""
    command = [
        "curl",
        "-sSf",
        "--noproxy",
        "*",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download} %{time_total}",
        *arguments,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    size, seconds = output.split()
    return int(size) / float(seconds)


def find_nginx() -> str | None:
    """Return the path of nginx; None if it is not installed."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


@asynccontextmanager
async def running_nginx(nginx: str, folder: Path, root: Path) -> AsyncIterator[str]:
    """Serve the files in *root* with nginx and sendfile; yield the origin."""
    (folder / "tmp").mkdir(parents=True)
    port = free_port()
    config = folder / "nginx.conf"
    # Workers of root would become another user, who cannot read the folder.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(_NGINX.format(user=user, folder=folder, port=port, root=root))
    async with running([nginx, "-c", str(config), "-p", str(folder)], folder / "nginx.log"):
        await wait_until_accepting(port)
        yield f"http://127.0.0.1:{port}"
