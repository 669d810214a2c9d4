"""The log of the whole suite has none of the secrets that it used, in any form, whatever failed."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import psycopg
import websockets
from cryptography.fernet import Fernet
from tests.postgresql import fresh_database
from tests.s3_server import SECRET_KEY, S3Server
from tests.sites.site import Site
from tests.suite.downloads import create_download
from tests.suite.suite import Suite, running_suite
from websockets.sync.client import connect

from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul_runtime.private_files import KEY_FILE, RUN_FOLDER

# Shorter parts of a secret appear by chance.
_MIN_FRAGMENT = 12
# A request id, which is logged as it was sent.
_LOGGED = "logged-as-it-was-sent"


class Secrets:
    """The secrets that a test uses, by where it uses them."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def create(self, name: str) -> str:
        """Return a new secret, with characters that are encoded in URLs."""
        return self.add(name, f"{secrets.token_urlsafe(18)}+/ {secrets.token_urlsafe(6)}".replace(" ", "="))

    def add(self, name: str, value: str) -> str:
        """Record *value* as a secret; return it."""
        assert len(value) >= _MIN_FRAGMENT, name
        self._values[name] = value
        return value

    def find(self, log: str) -> Iterator[tuple[str, str]]:
        """Yield the name and the form of each secret in *log*."""
        for name, value in self._values.items():
            for form in _forms(value):
                if form in log:
                    yield name, form


def _forms(value: str) -> Iterator[str]:
    """Yield *value* as it is and encoded: for URLs, in hexadecimal, in base64 at any position of a text."""
    yield value
    yield quote(value, safe="")
    yield quote(value)
    yield value.encode().hex()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for offset in range(3):
            # The characters at the ends depend on what is before and after.
            encoded = encode(bytes(offset) + value.encode()).decode().rstrip("=")
            yield encoded[4 if offset else 0 : -4]


def test_forms_of_a_secret():
    """A secret is found as it is and encoded, alone and within another text; another one is not."""
    found = Secrets()
    value = found.create("one")
    for text in (
        value,
        f"Bearer {value}",
        f"https://user:{quote(value, safe='')}@host",
        base64.b64encode(f"user:{value}".encode()).decode(),
        base64.urlsafe_b64encode(f"a {value} b".encode()).decode(),
        value.encode().hex(),
    ):
        assert {name for name, _ in found.find(f"before {text} after")} == {"one"}, text
    assert not list(found.find(Secrets().create("another")))


def test_log_has_no_secrets(tmp_path: Path, site: Site, s3_server: S3Server):
    """With keys and at DEBUG, work and failures of all kinds leave no secret in the log of any process."""
    used = Secrets()
    used.add("S3 secret", SECRET_KEY)
    with fresh_database() as database:
        settings = _settings(used, database, tmp_path)
        with running_suite(tmp_path / "data", s3=s3_server, **settings) as suite:
            # The output is no terminal, so `reelhaul up` does not show it.
            first_key = (suite.data_dir / RUN_FOLDER / KEY_FILE).read_text().strip()
            suite.http.headers["x-api-key"] = used.add("first key", first_key)
            token = suite.address("nats").partition("//")[2].partition("@")[0]
            used.add("token of the broker", token)
            _use_keys(suite, used)
            _use_tickets(suite, used)
            _use_webhooks_and_destinations(suite, site, used)
            _download(suite, site, used)
            _fail(suite, database)
        log = suite.log.read_text()
    assert _LOGGED in log
    assert "[secret]" in log
    assert len(re.findall('"level": "DEBUG"', log)) > 100
    bodies = "".join(line for line in log.splitlines() if '"message": "rpc bodies"' in line)
    # What callers write into a filter or the path of a URL, nobody can know to be a secret.
    assert {name for name, _ in used.find(bodies)} <= {"no key at all", "password in a URL"}
    others = "".join(line for line in log.splitlines(keepends=True) if '"message": "rpc bodies"' not in line)
    assert list(used.find(others)) == []


def _settings(used: Secrets, database: str, folder: Path) -> dict[str, str]:
    token_file = folder / "suite-token"
    token_file.write_text(used.create("suite token"))
    password = quote(used.create("password of the database"), safe="")
    proxy = quote(used.create("password of a proxy"), safe="")
    return {
        "auth": "keys",
        "log_level": "DEBUG",
        "log_format": "json",
        "log_bodies": "true",
        "suite_token_file": str(token_file),
        "jobs_database_url": database.replace("postgres:@", f"postgres:{password}@"),
        "jobs_webhook_networks": "127.0.0.2/32",
        "jobs_seal_keys": used.add("key of webhooks", Fernet.generate_key().decode()),
        "storage_link_keys": used.create("key of links"),
        "storage_seal_keys": used.add("key of destinations", Fernet.generate_key().decode()),
        "fetcher_cookies_key": used.add("key of cookies", Fernet.generate_key().decode()),
        "fetcher_upstream_proxies": f"direct,http://user:{proxy}@127.0.0.2:9",
        "fetcher_translator_url": "http://127.0.0.1:9",
        "fetcher_translator_key": used.create("key of the translator"),
    }


