"""The OpenAPI document describes the running suite: random requests, and generated clients."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import deno
import pytest
import requests
from tests.sites.site import Site
from tests.suite import api_fuzz
from tests.suite.suite import Suite

_TYPESCRIPT = Path(__file__).with_name("typescript")
_EXAMPLE = Path(__file__).parents[2] / "examples" / "typescript"
_UNKNOWN_ID = "00000000-0000-7000-8000-000000000000"

# Much CPU time, which a busy machine has little of.
pytestmark = pytest.mark.timeout(300)


def test_responses_are_as_documented(suite: Suite) -> None:
    """Valid and invalid requests get statuses, media types and bodies that are documented, and no 5xx."""
    operations = api_fuzz.load(suite.http.get("/openapi.json").json())
    assert len(operations) > 60
    failures: list[str] = []
    with requests.Session() as session:
        session.trust_env = False
        known = api_fuzz.create_resources(suite.http)
        for operation in operations:
            failures += api_fuzz.fuzz(
                operation, suite.address("gateway"), session, examples=2, seed=1, known=known
            )
    assert not failures, "\n\n".join(failures[:20])


def test_documented_words_are_those_of_the_server(suite: Suite) -> None:
    """For an unknown word the error lists exactly the words that the document has."""
    schemas = suite.http.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["CreateDownloadRequest"]["properties"]
    words = {
        name: schema.get("enum") or schema["items"]["enum"]
        for name, schema in properties.items()
        if "enum" in schema or "enum" in schema.get("items", {})
    }
    assert len(words) >= 10
    for name, expected in words.items():
        value = ["?"] if properties[name]["type"] == "array" else "?"
        response = suite.http.post("/api/v1/download", json={"url": "https://media.example/1", name: value})
        assert response.status_code == 400
        listed = response.json()["message"].rpartition(" is none of ")[2]
        assert set(listed.split(", ")) == {*expected}, response.text


def test_python_client(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that openapi-python-client generates creates, reads and lists downloads, and reads errors."""
    document = tmp_path / "openapi.json"
    document.write_bytes(suite.http.get("/openapi.json").content)
    config = tmp_path / "config.yaml"
    config.write_text("post_hooks: []\ncontent_type_overrides: {application/zip: application/octet-stream}\n")
    command = [Path(sys.executable).with_name("openapi-python-client"), "generate", "--meta", "none"]
    command += ["--path", document, "--config", config, "--output-path", tmp_path / "reelhaul_client"]
    generated = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "WARNING" not in generated.stdout, generated.stdout
    monkeypatch.syspath_prepend(tmp_path)
    models = importlib.import_module("reelhaul_client.models")
    create, get, list_ = (
        importlib.import_module(f"reelhaul_client.api.downloads.{name}").sync
        for name in ("create_download", "get_download", "list_downloads")
    )
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    request = models.CreateDownloadRequest.from_dict(
        {"url": "https://media.example/python", "schedule_time": tomorrow.isoformat(), "labels": {"a": "b"}}
    )
    client_class = importlib.import_module("reelhaul_client").Client
    with client_class(suite.address("gateway"), httpx_args={"trust_env": False}) as client:
        created = create(client=client, body=request, idempotency_key="of the generated client")
        assert isinstance(created, models.Download), created
        read = get(created.job_id, client=client)
        assert (read.status, read.schedule_time) == (models.DownloadStatus.QUEUED, tomorrow)
        assert read.labels.additional_properties == {"a": "b"}
        listed = list_(client=client, page_size=100)
        assert created.job_id in [download.job_id for download in listed.jobs]
        missing = get(_UNKNOWN_ID, client=client)
        assert isinstance(missing, models.Status), missing
        assert missing.code == 5


def test_typescript_client(suite: Suite, site: Site, tmp_path: Path) -> None:
    """Types that openapi-typescript generates fit a program, which creates, reads and lists downloads.

    The program of examples/typescript downloads a video, and says why it cannot download another.
    """
    for folder in (_EXAMPLE, _TYPESCRIPT):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "openapi.json").write_bytes(suite.http.get("/openapi.json").content)
    # Packages come from the npm registry; --frozen allows only those of deno.lock, with its hashes.
    _run_deno(
        tmp_path, "run", "--frozen", "-A", "npm:openapi-typescript@7.13.0", "openapi.json", "-o", "api.ts"
    )
    output = _run_deno(
        tmp_path, "run", "--frozen", "--check", "--allow-net=127.0.0.1", "client.ts", suite.address("gateway")
    )
    result = json.loads(output)
    assert result["status"] == "QUEUED"
    assert result["created"] in result["listed"]
    assert result["missing"] == 5
    program = [deno.find_deno_bin(), "run", "--frozen", "--check", "--allow-net=127.0.0.1", "--allow-env"]
    program += [f"--allow-write={tmp_path}", "download.ts"]
    server = {"REELHAUL_GATEWAY_ADDRESS": suite.address("gateway")}
    saved = Path(_run(tmp_path, [*program, site.url("/watch/demo"), str(tmp_path)], **server).stdout.strip())
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == site.digest("/media/360.mp4")
    refused = _run(tmp_path, [*program, "file:///etc/passwd", str(tmp_path)], **server)
    assert (refused.returncode, refused.stderr.partition(":")[0]) == (1, "URL_INVALID")


def _run_deno(folder: Path, *arguments: str) -> str:
    done = _run(folder, [deno.find_deno_bin(), *arguments])
    if "error sending request for url" in done.stderr:
        pytest.skip(f"the npm registry cannot be reached: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run(folder: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = (
        os.environ
        | variables
        | {
            "DENO_DIR": str(folder / "deno"),
            "DENO_NO_UPDATE_CHECK": "1",
            # As pip does, which trusts the authorities of the system as well.
            "DENO_TLS_CA_STORE": "system,mozilla",
        }
    )
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
