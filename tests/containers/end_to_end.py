"""What must hold of the deployment: downloads from request to file, recovery of each container, drains."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import standardwebhooks
from tests.containers.deployment import NETWORK, RECEIVER, SITE, Deployment, DeploymentError
from tests.servers import free_port
from tests.sites import media
from tests.suite.downloads import create_download, wait_for_end, wait_until_downloading

#: Services of which containers are killed together, while one download runs.
KILLED = (("gateway", "jobs", "storage"), ("nats", "postgres", "s3"), ("fetcher",))
#: Bytes per second of the site for downloads that are interrupted: they take some ten seconds.
_SLOW = 400_000
_WATCH = Path(__file__).with_name("watch.py")


def check_download(deployment: Deployment) -> str:
    """Download a video: watch it by SSE and by gRPC, fetch it by a signed link, and receive its webhook."""
    http = deployment.http
    created = http.post("/v1/webhooks", json={"url": f"{RECEIVER}/hook", "eventTypes": ["job.succeeded"]})
    webhook = _json(created)
    job = create_download(deployment, f"{SITE}/watch/demo?media.rate=400000", quality="360p", format="mp4")
    state = deployment.compose(
        "exec",
        "--no-TTY",
        "jobs",
        "/opt/venv/bin/python",
        "-c",
        _WATCH.read_text(),
        f"jobs/{job}",
        _key(http),
    )
    if state != "SUCCEEDED":
        raise DeploymentError(f"the job watched by gRPC ended as {state}")
    completed = wait_for_end(deployment, job).get("completed")
    if not completed:
        raise DeploymentError(f"{job} failed: {_json(http.get(f'/v1/jobs/{job}'))}")
    file = completed["files"][0]
    expected = _digest_of("360")
    _expect("the digest in the job", file["sha256"], expected)
    _expect("the digest through the gateway", _digest(http.get(file["url"]).content), expected)
    redirect = http.get(file["url"], params={"redirect": "true"})
    _expect("the status of the redirect", redirect.status_code, 307)
    _expect("the digest by the signed link", _digest(_follow(redirect.headers["location"])), expected)
    _check_webhook(deployment, webhook, f"jobs/{job}")
    return "downloaded, watched by SSE and gRPC, fetched by a signed link, delivered by a webhook"


def check_keys(deployment: Deployment) -> str:
    """Calls need a key; one of a lower level may read and not administer."""
    http = deployment.http
    anonymous = httpx.get(http.base_url.join("/v1/jobs"), trust_env=False)
    _expect("the status without a key", anonymous.status_code, 401)
    created = _json(
        http.post("/api/v1/admin/keys", json={"display_name": "reader", "permission": "READ_ONLY"})
    )
    headers = {"Authorization": f"Bearer {created['keyString']}"}
    _expect("the status of a reader's list", http.get("/v1/jobs", headers=headers).status_code, 200)
    refused = http.post("/api/v1/download", json={"url": f"{SITE}/watch/demo"}, headers=headers)
    _expect("the status of a reader's download", refused.status_code, 403)
    return "keys are required, and their levels hold"


def check_isolation(deployment: Deployment) -> str:
    """Fetchers reach neither the database nor the host's side of the site's network by themselves."""
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)\n"
        "except OSError as error: print(type(error).__name__)\n"
        "else: print('connected')"
    )

    def connect(service: str, host: str, port: int) -> str:
        command = ("exec", "--no-TTY", service, "/opt/venv/bin/python", "-c", script, host, str(port))
        return deployment.compose(*command)

    _expect("storage at the database", connect("storage", "postgres", 5432), "connected")
    _expect("a fetcher at the database", connect("fetcher", "postgres", 5432), "gaierror")
    _expect("the gateway at the database", connect("gateway", "postgres", 5432), "gaierror")
    _expect("the site at the broker", connect("site", "nats", 4222), "gaierror")
    jobs = []
    for url in ("http://jobs.control:50051/", "http://s3.localhost:8333/"):
        created = deployment.http.post("/api/v1/download", json={"url": url})
        if created.status_code != 403:
            jobs.append(_json(created)["job_id"])
    for job in jobs:
        _expect("a download from a service fails", "failed" in wait_for_end(deployment, job), True)
    return "fetchers reach no database, and jobs no address of the suite"


def check_kills(deployment: Deployment) -> str:
    """A killed container of each service is started again, and a download that ran meanwhile succeeds."""
    for number, services in enumerate(KILLED):
        job = _start_slow_download(deployment, number)
        victims = [deployment.containers(service)[0] for service in services]
        if services == ("fetcher",):
            victims = deployment.containers("fetcher")  # one of them has the job
        for victim in victims:
            deployment.kill(victim)
        _expect_success(deployment, job, f"after the kill of {', '.join(services)}")
        for victim in victims:
            deployment.wait_until_healthy(victim, restarts=1)
    return f"killed and recovered: {', '.join(service for services in KILLED for service in services)}"


def check_monitoring(deployment: Deployment) -> str:
    """The profile monitoring scrapes each replica with the token, and Prometheus has loaded the rules."""
    services = ("prometheus", "alertmanager")
    deployment.compose("--profile", "monitoring", "up", "--detach", "--wait", "--no-build", *services)

    def query(path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:9090/api/v1/{path}"
        fetch = ("exec", "--no-TTY", "prometheus", "wget", "-q", "-O", "-", url)
        data: dict[str, Any] = json.loads(deployment.compose(*fetch))["data"]
        return data

    expected = sorted(
        name for name in ("gateway", "jobs", "fetcher", "storage") for _ in deployment.containers(name)
    )

    def find_targets() -> bool:
        targets = query("targets?state=active")["activeTargets"]
        up = sorted(
            each["labels"]["job"].removeprefix("reelhaul-") for each in targets if each["health"] == "up"
        )
        return up == expected

    deployment.wait_for("each replica is scraped", lambda: find_targets() or None, 60)
    rules = [rule for group in query("rules")["groups"] for rule in group["rules"]]
    if broken := [rule["name"] for rule in rules if rule["health"] == "err"]:
        raise DeploymentError(f"rules that fail: {broken}")
    _expect("Alertmanager", bool(query("alertmanagers")["activeAlertmanagers"]), True)
    return f"Prometheus scrapes {len(expected)} replicas and has {len(rules)} rules"


def check_one_container(deployment: Deployment) -> str:
    """The container that runs everything downloads as well; it stands in the network of the site."""
    engine, address = deployment.engine, f"127.0.0.1:{free_port()}"
    settings = (f"--env=REELHAUL_FETCHER_ALLOW_NETWORKS={NETWORK}", f"--publish={address}:8080")
    container = engine.run("run", "--detach", *settings, "reelhaul")
    try:
        engine.run("network", "connect", "reelhaul_test", container)
        with httpx.Client(base_url=f"http://{address}", timeout=30, trust_env=False) as http:
            deployment.wait_for(
                "one container is ready", lambda: http.get("/readyz").status_code == 200 or None, 90
            )
            key = engine.run("exec", container, "cat", "/data/run/api-key")
            http.headers["Authorization"] = f"Bearer {key}"
            one = replace(deployment, http=http)
            job = create_download(one, f"{SITE}/watch/demo", quality="1080p", format="mp4")
            _expect_success(one, job, "in one container")
            file = _json(http.get(f"/api/v1/status/{job}"))["files"][0]
            _expect("the digest from its gateway", _digest(http.get(file["url"]).content), _digest_of("1080"))
    finally:
        engine.run("stop", "--time=40", container, seconds=60)
        engine.run("rm", "--force", "--volumes", container)
    return "one container downloads a video"


def check_drains(deployment: Deployment) -> str:
    """``docker stop`` ends each of our containers with 0, and a download that runs is finished elsewhere."""
    job = _start_slow_download(deployment, len(KILLED))
    seconds: dict[str, float] = {}
    for service in ("fetcher", "jobs", "storage", "gateway"):
        for container in deployment.containers(service):
            begin = time.monotonic()
            deployment.engine.run("stop", "--time=40", container, seconds=60)
            took = time.monotonic() - begin
            seconds[service] = max(took, seconds.get(service, 0.0))
            code = deployment.engine.run("inspect", "--format={{.State.ExitCode}}", container)
            _expect(f"the exit code of {service}", code, "0")
            deployment.engine.run("start", container)
    _expect_success(deployment, job, "after the drains")
    for service in seconds:
        for container in deployment.containers(service):
            deployment.wait_until_healthy(container, restarts=0)
    return "drained: " + ", ".join(f"{name} in {value:.1f} s" for name, value in seconds.items())


def check_logs(deployment: Deployment) -> str:
    """Every line that a service has logged is one JSON object with time, level and service."""
    lines = deployment.compose(
        "logs", "--no-log-prefix", "--no-color", "gateway", "jobs", "fetcher", "storage"
    ).splitlines()
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            raise DeploymentError(f"a line of a log is no JSON: {line[:300]}") from None
        if missing := {"time", "level", "service"} - entry.keys():
            raise DeploymentError(f"a line of a log lacks {missing}: {line[:300]}")
    return f"{len(lines)} lines of logs are JSON"


def _start_slow_download(deployment: Deployment, number: int) -> str:
    """Start the download *number* of those that are interrupted; return its id once it receives media."""
    url = f"{SITE}/watch/demo?media.rate={_SLOW + number}"
    job = create_download(deployment, url, quality="1080p", format="mp4")
    wait_until_downloading(deployment, job, 1)
    return job


def _expect_success(deployment: Deployment, job: str, when: str) -> None:
    """Wait until *job* has succeeded, with the bytes of the site."""
    ended = wait_for_end(deployment, job, 120)
    if "completed" not in ended:
        raise DeploymentError(f"{when}: {json.dumps(ended)}")
    _expect(f"the digest {when}", ended["completed"]["files"][0]["sha256"], _digest_of("1080"))


def _digest_of(height: str) -> str:
    return media.ensure_media().digests[f"/media/{height}.mp4"]


def _check_webhook(deployment: Deployment, webhook: dict[str, Any], job: str) -> None:
    def find() -> dict[str, Any] | None:
        events = [each for each in deployment.deliveries() if job in each["body"]]
        return events[0] if events else None

    delivery = deployment.wait_for(f"the webhook of {job}", find)
    standardwebhooks.Webhook(webhook["secret"]).verify(delivery["body"], delivery["headers"])


def _follow(link: str) -> bytes:
    """Fetch a signed link; its host is this machine for clients whose resolver knows *.localhost."""
    url = httpx.URL(link)
    response = httpx.get(
        url.copy_with(host="127.0.0.1"), headers={"Host": url.netloc.decode()}, trust_env=False, timeout=30
    )
    return response.raise_for_status().content


def _key(http: httpx.Client) -> str:
    return http.headers["Authorization"].removeprefix("Bearer ")


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise DeploymentError(f"{response.request.url.path}: {response.status_code} {response.text[:500]}")
    result: dict[str, Any] = response.json()
    return result


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _expect(what: str, actual: object, expected: object) -> None:
    if actual != expected:
        raise DeploymentError(f"{what}: {actual!r}, expected {expected!r}")
