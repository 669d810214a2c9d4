"""A simulated AWS (moto) on loopback, and the files that point a copy of an environment at it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3

REGION = "eu-central-1"
_START_SECONDS = 120
_ENDPOINTS = (
    "acm", "appautoscaling", "cloudfront", "cloudwatch", "ec2", "ecr", "ecs", "efs", "eks", "elasticache",
    "elbv2", "iam", "kms", "logs", "rds", "route53", "s3", "secretsmanager", "servicediscovery", "sns", "sts",
    "wafv2", "xray",
)  # fmt: skip

#: What the simulation cannot create, by module: its override, and the reason. Everything else is created.
LEFT_OUT = {
    "cache": (
        "moto creates a replication group of ElastiCache without its members, which the provider reads",
        """
        resource "aws_elasticache_replication_group" "this" {
          count = 0
        }
        output "url" {
          value = "rediss://cache.invalid:6379/0"
        }
        output "replication_group_id" {
          value = "cache"
        }
        """,
    ),
    "media": (
        "moto knows no cache policies of CloudFront; the distribution gets the id of one of AWS's own",
        """
        resource "aws_cloudfront_cache_policy" "this" {
          count = 0
        }
        resource "aws_cloudfront_distribution" "this" {
          default_cache_behavior {
            target_origin_id       = "media"
            viewer_protocol_policy = "https-only"
            allowed_methods        = ["GET", "HEAD"]
            cached_methods         = ["GET", "HEAD"]
            cache_policy_id        = "658327ea-f89d-4fab-a63d-7e88639e58f6"
            trusted_key_groups     = [aws_cloudfront_key_group.this.id]
          }
        }
        """,
    ),
    "observability": (
        "moto knows no groups of X-Ray",
        """
        resource "aws_xray_group" "faults" {
          count = 0
        }
        """,
    ),
    "ecs": (
        "moto does not list the tags of scalable targets, which the provider reads",
        """
        resource "aws_appautoscaling_target" "this" {
          for_each = toset([])
        }
        resource "aws_appautoscaling_policy" "cpu" {
          for_each = toset([])
        }
        resource "aws_appautoscaling_policy" "queue" {
          count              = 0
          resource_id        = "none"
          scalable_dimension = "none"
        }
        """,
    ),
}


class SimulatedAws:
    """A moto server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, service: str) -> Any:
        """Return a client of boto3 for *service* of the simulation."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id="simulated",
            aws_secret_access_key="simulated",
        )

    def override(self, copy: Path, environment: str) -> Path:
        """Point *environment* in the copy of deploy/terraform at the simulation; return its folder."""
        folder = copy / "environments" / environment
        endpoints = "\n".join(f'    {service} = "{self.url}"' for service in _ENDPOINTS)
        (folder / "simulation_override.tf").write_text(
            f"""
terraform {{
  backend "local" {{}}
}}
provider "aws" {{
  access_key                  = "simulated"
  secret_key                  = "simulated"
  max_retries                 = 2
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  s3_use_path_style           = true
  endpoints {{
{endpoints}
  }}
}}
"""
        )
        for module, (_, text) in LEFT_OUT.items():
            (copy / "modules" / module / "simulation_override.tf").write_text(text)
        return folder


@contextmanager
def simulated_aws(folder: Path) -> Iterator[SimulatedAws]:
    """Run a moto server, with its log in *folder*, until the block exits."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = [Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment | {"AWS_EC2_METADATA_DISABLED": "true"}, stdout=log, stderr=log
        )
        try:
            _wait_until_it_listens(process, port)
            yield SimulatedAws(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None, "moto_server has ended"
            assert time.monotonic() < deadline, "moto_server does not listen"
            time.sleep(0.2)
        else:
            return
