"""Check a deployment as its users see it: ``smoke.py URL --video URL [--version 1.4.0]``.

It must become ready, be of the version, and download the video to a file whose digest is the one that it
names. Ends with one line, ``smoke ok …`` and exit code 0, or ``smoke FAILED: …`` and 1. The API key is in the
variable REELHAUL_API_KEY. Needs Python 3.11 and nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from typing import Any

#: How long one request may take, and the pause between two looks, in seconds.
_REQUEST_SECONDS, _PAUSE_SECONDS = 30.0, 1.0
#: Most bytes of a response that is no file.
_MAX_RESPONSE_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_ENDED = {"SUCCEEDED", "FAILED", "CANCELLED"}


class SmokeError(Exception):
    """The deployment does not do what it must; the message says what it did."""


class Deployment:
    """A deployment behind its gateway at the URL *origin*; *seconds* is the time for all steps together."""

    def __init__(self, origin: str, api_key: str, seconds: float) -> None:
        self._origin = origin.rstrip("/")
        self._api_key = api_key
        self._end = time.monotonic() + seconds

    def wait_until_ready(self) -> None:
        """Return when the gateway is ready. Raises SmokeError if it is not in time."""
        self._wait_for("readiness", lambda: self._is_ready() or None)

    def wait_for_version(self, version: str) -> None:
        """Return when the gateway says that it is *version*: old replicas end after new ones have started.

        Raises SmokeError if it is another one until the end.
        """
        self._wait_for(
            f"version {version}", lambda: self._request("GET", "/health")["version"] == version or None
        )

    def download(self, video: str, max_bytes: int) -> str:
        """Download *video*, compare the file with its digest, and delete the job; return what was checked.

        Raises SmokeError.
        """
        request = {"url": video, "max_size_bytes": max_bytes}
        path = f"/api/v1/jobs/{self._request('POST', '/api/v1/download', request)['job_id']}"
        try:
            found = self._check_job(path)
        except SmokeError:
            with suppress(SmokeError):
                self._request("DELETE", path)
            raise
        self._request("DELETE", path)
        return found

    def _check_job(self, path: str) -> str:
        job = self._wait_for(f"end of {path}", lambda: self._ended(path))
        if job["status"] != "SUCCEEDED":
            raise SmokeError(f"{path} is {job['status']}: {json.dumps(job.get('error'))}")
        for file in job["files"]:
            self._check_file(file)
        return f"job={job['job_id']} bytes={sum(int(file['size_bytes']) for file in job['files'])}"

    def _is_ready(self) -> bool:
        try:
            with self._open("GET", "/readyz"):
                return True
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            return False

    def _ended(self, path: str) -> dict[str, Any] | None:
        status = self._request("GET", path)
        return status if status["status"] in _ENDED else None

    def _check_file(self, file: dict[str, Any]) -> None:
        digest, size = hashlib.sha256(), 0
        try:
            with self._open("GET", file["url"]) as response:
                while chunk := response.read1(_CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    if time.monotonic() > self._end:
                        raise SmokeError(f"{file['name']} was not downloaded in time")
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            raise SmokeError(f"{file['name']} cannot be downloaded: {error}") from None
        if (digest.hexdigest(), size) != (file["sha256"], int(file["size_bytes"])):
            raise SmokeError(f"{file['name']} has {size} bytes and another digest than the job says")

    def _wait_for(self, what: str, look: Callable[[], Any]) -> Any:
        while (result := look()) is None:
            if time.monotonic() > self._end:
                raise SmokeError(f"no {what} in time")
            time.sleep(_PAUSE_SECONDS)
        return result

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            with self._open(method, path, body) as response:
                result: dict[str, Any] = json.loads(response.read(_MAX_RESPONSE_BYTES) or b"{}")
                return result
        except urllib.error.HTTPError as error:
            text = error.read(2000).decode(errors="replace")
            raise SmokeError(f"{method} {path} answered {error.code}: {text}") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
            raise SmokeError(f"{method} {path} failed: {error}") from None

    def _open(self, method: str, path: str, body: dict[str, Any] | None = None) -> http.client.HTTPResponse:
        url = path if path.startswith(("http://", "https://")) else self._origin + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)  # noqa: S310
        if self._api_key and url.startswith(f"{self._origin}/"):
            # Not sent to the object store, to which downloads may be redirected.
            request.add_unredirected_header("Authorization", f"Bearer {self._api_key}")
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_REQUEST_SECONDS)  # noqa: S310
        return response


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the check to *parser*."""
    parser.add_argument("--video", required=True, help="URL of a short video that is always there")
    parser.add_argument("--version", help="version that must answer")
    parser.add_argument("--seconds", type=float, default=300, help="time for everything (default: 300)")
    parser.add_argument("--max-bytes", type=int, default=200_000_000, help="limit of the download")


def origin(text: str) -> str:
    """Return *text* if it is the URL of a gateway. Raises ArgumentTypeError."""
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text} is no URL: it begins with http:// or https://")
    return text


def check(url: str, arguments: argparse.Namespace) -> str:
    """Check the deployment at *url*; return what was found. Raises SmokeError."""
    deployment = Deployment(url, os.environ.get("REELHAUL_API_KEY", ""), arguments.seconds)
    begin = time.monotonic()
    try:
        deployment.wait_until_ready()
        if arguments.version:
            deployment.wait_for_version(arguments.version)
        found = deployment.download(arguments.video, arguments.max_bytes)
    except SmokeError:
        raise
    except Exception as error:
        # A version may answer anything: whatever is not expected is a failure of the check.
        raise SmokeError(f"the gateway answered what no version should: {error!r}") from error
    return f"{found} seconds={time.monotonic() - begin:.1f}"


def main() -> int:
    """Run the check; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url", type=origin, help="the gateway, for example https://reelhaul.example")
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        print(f"smoke ok {check(arguments.url, arguments)}")
    except SmokeError as error:
        print(f"smoke FAILED: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
