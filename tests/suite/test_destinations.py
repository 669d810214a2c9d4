"""Delivery of finished downloads to a bucket of the tenant."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from tests.s3_server import ACCESS_KEY, SECRET_KEY, S3Server, running_s3_server
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end, watch_download
from tests.suite.suite import Suite

from reelhaul.cli.commands import reelhaul

_BUCKET = "deliveries"


def _register(suite: Suite, s3: S3Server) -> None:
    destination = {
        "bucket": _BUCKET,
        "prefix": "incoming/",
        "endpointUrl": s3.endpoint_url,
        "pathStyle": True,
        "accessKey": {"accessKeyId": ACCESS_KEY, "secretAccessKey": SECRET_KEY},
    }
    query = {"destinationId": "media-bucket"}
    response = suite.http.post("/v1/destinations", params=query, json=destination)
    assert response.status_code == 200, response.text
    assert SECRET_KEY not in response.text
    response = suite.http.post("/v1/destinations/media-bucket:test", json={})
    assert response.status_code == 200, response.text


def _check_object(s3: S3Server, file: dict[str, Any]) -> None:
    key = file["delivery"]["uri"].removeprefix(f"s3://{_BUCKET}/")
    content = s3.client().get_object(Bucket=_BUCKET, Key=key)["Body"].read()
    assert hashlib.sha256(content).hexdigest() == file["sha256"]
    assert key.startswith("incoming/")


def test_delivery(suite: Suite, site: Site, tmp_path: Path) -> None:
    """A download waits for a bucket that is away, shows why, and is delivered once it is back."""
    url = site.url("/media/360.mp4")
    with running_s3_server(tmp_path / "s3") as s3:
        s3.create_bucket(_BUCKET)
        _register(suite, s3)
        unknown = suite.http.post("/api/v1/download", json={"url": url, "deliver_to": "unknown"})
        assert unknown.json()["details"][0]["metadata"]["field"] == "deliver_to", unknown.text

        s3.kill()
        job = create_download(suite, url, deliver_to="media-bucket")
        waiting = next(
            message["snapshot"]
            for message in watch_download(suite, job)
            if any("error" in file["delivery"] for file in message.get("snapshot", {}).get("files", []))
        )
        delivery = waiting["files"][0]["delivery"]
        assert waiting["status"] == "SUCCEEDED"
        assert (delivery["status"], delivery["error"]["reason"]) == ("PENDING", "DESTINATION_UNAVAILABLE")
        assert delivery["retry_time"]

        s3.start()
        completed = wait_for_end(suite, job)["completed"]
        (file,) = completed["files"]
        assert file["delivery"]["status"] == "DELIVERED"
        assert file["delivery"]["attempts"] > 1
        _check_object(s3, file)
        resource = suite.http.get(f"/v1/jobs/{job}").json()
        assert resource["deliverTo"] == "destinations/media-bucket"
        assert resource["deliveries"][0]["uri"] == file["delivery"]["uri"]

        arguments = ["download", url, "--deliver-to", "media-bucket", "-o", str(tmp_path / "files")]
        result = CliRunner().invoke(reelhaul, [*arguments, "--server", suite.address("gateway")])
        assert result.exit_code == 0, result.output
        assert f"delivered s3://{_BUCKET}/incoming/" in result.output
        assert SECRET_KEY not in suite.log.read_text()
