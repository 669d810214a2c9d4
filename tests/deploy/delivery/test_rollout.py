"""deploy/delivery/rollout.py: the order of a rollout, and what it restores when a step fails.

The smoke test runs against a real suite. No cluster runs here: a stand-in of kubectl records the commands,
answers what a cluster would, and fails where a test wants it to. The real kubectl renders what is applied.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.sites.site import Site
from tests.suite.suite import Suite, running_suite

_SCRIPT = Path(__file__).resolve().parents[3] / "deploy/delivery/rollout.py"
_DIGEST = "sha256:" + "0123456789abcdef" * 4
_SERVICES = ("storage", "jobs", "fetcher", "gateway")
_KUBECTL = """#!{python}
import json, pathlib, subprocess, sys
folder = pathlib.Path({folder!r})
plan = json.loads((folder / "plan.json").read_text())
arguments = [each for each in sys.argv[1:] if not each.startswith(("--timeout=", "--output=", "--wait"))]
applied = next((each.partition("=")[2] for each in arguments if each.startswith("--kustomize=")), None)
command = " ".join(each for each in arguments if not each.startswith("--kustomize="))
with (folder / "commands").open("a") as file:
    file.write(command + "\\n")
if applied:
    rendered = subprocess.run([{kubectl!r}, "kustomize", applied], capture_output=True, text=True)
    if rendered.returncode:
        sys.exit(rendered.stderr)
    (folder / "rendered.yaml").write_text(rendered.stdout)
if " kustomize " in f" {{command}} ":
    sys.exit(subprocess.run([{kubectl!r}, "kustomize", sys.argv[-1]]).returncode)
if plan["fails"] and plan["fails"] in command:
    sys.exit("error: " + plan["fails"])
if " get deployment " in command:
    service = command.split()[3]
    revision = plan["revisions"].get(service, "")
    replaced = f"/name={{service}}" in (folder / "commands").read_text()
    print(int(revision) + replaced if revision else "")
"""

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """The suite that the smoke test checks."""
    with running_suite(tmp_path_factory.mktemp("rollout") / "data") as suite:
        yield suite


class Cluster:
    """A stand-in of a cluster, and an overlay for it, in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = folder / "bin/kubectl"
        program.parent.mkdir()
        real = shutil.which("kubectl")
        if real is None:
            pytest.skip("kubectl is missing: rollouts are not checked")
        program.write_text(_KUBECTL.format(python=sys.executable, folder=str(folder), kubectl=real))
        program.chmod(0o755)
        self.overlay = folder / "overlay"
        self.overlay.mkdir()
        (self.overlay / "kustomization.yaml").write_text("resources: [pod.yaml]\n")
        (self.overlay / "pod.yaml").write_text(
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, "
            "spec: {containers: [{name: a, image: 'registry.example:5000/old/reelhaul:1.0'}]}}\n"
        )
        self.plan()

    def plan(self, *, fails: str = "", revisions: dict[str, str] | None = None) -> None:
        """Let commands that contain *fails* fail; *revisions* are those that run, 7 of each by default."""
        revisions = dict.fromkeys(_SERVICES, "7") if revisions is None else revisions
        (self._folder / "plan.json").write_text(json.dumps({"fails": fails, "revisions": revisions}))

    def roll_out(self, url: str, video: str, *options: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PATH": f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        command = [sys.executable, str(_SCRIPT), str(self.overlay), "--url", url, "--video", video]
        command += [f"--image=reelhaul=registry.example/media/reelhaul@{_DIGEST}", *options]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=250, check=False
        )

    def rendered(self) -> str:
        return (self._folder / "rendered.yaml").read_text()

    def changes(self) -> list[str]:
        """Return the commands that change the cluster or wait for it, without the namespace."""
        prefix = "--namespace=reelhaul "
        file = self._folder / "commands"
        commands = file.read_text().splitlines() if file.exists() else []
        assert all(command.startswith(prefix) for command in commands)
        return [
            command.removeprefix(prefix)
            for command in commands
            if not re.search(" get deployment | kustomize ", command)
        ]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


_NAME, _JOBS = "app.kubernetes.io/name", "app.kubernetes.io/part-of=reelhaul"
_PREPARED = [
    f"delete job --selector={_JOBS} --ignore-not-found",
    f"apply --selector={_NAME} notin (storage,jobs,fetcher,gateway)",
    f"wait job --selector={_JOBS} --for=condition=complete",
]


def replaced(*services: str) -> list[str]:
    return [
        command
        for service in services
        for command in (f"apply --selector={_NAME}={service}", f"rollout status deployment/{service}")
    ]


def restored(*services: str) -> list[str]:
    return [
        command
        for service in services
        for command in (
            f"rollout undo deployment/{service} --to-revision=7",
            f"rollout status deployment/{service}",
        )
    ]


