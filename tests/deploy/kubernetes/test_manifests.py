"""The rendered overlays: valid by strict schemas, confined, limited, probed and drained."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from tests.deploy.kubernetes import schemas
from tests.deploy.kubernetes.rendering import (
    MANIFESTS,
    OVERLAYS,
    Resource,
    Workload,
    of_kind,
    only,
    workloads,
)

from reelhaul_runtime.serve import _EXTRA_DRAIN_SECONDS
from reelhaul_runtime.service import settings_classes
from reelhaul_runtime.setting_names import variable_names

# The models of custom resources take a while to load.
pytestmark = [pytest.mark.deployment, pytest.mark.timeout(600)]

_SERVICES = ("gateway", "jobs", "fetcher", "storage")
#: How long a fetcher hands back what it could not finish (docs/operations.md).
_HAND_BACK_SECONDS = 5
#: The label of the nodes of deploy/terraform.
_NODES = "reelhaul.dev/nodes"
_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30}


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest, rendered: dict[str, list[Resource]]) -> list[Resource]:
    """The resources of an overlay."""
    return rendered[request.param]


def test_every_resource_is_valid(resources: list[Resource]):
    """Every resource has the fields of its schema and no others, custom resources included."""
    errors = {
        f"{each['kind']} {each['metadata']['name']}": found
        for each in resources
        if (found := schemas.find_errors(each))
    }
    assert errors == {}
    assert len(resources) > 40


@pytest.mark.parametrize(
    ("kind", "name", "path", "value"),
    [
        ("Deployment", "jobs", "spec.template.spec.containers.0.securityContext.readOnlyRootFilesytem", True),
        ("PodDisruptionBudget", "jobs", "spec.minAvailabel", 1),
        ("HorizontalPodAutoscaler", "jobs", "spec.minReplicas", "two"),
        ("NetworkPolicy", "public", "spec.egres", []),
        ("ScaledObject", "fetcher", "spec.minReplicas", 2),
        ("ScaledObject", "fetcher", "spec.advanced.scalingModifiers.formla", "high"),
        ("Certificate", "jobs", "spec.dnsName", ["jobs"]),
        ("PodMonitor", "reelhaul", "spec.podMetricsEndpoints.0.ports", "metrics"),
        ("PrometheusRule", "reelhaul", "spec.groups.0.rules.0.expression", "up"),
        ("GRPCRoute", "services", "spec.rules.0.matches.0.method.services", "x"),
        ("HTTPRoute", "gateway", "spec.rules.0.timeouts.requests", "0s"),
        ("Gateway", "reelhaul", "spec.gatewayClass", "x"),
        ("ExternalSecret", "jobs", "spec.refreshIntervall", "1h"),
    ],
)
def test_schemas_refuse_unknown_fields(
    rendered: dict[str, list[Resource]], kind: str, name: str, path: str, value: object
):
    """A wrong field in any kind of resource is found."""
    resource = copy.deepcopy(only(rendered["production"], kind, name))
    *parents, last = path.split(".")
    target: Any = resource
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    target[last] = value
    assert schemas.find_errors(resource)


def test_unknown_kinds_are_errors():
    """A resource without a schema does not pass."""
    assert schemas.find_errors({"apiVersion": "example.org/v1", "kind": "Unknown", "metadata": {"name": "x"}})


def test_every_pod_is_restricted(resources: list[Resource]):
    """Pods meet the Pod Security Standard `restricted`, which the namespace enforces, and more."""
    labels = only(resources, "Namespace", "reelhaul")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(workloads(resources)) >= 5
    for workload in workloads(resources):
        pod, container = workload.pod, workload.container
        assert (
            pod["securityContext"].items()
            >= {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            }.items()
        )
        assert pod["securityContext"]["runAsUser"] == (999 if workload.name == "postgres" else 10001)
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, workload.name
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers", "hostAliases", "initContainers"} & set(
            pod
        )
        assert not any("hostPort" in port for port in container.get("ports", ()))
        assert {kind for volume in pod.get("volumes", ()) for kind in volume if kind != "name"} <= {
            "emptyDir",
            "secret",
            "configMap",
        }
        assert not any(name.startswith("container.apparmor") for name in workload.template["metadata"])


def test_no_pod_has_a_token_or_variables_of_services(resources: list[Resource]):
    """No pod can speak with the API server, and none gets variables that would be unknown settings."""
    accounts = {each["metadata"]["name"]: each for each in of_kind(resources, "ServiceAccount")}
    for workload in workloads(resources):
        assert workload.pod["automountServiceAccountToken"] is False
        assert workload.pod["enableServiceLinks"] is False
        assert workload.pod["serviceAccountName"] == workload.name
        assert accounts[workload.name]["automountServiceAccountToken"] is False
    assert not [each for each in resources if each["kind"].endswith(("Role", "RoleBinding"))]


def test_every_container_has_limits(resources: list[Resource]):
    """Memory and disk are limited for each container, and each writable volume has a size."""
    for workload in workloads(resources):
        asked, limits = (workload.container["resources"][key] for key in ("requests", "limits"))
        assert asked.keys() == {"cpu", "memory", "ephemeral-storage"}
        assert limits.keys() == {"memory", "ephemeral-storage"}
        for key in limits:
            assert _bytes(asked[key]) <= _bytes(limits[key])
        sizes = [
            _bytes(volume["emptyDir"]["sizeLimit"])
            for volume in workload.pod.get("volumes", ())
            if "emptyDir" in volume and volume["emptyDir"].get("medium") != "Memory"
        ]
        assert sum(sizes) <= _bytes(limits["ephemeral-storage"]), workload.name


def test_fetchers_stop_before_their_disk_is_full(resources: list[Resource]):
    """A fetcher takes no more of its volume than its quota, and is not evicted; memory likewise."""
    fetcher = _workload(resources, "fetcher")
    (volume,) = [each for each in fetcher.pod["volumes"] if each["name"] == "data"]
    quota = int(fetcher.environment["REELHAUL_FETCHER_DISK_QUOTA_BYTES"])
    assert quota <= 0.9 * _bytes(volume["emptyDir"]["sizeLimit"])
    assert int(fetcher.environment["REELHAUL_FETCHER_KEPT_BYTES"]) < quota
    limit = _bytes(fetcher.container["resources"]["limits"]["memory"])
    slots = int(fetcher.environment["REELHAUL_FETCHER_SLOTS"])
    assert slots * int(fetcher.environment["REELHAUL_FETCHER_MEMORY_BYTES"]) <= 0.8 * limit


def test_every_server_is_probed(resources: list[Resource]):
    """Services are probed by gRPC at the port of health, the gateway by HTTP, each server in three ways."""
    for workload in workloads(resources):
        if workload.kind == "Job":
            continue
        probes = {kind: workload.container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")}
        startup = probes["startup"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 120
        if workload.name in ("jobs", "fetcher", "storage"):
            address = workload.environment[f"REELHAUL_{workload.name.upper()}_HEALTH_ADDRESS"]
            assert {probe["grpc"]["port"] for probe in probes.values()} == {int(address.rpartition(":")[2])}
            service = f"reelhaul.{workload.name}.v1.{workload.name.title().removesuffix('s')}Service"
            assert probes["readiness"]["grpc"]["service"] == service
            assert "service" not in probes["liveness"]["grpc"]
    gateway = _workload(resources, "gateway")
    assert gateway.container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert gateway.container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_pods_are_killed_only_after_their_drain(resources: list[Resource]):
    """terminationGracePeriodSeconds is above preStop, the drain of the settings and what follows it."""
    for workload in workloads(resources):
        if workload.name not in _SERVICES:
            continue
        stop = workload.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain = float(workload.environment["REELHAUL_DRAIN_SECONDS"])
        needed = stop + drain + _EXTRA_DRAIN_SECONDS
        if workload.name == "fetcher":
            needed += _HAND_BACK_SECONDS
            assert drain >= 300, "downloads of minutes end in the drain"
        assert needed < workload.pod["terminationGracePeriodSeconds"], workload.name
        unready = float(workload.environment.get("REELHAUL_GATEWAY_UNREADY_SECONDS", 0))
        # DNS and load balancers need some seconds to leave a pod out.
        assert workload.name == "fetcher" or stop + unready >= 5


def test_replicas_are_spread_and_evicted_one_by_one(resources: list[Resource]):
    """Replicas stand on different nodes and zones; a drain of nodes evicts one by one; priorities exist."""
    classes = {each["metadata"]["name"]: each["value"] for each in of_kind(resources, "PriorityClass")}
    assert classes["reelhaul-data"] > classes["reelhaul-service"] > classes["reelhaul-fetcher"] > 0
    for workload in workloads(resources):
        assert workload.pod["priorityClassName"] in classes
        if workload.name not in _SERVICES:
            continue
        spread = {each["topologyKey"]: each for each in workload.pod["topologySpreadConstraints"]}
        assert spread.keys() == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
        for constraint in spread.values():
            assert constraint["labelSelector"]["matchLabels"].items() <= workload.labels.items()
        budget = only(resources, "PodDisruptionBudget", workload.name)["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= workload.labels.items()


def test_settings_of_pods_exist(resources: list[Resource]):
    """Each REELHAUL_* is a setting, since services refuse unknown ones; secrets come from mounted files."""
    known = {variable for settings in settings_classes() for variable in variable_names(settings)}
    for workload in workloads(resources):
        mounted = {each["mountPath"] for each in workload.container.get("volumeMounts", ())}
        for variable, value in workload.environment.items():
            if variable.startswith("REELHAUL_"):
                assert variable in known or variable.removesuffix("_FILE") in known, variable
            if value.startswith("/run/"):
                assert value.rpartition("/")[0] in mounted, f"{workload.name} {variable}"
            if re.search(
                r"TOKEN|PASSWORD|SECRET|_KEYS?$|DATABASE_URL|NATS_URL", variable.removesuffix("_FILE")
            ):
                assert value.startswith("/run/"), f"{workload.name} {variable}"


def test_secrets_are_those_that_a_pod_needs(resources: list[Resource]):
    """Fetchers and the gateway have no secret of a database or bucket; every mounted secret exists."""
    created = {each["metadata"]["name"] for each in of_kind(resources, "Secret")}
    created |= {each["spec"]["target"]["name"] for each in of_kind(resources, "ExternalSecret")}
    created |= {each["spec"]["secretName"] for each in of_kind(resources, "Certificate")}
    for workload in workloads(resources):
        secrets = {
            each["secret"]["secretName"] for each in workload.pod.get("volumes", ()) if "secret" in each
        }
        assert secrets <= created, workload.name
        if workload.name in ("gateway", "fetcher"):
            assert secrets <= {"suite", f"{workload.name}-certificate"}
    if only_external := list(of_kind(resources, "ExternalSecret")):
        assert not list(of_kind(resources, "Secret")), only_external


def test_production_scales_what_exists(rendered: dict[str, list[Resource]]):
    """Gateway, jobs and storage scale by CPU from two replicas, fetchers by KEDA."""
    resources = rendered["production"]
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]
        for each in of_kind(resources, "HorizontalPodAutoscaler")
    }
    assert scaled.keys() == {"gateway", "jobs", "storage"}
    assert all(each["minReplicas"] >= 2 for each in scaled.values())
    assert only(resources, "ScaledObject", "fetcher")["spec"]["scaleTargetRef"] == {"name": "fetcher"}
    assert not any("replicas" in each["spec"] for each in of_kind(resources, "Deployment"))


def test_production_fetchers_keep_off_the_nodes_of_services(rendered: dict[str, list[Resource]]):
    """Fetchers run on the nodes that deploy/terraform has for them, and never beside the other services."""
    pod = _workload(rendered["production"], "fetcher").pod
    terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert terms["nodeSelectorTerms"] == [
        {"matchExpressions": [{"key": _NODES, "operator": "NotIn", "values": ["services"]}]}
    ]
    assert {"key": _NODES, "value": "fetchers", "effect": "NoSchedule"} in pod["tolerations"]
    nodes = (MANIFESTS.parent / "terraform/modules/eks/nodes.tf").read_text()
    assert f'"{_NODES}" = each.key' in nodes
    assert "services = concat(" in nodes


def test_production_images_are_pinned_by_digest(rendered: dict[str, list[Resource]]):
    """Production runs what was pushed under a digest."""
    for workload in workloads(rendered["production"]):
        assert re.search(r"@sha256:[0-9a-f]{64}$", workload.container["image"]), workload.name


def test_mutual_tls_reaches_every_service(rendered: dict[str, list[Resource]]):
    """Each service has a certificate with the name of the services, where its settings look for it."""
    resources = rendered["production"]
    certificates = {each["metadata"]["name"]: each["spec"] for each in of_kind(resources, "Certificate")}
    for name in _SERVICES:
        workload = _workload(resources, name)
        service_name = workload.environment["REELHAUL_TLS_SERVICE_NAME"]
        assert service_name in certificates[name]["dnsNames"]
        assert {"server auth", "client auth"} <= set(certificates[name]["usages"])
        (mount,) = [each for each in workload.container["volumeMounts"] if each["name"] == "certificate"]
        for variable, file in (("CERTIFICATE", "tls.crt"), ("KEY", "tls.key"), ("CA", "ca.crt")):
            assert workload.environment[f"REELHAUL_TLS_{variable}"] == f"{mount['mountPath']}/{file}"


def _bytes(text: str) -> int:
    return int(text[:-2]) * _UNITS[text[-2:]]


def _workload(resources: list[Resource], name: str) -> Workload:
    (found,) = [each for each in workloads(resources) if each.name == name]
    return found
