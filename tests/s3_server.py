"""A real S3 server for tests and benches: SeaweedFS, with one bucket and one user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tests.servers import free_port, kill_group

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BUCKET = "media"
ACCESS_KEY = "reelhaul-test"
SECRET_KEY = "not-a-secret"
REGION = "us-east-1"
_START_TIMEOUT = 30.0


def find_weed() -> str:
    """Return the path of the SeaweedFS program, which its package installs beside Python."""
    return str(Path(sys.executable).with_name("weed"))


@dataclass
class S3Server:
    """A SeaweedFS process; a server that was killed starts again on the same folder and port."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    #: Users beside the one of the tests: access key to actions, for example ``Read:media``. Their secret
    #: key is the same.
    identities: Mapping[str, Sequence[str]] = field(default_factory=dict)
    #: Port of its Prometheus metrics; 0: none.
    metrics_port: int = 0

    @property
    def endpoint_url(self) -> str:
        """The address for S3 clients."""
        return f"http://127.0.0.1:{self.port}"

    def storage_url(self, prefix: str = "", bucket: str = BUCKET) -> str:
        """Return the value of REELHAUL_STORAGE_URL for *bucket* and *prefix*."""
        path = f"{bucket}/{prefix}" if prefix else bucket
        return f"s3://{path}?endpoint_url={self.endpoint_url}&region={REGION}&path_style=true"

    def credentials(self) -> dict[str, str]:
        """Return the environment variables from which boto3 reads the credentials."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            # No lookup of credentials on the network, and no file of the developer.
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> S3Client:
        """Return a boto3 client of this server."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=2,
                read_timeout=20,
                retries={"total_max_attempts": 1},
                proxies={},
            ),
        )

    def list_keys(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        """Return the keys of all objects below *prefix*."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def list_multipart_uploads(self, prefix: str = "", bucket: str = BUCKET) -> list[str]:
        """Return the keys of all open multipart uploads below *prefix*."""
        response = self.client().list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for item in response.get("Uploads", [])]

    def create_bucket(self, name: str) -> None:
        """Create the bucket *name*; one that exists is not an error."""
        client = self.client()
        existing = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
        if name not in existing:
            client.create_bucket(Bucket=name)

    def start(self) -> None:
        """Start the process; return when it takes requests and the bucket exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        users = {ACCESS_KEY: ["Admin", "Read", "Write", "List", "Tagging"], **self.identities}
        identities = [
            {
                "name": key,
                "credentials": [{"accessKey": key, "secretKey": SECRET_KEY}],
                "actions": list(actions),
            }
            for key, actions in users.items()
        ]
        config.write_text(json.dumps({"identities": identities}))
        with (self.folder / "weed.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(config), cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.create_bucket(BUCKET)
            except (BotoCoreError, ClientError) as error:
                if self.process.poll() is not None or time.monotonic() > end:
                    self.kill()
                    raise RuntimeError(f"weed does not serve S3; its log: {self.folder}/weed.log") from error
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """Kill the process if it runs."""
        if self.process is not None:
            kill_group(self.process)
            self.process = None

    def _command(self, config: Path) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        ports = [(name, free_port()) for name in ("master", "volume", "filer")]
        # The gRPC port of each part is chosen as well: the default is its port + 10000.
        grpc_ports = [(name, free_port()) for name in ("master", "volume", "filer", "s3")]
        return [
            find_weed(),
            "-logtostderr=true",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.port={self.port}",
            f"-s3.config={config}",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=0",
            "-master.telemetry=false",
            # Not used, and at fixed ports: a second server on this machine would not start.
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}.port={port}" for name, port in ports),
            *(f"-{name}.port.grpc={port}" for name, port in grpc_ports),
            *([f"-metricsPort={self.metrics_port}"] if self.metrics_port else []),
        ]


@contextmanager
def running_s3_server(
    folder: Path, identities: Mapping[str, Sequence[str]] | None = None, metrics_port: int = 0
) -> Iterator[S3Server]:
    """Run an S3 server on *folder* until the end of the block, with more users if *identities* names any."""
    server = S3Server(folder, identities=identities or {}, metrics_port=metrics_port)
    server.start()
    try:
        yield server
    finally:
        server.kill()