def _post(suite: Suite, path: str, body: Mapping[str, Any], **query: str) -> Any:
    response = suite.http.post(path, json=body, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def _use_keys(suite: Suite, used: Secrets) -> None:
    """Create, rotate and use keys, in all places where callers put them, right ones and wrong ones."""
    body = {"displayName": "of a test", "permission": "ADMIN"}
    created = _post(suite, "/v1/apiKeys", body)
    key = used.add("key", created["keyString"])
    rotated = _post(suite, f"/v1/{created['name']}:rotate", {})
    newer = used.add("rotated key", rotated["keyString"])
    wrong = used.add("wrong key", key[:-2])
    for value in (newer, key, wrong, used.create("no key at all")):
        for headers in (
            {"authorization": f"Bearer {value}"},
            {"authorization": "Basic " + base64.b64encode(f"user:{value}".encode()).decode()},
            {"x-api-key": value},
            {"cookie": f"key={value}"},
        ):
            httpx.get(f"{suite.http.base_url}/v1/jobs", headers=headers, trust_env=False)
        for query in ({"api_key": value}, {"filter": f'tenant = "{value}"'}, {"pageToken": value}):
            suite.http.get("/v1/jobs", params=query)
        with grpc.insecure_channel(suite.address("jobs")) as channel:
            for metadata in (("x-api-key", value), ("x-reelhaul-suite-token", value)):
                with suppress(grpc.RpcError):
                    job_service_pb2_grpc.JobServiceStub(channel).ListJobs(
                        job_service_pb2.ListJobsRequest(filter="state ="), metadata=(metadata,), timeout=20
                    )


def _use_tickets(suite: Suite, used: Secrets) -> None:
    """Open a WebSocket by a ticket, twice, and by a key in its subprotocol; the second ticket is refused."""
    ticket = used.add("ticket", _post(suite, "/v1/tickets", {})["ticket"])
    key = base64.urlsafe_b64encode(suite.http.headers["x-api-key"].encode()).decode().rstrip("=")
    used.add("key in base64url", key)
    url = str(suite.http.base_url).replace("http", "ws").rstrip("/") + "/v1/jobs/018f:watch"
    for protocol in (f"reelhaul.ticket.{ticket}", f"reelhaul.ticket.{ticket}", f"reelhaul.key.{key}"):
        with (
            suppress(websockets.WebSocketException),
            connect(url, subprotocols=[websockets.Subprotocol(protocol)], proxy=None) as websocket,
        ):
            websocket.recv(timeout=20)


def _use_webhooks_and_destinations(suite: Suite, site: Site, used: Secrets) -> None:
    """Register a webhook that answers 404 and a bucket that cannot be reached, and try both."""
    token = quote(used.create("token of a webhook"), safe="")
    created = _post(suite, "/v1/webhooks", {"url": site.url(f"/hook?token={token}")})
    used.add("secret of a webhook", created["secret"].removeprefix("whsec_"))
    rotated = _post(suite, f"/v1/{created['name']}:rotateSecret", {})
    used.add("rotated secret of a webhook", rotated["secret"].removeprefix("whsec_"))
    suite.http.post(f"/v1/{created['name']}:test", json={})
    destination = {
        "bucket": "deliveries",
        "endpointUrl": "http://127.0.0.1:9",
        "accessKey": {"accessKeyId": "id", "secretAccessKey": used.create("secret of a bucket")},
    }
    _post(suite, "/v1/destinations", destination, destinationId="bucket")
    suite.http.post("/v1/destinations/bucket:test", json={})
    suite.http.post("/v1/destinations", params={"destinationId": "BAD ID"}, json=destination)


def _download(suite: Suite, site: Site, used: Secrets) -> None:
    """Download media, one with a secret in its URL, to a bucket and by a signed link; another one fails."""
    url = site.url(f"/media/360.mp4?token={quote(used.create('token in a URL'), safe='')}")
    job = create_download(suite, url, deliver_to="bucket")
    suite.wait_for("a file", lambda: suite.http.get(f"/api/v1/status/{job}").json().get("files"))
    (file,) = suite.http.get(f"/api/v1/status/{job}").json()["files"]
    redirect = suite.http.get(file["url"], params={"redirect": "true"})
    signature = re.search(r"[Ss]ignature=([^&]+)", redirect.headers["location"])
    assert signature is not None, redirect.headers
    used.add("signature of a link", signature[1])
    httpx.get(redirect.headers["location"], trust_env=False)
    create_download(suite, site.url(f"/no-page?token={quote(used.create('another token'))}"))
    suite.wait_for("failed fetch", lambda: "fetch failed" in suite.log.read_text())
    secret = used.create("password in a URL")
    for wrong in (f"http://user:{quote(secret, safe='')}@127.0.0.2/x", f"ftp://127.0.0.2/{secret}"):
        suite.http.post("/api/v1/download", json={"url": wrong})


def _fail(suite: Suite, database: str) -> None:
    """End the connections to the database, and kill the broker and jobs; all connect again."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    suite.http.get("/v1/jobs", headers={"x-request-id": _LOGGED})
    for name in ("nats", "jobs"):
        suite.wait_for_restart(name, suite.kill(name))
        suite.http.get("/v1/jobs")
    suite.wait_until_ready()
