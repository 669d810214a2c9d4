"""The rendered pods of the overlay `laptop` really run, confined as they say, and download a video."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.containers import images
from tests.debian_packages import Missing
from tests.deploy.kubernetes.podman import Podman, running_podman
from tests.deploy.kubernetes.pods import SITE, Pods, running_pods
from tests.deploy.kubernetes.rendering import Resource
from tests.sites import media
from tests.suite.downloads import create_download, wait_for_end

# Images are built first.
pytestmark = [pytest.mark.deployment, pytest.mark.root, pytest.mark.timeout(1800)]

_SERVERS = ("nats", "postgres", "s3", "storage", "jobs", "fetcher", "gateway")


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    """A Podman with the images."""
    try:
        with running_podman() as podman:
            images.import_base(podman)
            images.build_stand_ins(podman, ("nats", "postgres", "s3"))
            images.build(podman, "reelhaul")
            yield podman
    except Missing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def pods(
    podman: Podman, rendered: dict[str, list[Resource]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    """The pods, all ready."""
    with running_pods(podman, rendered["laptop"], tmp_path_factory.mktemp("pods")) as pods:
        yield pods


def test_download_through_the_pods(pods: Pods):
    """A video is downloaded, and its file comes from the object store through the gateway intact."""
    job = create_download(pods, f"{SITE}/watch/demo", quality="360p", format="mp4")
    (file,) = wait_for_end(pods, job)["completed"]["files"]
    expected = media.ensure_media().digests["/media/360.mp4"]
    assert file["sha256"] == expected
    content = pods.http.get(file["url"]).raise_for_status().content
    assert hashlib.sha256(content).hexdigest() == expected


def test_probes_succeed(pods: Pods):
    """Each probe of each server succeeds, as kubelet would run it."""
    for name in _SERVERS:
        for kind in ("startup", "readiness", "liveness"):
            assert pods.probe(name, kind), f"{kind} of {name}"


@pytest.mark.parametrize("name", _SERVERS)
def test_pods_run_confined(pods: Pods, name: str):
    """No capability, no new privileges, filtered system calls, a read-only root, limited memory."""
    container, workload = pods.container(name), pods.workloads[name]
    process = Path(f"/proc/{container['State']['Pid']}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    user = str(workload.pod["securityContext"]["runAsUser"])
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {user}
    assert {int(status[each], 16) for each in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    (root,) = [
        line.split() for line in (process / "mountinfo").read_text().splitlines() if line.split()[4] == "/"
    ]
    assert "ro" in root[5].split(",")
    limit = workload.container["resources"]["limits"]["memory"]
    assert container["HostConfig"]["Memory"] == int(limit[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[limit[-2:]]


def test_pods_drain(pods: Pods):
    """Services end with exit code 0 on the signal that kubelet sends, the last test of these pods."""
    for name in ("gateway", "fetcher", "jobs", "storage"):
        grace = pods.workloads[name].pod["terminationGracePeriodSeconds"]
        pods.podman.run("stop", f"--time={grace}", f"{name}-{name}", seconds=grace + 30)
        assert pods.container(name)["State"]["ExitCode"] == 0, pods.podman.read_log(f"{name}-{name}")