def test_working_version_is_rolled_out(cluster: Cluster, suite: Suite, site: Site):
    """Migration, storage, jobs, fetchers and gateway come in this order, with the images by their digests."""
    done = cluster.roll_out(suite.address("gateway"), site.url("/watch/demo"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("rollout ok job=")
    assert cluster.changes() == [*_PREPARED, *replaced(*_SERVICES)]
    assert f"image: registry.example/media/reelhaul@{_DIGEST}" in cluster.rendered()


def test_broken_version_is_rolled_back(cluster: Cluster, suite: Suite, site: Site):
    """If the smoke test fails, all services go back to their revisions, the gateway first."""
    done = cluster.roll_out(suite.address("gateway"), site.url("/nothing"))
    assert done.returncode == 1
    assert "rollout FAILED: " in done.stderr
    assert "is FAILED" in done.stderr
    assert cluster.changes() == [*_PREPARED, *replaced(*_SERVICES), *restored(*reversed(_SERVICES))]


def test_service_that_does_not_start_is_rolled_back(cluster: Cluster, suite: Suite, site: Site):
    """If a service does not become ready, it and those before it go back; later ones are not touched."""
    cluster.plan(fails="apply --selector=app.kubernetes.io/name=fetcher")
    done = cluster.roll_out(suite.address("gateway"), site.url("/watch/demo"))
    assert done.returncode == 1
    assert cluster.changes() == [
        *_PREPARED,
        *replaced("storage", "jobs"),
        f"apply --selector={_NAME}=fetcher",
        *restored("fetcher", "jobs", "storage"),
    ]


def test_failed_migration_replaces_nothing(cluster: Cluster, suite: Suite, site: Site):
    """If the migration fails, every service stays as it is."""
    cluster.plan(fails="wait job")
    done = cluster.roll_out(suite.address("gateway"), site.url("/watch/demo"))
    assert done.returncode == 1
    assert "rollout FAILED: `kubectl" in done.stderr
    assert cluster.changes() == _PREPARED


def test_first_deployment_has_nothing_to_restore(cluster: Cluster, suite: Suite, site: Site):
    """A first version that fails stays for a look, and the message says so."""
    cluster.plan(revisions={})
    done = cluster.roll_out(suite.address("gateway"), site.url("/nothing"))
    assert done.returncode == 1
    assert "gateway was not restored: it had no version before" in done.stderr
    assert cluster.changes() == [*_PREPARED, *replaced(*_SERVICES)]


def test_unknown_image_is_rejected(cluster: Cluster):
    """An image that the overlay does not have would leave the version as it is: nothing is applied."""
    done = cluster.roll_out(
        "http://127.0.0.1:1", "http://127.0.0.2/", f"--image=relhaul=registry.example/a@{_DIGEST}"
    )
    assert done.returncode == 1
    assert "has no image relhaul" in done.stderr
    assert cluster.changes() == []


def test_production_overlay_can_be_rolled_out(cluster: Cluster):
    """The overlay has a Deployment of each service and the Job of the migration, and gets the new images."""
    cluster.plan(fails="wait job")
    cluster.overlay = _SCRIPT.parents[1] / "k8s/overlays/production"
    cluster.roll_out(
        "http://127.0.0.1:1",
        "http://127.0.0.2/",
        f"--image=reelhaul-server=registry.example/server@{_DIGEST}",
    )
    objects = list(yaml.safe_load_all(cluster.rendered()))
    labels = {
        (each["kind"], each["metadata"]["labels"]["app.kubernetes.io/name"])
        for each in objects
        if {"app.kubernetes.io/name", "app.kubernetes.io/part-of"}
        <= each["metadata"].get("labels", {}).keys()
    }
    assert {("Job", "migrate"), *(("Deployment", service) for service in _SERVICES)} <= labels
    images = {
        container["image"]
        for each in objects
        if each["kind"] in ("Deployment", "Job")
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images == {f"registry.example/media/reelhaul@{_DIGEST}", f"registry.example/server@{_DIGEST}"}


def test_address_without_scheme_is_rejected(cluster: Cluster):
    """A URL that the smoke test could not use ends the rollout before anything is replaced."""
    done = cluster.roll_out("reelhaul.example", "http://127.0.0.2/")
    assert done.returncode == 2
    assert "reelhaul.example is no URL" in done.stderr
    assert cluster.changes() == []


def test_image_without_digest_is_rejected(cluster: Cluster):
    """An image by its tag, which may become another one, is not rolled out."""
    done = cluster.roll_out(
        "http://127.0.0.1:1", "http://127.0.0.2/", "--image=reelhaul=registry.example/a:1.0"
    )
    assert done.returncode == 2
    assert "is not NAME=REPOSITORY@sha256:DIGEST" in done.stderr
