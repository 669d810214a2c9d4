"""Names that deploy/k8s shares with the code, compose.yaml and the protos, read from the files."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from tests.deploy.kubernetes import prometheus_rules
from tests.deploy.kubernetes.rendering import MANIFESTS, ROOT, only, read_files

from reelhaul.work.v1 import lease_service_pb2, process_service_pb2
from reelhaul_gateway.transcoding import SERVICES
from reelhaul_jobs.nats.bus import WORK, consumer_name
from reelhaul_runtime.auth.peers import SUITE_TOKEN_KEY

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
_PRIORITIES = ("high", "normal", "bulk")


def test_scaler_reads_the_consumers_of_jobs():
    """KEDA scales fetchers by the lag of the consumers that jobs creates, one for as many as its slots."""
    scaled = only(read_files("components/keda"), "ScaledObject", "fetcher")["spec"]
    triggers = {each["name"]: each["metadata"] for each in scaled["triggers"]}
    assert {each["stream"] for each in triggers.values()} == {WORK}
    assert {name: each["consumer"] for name, each in triggers.items()} == {
        priority: consumer_name(priority) for priority in _PRIORITIES
    }
    modifiers = scaled["advanced"]["scalingModifiers"]
    assert set(re.findall(r"\w+", modifiers["formula"])) == set(triggers)
    fetcher = only(read_files("base"), "Deployment", "fetcher")["spec"]["template"]["spec"]["containers"][0]
    slots = {each["name"]: each["value"] for each in fetcher["env"]}["REELHAUL_FETCHER_SLOTS"]
    assert modifiers["target"] == slots
    assert {each["lagThreshold"] for each in triggers.values()} == {slots}
    assert scaled["minReplicaCount"] >= 1, "the gateway is ready only while a fetcher serves"


def test_grpc_routes_are_the_public_services():
    """Every service that the gateway offers has a route to its owner, and internal ones have none."""
    routes = only(read_files("components/gateway-api"), "GRPCRoute", "services")["spec"]["rules"]
    routed = {
        match["method"]["service"]: rule["backendRefs"][0]["name"]
        for rule in routes
        for match in rule["matches"]
    }
    internal = {
        service.full_name
        for file in (lease_service_pb2, process_service_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
    }
    assert not internal & set(routed)
    expected = {service.full_name: owner for owner in SERVICES for service in SERVICES[owner]}
    # jobs serves it as well, for clients that speak gRPC.
    expected["reelhaul.system.v1.SystemService"] = "jobs"
    assert routed == expected


def test_grpc_routes_remove_the_suite_token():
    """No client passes for a service: what calls carry as the suite's credential does not pass."""
    for rule in only(read_files("components/gateway-api"), "GRPCRoute", "services")["spec"]["rules"]:
        (filtered,) = rule["filters"]
        assert filtered["requestHeaderModifier"]["remove"] == [SUITE_TOKEN_KEY]


@pytest.mark.parametrize("name", ["nats", "postgres", "s3"])
def test_images_are_those_of_compose(name: str):
    """The laptop runs the versions that compose.yaml runs and tests."""
    laptop = yaml.safe_load((MANIFESTS / "overlays/laptop/kustomization.yaml").read_text())
    (image,) = [each for each in laptop["images"] if each["name"] == name]
    assert COMPOSE[name]["image"].endswith(f":-{image['newName']}:{image['newTag']}}}")


@pytest.mark.parametrize(
    ("copy", "original"),
    [("postgres/databases.sql", "databases.sql"), ("s3/create_bucket.py", "create_bucket.py")],
)
def test_copies_are_equal(copy: str, original: str):
    """kustomize reads no files outside of its folder: what it shares with compose.yaml is a copy."""
    expected = (ROOT / "deploy/compose" / original).read_text()
    assert (MANIFESTS / "components" / copy).read_text() == expected


def test_rules_are_those_of_prometheus():
    """The alerts of the operator are the rules that promtool has checked."""
    assert prometheus_rules.RESOURCE.read_text() == prometheus_rules.build()


def test_arguments_of_the_object_store_are_those_of_compose():
    """SeaweedFS runs as in compose.yaml, but for the folder of its identities."""
    container = only(read_files("components/s3"), "StatefulSet", "s3")["spec"]["template"]["spec"][
        "containers"
    ][0]
    expected = [
        each.replace("secrets/s3_identities", "secrets/s3/s3_identities.json")
        for each in COMPOSE["s3"]["command"]
    ]
    assert container["args"] == expected


def test_broker_differs_from_compose_by_its_addresses():
    """The two configurations of nats-server have the same limits."""

    def limits(text: str) -> list[str]:
        lines: list[Any] = [line.strip() for line in text.splitlines() if not line.strip().startswith("#")]
        return [line for line in lines if not line.startswith(("http", "include"))]

    ours = (MANIFESTS / "components/nats/nats.conf").read_text()
    assert limits(ours) == limits((ROOT / "deploy/compose/nats.conf").read_text())
