"""Who may connect to whom, by the rendered policies; and whether services reach what their settings name."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.deploy.kubernetes.network_policies import NetworkPolicies, Pod
from tests.deploy.kubernetes.rendering import OVERLAYS, Resource, Workload, of_kind, only, workloads

from reelhaul_runtime.addresses import Refused, Rules, parse_host

pytestmark = pytest.mark.deployment

_FOREIGN = Pod({"app": "shop"}, namespace="shop")
_DNS = Pod({"k8s-app": "kube-dns"}, namespace="kube-system")
_KEDA = Pod({"app": "keda-operator"}, namespace="keda")
_PROMETHEUS = Pod({}, namespace="observing", namespace_labels={"reelhaul/monitoring": "true"})
_PROXY = Pod({}, namespace="envoy", namespace_labels={"reelhaul/ingress": "true"})
#: What the overlay `production` has in its private subnets, by settings.
_OUTSIDE = {
    "REELHAUL_JOBS_DATABASE_URL_FILE": "postgresql://reelhaul:x@10.20.192.10:5432/jobs",
    "REELHAUL_STORAGE_DATABASE_URL_FILE": "postgresql://reelhaul:x@10.20.208.10:5432/storage",
    "REELHAUL_NATS_URL_FILE": "nats://x@10.20.224.10:4222",
}
_OUTSIDE_ADDRESSES = {"cache.example.org": "10.20.255.10"}
#: What settings that all services have in common name, and a service never calls.
_NOT_CALLED = {("fetcher", "fetcher"), ("storage", "fetcher"), ("storage", "storage")}
_FOLDER_OF_SECRETS = re.compile(r"^/run/secrets/(?P<secret>[^/]+)/(?P<key>[^/]+)$")

_PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
_PRIVATE = """
0.0.0.0 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 169.254.169.254 169.254.170.23
172.16.0.1 172.31.255.255 192.168.0.1 192.0.0.192 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255 168.63.129.16
:: ::1 fc00::1 fd00:ec2::254 fd00:ec2::23 fe80::1 ff02::1 ::ffff:10.0.0.1 ::ffff:169.254.169.254
169.254.170.2 64:ff9b::a00:1 64:ff9b:1::a00:1 2002:a00:1::1 2001:0:0:1::a00:1 2001:db8::1 fec0::1
"""


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest, rendered: dict[str, list[Resource]]) -> list[Resource]:
    """The resources of an overlay."""
    return rendered[request.param]


@pytest.fixture
def laptop(rendered: dict[str, list[Resource]]) -> list[Resource]:
    """The resources of the overlay `laptop`."""
    return rendered["laptop"]


def policies(resources: list[Resource]) -> NetworkPolicies:
    return NetworkPolicies(of_kind(resources, "NetworkPolicy"))


def pods(resources: list[Resource]) -> dict[str, Pod]:
    """Return a pod of each workload, by name."""
    return {each.name: _pod(each) for each in workloads(resources)}


def _pod(workload: Workload) -> Pod:
    ports = {each["name"]: each["containerPort"] for each in workload.container.get("ports", ())}
    return Pod(workload.labels, ports)


def test_fetchers_reach_public_addresses_alone(resources: list[Resource]):
    """A fetcher connects to the web ports of public addresses, and to no private or metadata address."""
    admitted, fetcher = policies(resources), pods(resources)["fetcher"]
    for address in _PUBLIC:
        assert admitted.admit(fetcher, address, 443)
        assert admitted.admit(fetcher, address, 80)
        assert not admitted.admit(fetcher, address, 22)
        assert not admitted.admit(fetcher, address, 443, "UDP")
    for address in _PRIVATE.split():
        assert not admitted.admit(fetcher, address, 443), address
        assert not admitted.admit(fetcher, address, 80), address


def test_policy_refuses_what_the_guard_refuses(resources: list[Resource]):
    """At the borders of every block of the policy it is no wider than the guard of the fetcher."""
    admitted, fetcher = policies(resources), pods(resources)["fetcher"]
    rules, checked = Rules(), 0
    for address in _borders(resources):
        try:
            rules.check([address], 443)
            guarded = True
        except Refused:
            guarded = False
        assert guarded or not admitted.admit(fetcher, str(address), 443), address
        checked += 1
    assert checked > 50


def _borders(resources: list[Resource]) -> Iterator[object]:
    """Return the addresses at the borders of all blocks, and beside them."""
    from ipaddress import ip_address, ip_network

    for policy in of_kind(resources, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", ()):
            for block in (each["ipBlock"] for each in rule.get("to", ()) if "ipBlock" in each):
                for text in (block["cidr"], *block.get("except", ())):
                    network = ip_network(text)
                    if network.prefixlen == network.max_prefixlen or not network.prefixlen:
                        continue
                    first, last = int(network[0]), int(network[-1])
                    limit = (1 << network.max_prefixlen) - 1
                    for number in (first - 1, first, first + 1, last - 1, last, last + 1):
                        if 0 <= number <= limit:
                            yield type(network[0])(number)
    for text in _PUBLIC:
        yield ip_address(text)


def test_each_service_reaches_what_its_settings_name(resources: list[Resource]):
    """For each address in settings and secrets of a container, policies admit its pod to the pods there."""
    admitted, all_pods, checked = policies(resources), pods(resources), []
    for workload in workloads(resources):
        if workload.kind == "StatefulSet":
            continue
        pod = all_pods[workload.name]
        assert admitted.admit(pod, _DNS, 53, "UDP")
        for variable, host, port in _destinations(workload, resources):
            targets = _resolve(host, port, resources)
            assert targets, f"{workload.name} {variable}: nothing is at {host}:{port}"
            if (workload.name, host) in _NOT_CALLED:
                continue
            for target, target_port in targets:
                assert admitted.admit(pod, target, target_port), f"{workload.name} {variable} {host}:{port}"
                checked.append((workload.name, host))
    assert {("gateway", "jobs"), ("jobs", "fetcher"), ("fetcher", "storage")} <= set(checked)
    assert len(checked) >= 18


def test_fetchers_reach_the_object_store_of_the_laptop(laptop: list[Resource]):
    """Uploads by URLs that storage has signed go to S3 directly."""
    assert policies(laptop).admit(pods(laptop)["fetcher"], pods(laptop)["s3"], 8333)


_ADMITTED = [
    ("gateway", "storage", 50053), ("jobs", "storage", 50053), ("fetcher", "storage", 50053),
    ("gateway", "fetcher", 50052), ("jobs", "fetcher", 50052), ("fetcher", "s3", 8333),
    ("jobs", "postgres", 5432), ("storage", "postgres", 5432), ("migrate", "postgres", 5432),
    ("storage", "s3", 8333), ("bucket", "s3", 8333),
]  # fmt: skip


def test_pods_reach_nothing_else(laptop: list[Resource]):
    """Between all pods and all their ports, only the connections of a table: no fetcher calls another."""
    admitted, all_pods = policies(laptop), pods(laptop)
    services = ("gateway", "jobs", "fetcher", "storage")
    expected = set(_ADMITTED)
    for target, port in (("jobs", 50051), ("nats", 4222)):
        expected |= {(source, target, port) for source in services}
    found = {
        (source, target, port)
        for source, source_pod in all_pods.items()
        for target, target_pod in all_pods.items()
        for port in {*target_pod.ports.values(), 22, 18333}
        if admitted.admit(source_pod, target_pod, port)
    }
    assert found == expected


def test_other_namespaces_reach_what_they_are_labelled_for(laptop: list[Resource]):
    """Proxies reach the ports of clients, Prometheus metrics, KEDA the lag; other pods nothing."""
    admitted, all_pods = policies(laptop), pods(laptop)
    found = {
        name: {
            (target, port)
            for target, pod in all_pods.items()
            for port in {*pod.ports.values(), 22}
            if admitted.admit(source, pod, port)
        }
        for name, source in {
            "foreign": _FOREIGN,
            "keda": _KEDA,
            "prometheus": _PROMETHEUS,
            "proxy": _PROXY,
        }.items()
    }
    assert found == {
        "foreign": set(),
        "keda": {("nats", 8222)},
        "prometheus": {("gateway", 9180), ("jobs", 9181), ("fetcher", 9182), ("storage", 9183)},
        "proxy": {("gateway", 8080), ("jobs", 50051), ("fetcher", 50052), ("storage", 50053)},
    }


def test_databases_and_broker_reach_nothing(laptop: list[Resource]):
    """What keeps data connects to nothing but DNS; nobody reaches the servers of the cluster."""
    admitted, all_pods = policies(laptop), pods(laptop)
    for name in ("postgres", "nats", "s3", "migrate", "bucket", "gateway"):
        assert not admitted.admit(all_pods[name], _PUBLIC[0], 443), name
    for name, pod in all_pods.items():
        assert not admitted.admit(pod, "10.96.0.1", 443), name
        assert not admitted.admit(pod, _FOREIGN, 8080), name


def test_production_asks_for_credentials_from_storage_alone(rendered: dict[str, list[Resource]]):
    """Only storage reaches the agent of pod identities; database and cache admit who needs them."""
    resources = rendered["production"]
    admitted, all_pods = policies(resources), pods(resources)
    agent = "169.254.170.23"
    assert [name for name, pod in all_pods.items() if admitted.admit(pod, agent, 80)] == ["storage"]
    database = {name for name, pod in all_pods.items() if admitted.admit(pod, "10.20.192.10", 5432)}
    assert database == {"jobs", "storage", "migrate"}
    cache = {name for name, pod in all_pods.items() if admitted.admit(pod, "10.20.192.10", 6379)}
    assert cache == {"gateway", "jobs", "storage"}, "the cache has no password"
    assert not admitted.admit(all_pods["jobs"], "10.20.0.10", 5432)


def _destinations(workload: Workload, resources: list[Resource]) -> Iterator[tuple[str, str, int]]:
    """Return variable, host and port of each address in the settings of *workload*."""
    for variable, value in workload.environment.items():
        if variable.startswith("REELHAUL_") and variable.endswith("_ADDRESSES"):
            for address in value.split(","):
                host, _, port = address.rpartition(":")
                yield variable, host, int(port)
        elif variable.endswith("_URL_FILE"):
            url = urlsplit(_read_secret(variable, value, resources))
            assert url.hostname, variable
            assert url.port, variable
            yield variable, url.hostname, url.port
        elif variable.endswith("_URL") and value:
            options = parse_qs(urlsplit(value).query)
            for endpoint in options.get("endpoint_url", [] if value.startswith("s3:") else [value]):
                url = urlsplit(endpoint)
                assert url.hostname
                yield variable, url.hostname, url.port or {"http": 80, "https": 443}[url.scheme]


def _read_secret(variable: str, path: str, resources: list[Resource]) -> str:
    match = _FOLDER_OF_SECRETS.match(path)
    assert match, path
    if not any(of_kind(resources, "Secret")):
        external = only(resources, "ExternalSecret", match["secret"])
        assert match["key"] in {each["secretKey"] for each in external["spec"]["data"]}
        return _OUTSIDE[variable]
    return base64.b64decode(only(resources, "Secret", match["secret"])["data"][match["key"]]).decode()


def _resolve(host: str, port: int, resources: list[Resource]) -> list[tuple[Pod | str, int]]:
    """Return what is at *host*: the pods of a Service and their ports, or an address outside."""
    host = _OUTSIDE_ADDRESSES.get(host, host)
    try:
        if parse_host(host) is not None:
            return [(host, port)]
    except Refused:
        pass
    service = only(resources, "Service", host)["spec"]
    (target,) = [each["targetPort"] for each in service["ports"] if each["port"] == port]
    found: list[tuple[Pod | str, int]] = []
    for pod in pods(resources).values():
        if service["selector"].items() <= pod.labels.items():
            number = pod.ports[target]
            # A headless Service is a name for the pods: their port is the one that clients use.
            assert service.get("clusterIP") != "None" or number == port
            found.append((pod, number))
    return found
