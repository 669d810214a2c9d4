"""Network policies: whether they admit a connection, as a network plugin decides.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Rule = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it."""

    labels: Mapping[str, str]
    #: The numbers of its named ports.
    ports: Mapping[str, int] = field(default_factory=dict)
    namespace: str = "reelhaul"
    #: The labels of its namespace beside its name.
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    #: Its address, which policies look at only for the network of a node.
    address: str = ""


#: A pod, or an address outside of the cluster.
Peer = Pod | str


class NetworkPolicies:
    """The policies of one namespace."""

    def __init__(self, policies: Iterable[Mapping[str, Any]], namespace: str = "reelhaul") -> None:
        self._policies = [each["spec"] for each in policies]
        self._namespace = namespace

    def admit(self, source: Peer, destination: Peer, port: int, protocol: str = "TCP") -> bool:
        """Return whether *source* may connect to *port* of *destination*."""
        return self._admit_one_way("Egress", source, destination, destination, port, protocol) and (
            self._admit_one_way("Ingress", destination, source, destination, port, protocol)
        )

    def _admit_one_way(
        self, direction: str, subject: Peer, peer: Peer, destination: Peer, port: int, protocol: str
    ) -> bool:
        if isinstance(subject, str) or subject.namespace != self._namespace:
            return True
        selecting = [
            policy
            for policy in self._policies
            if direction in policy["policyTypes"] and _matches(policy["podSelector"], subject.labels)
        ]
        key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        rules = [rule for policy in selecting for rule in policy.get(key, ())]
        return not selecting or any(
            self._has_peer(rule.get(peers), peer)
            and _has_port(rule.get("ports"), destination, port, protocol)
            for rule in rules
        )

    def _has_peer(self, selectors: Any, peer: Peer) -> bool:
        return selectors is None or any(self._is_selected(each, peer) for each in selectors)

    def _is_selected(self, selector: Rule, peer: Peer) -> bool:
        if block := selector.get("ipBlock"):
            address = peer if isinstance(peer, str) else peer.address
            return bool(address) and _contains(block, address)
        if isinstance(peer, str):
            return False
        if (namespaces := selector.get("namespaceSelector")) is None:
            in_namespace = peer.namespace == self._namespace
        else:
            labels = {"kubernetes.io/metadata.name": peer.namespace, **peer.namespace_labels}
            in_namespace = _matches(namespaces, labels)
        return in_namespace and _matches(selector.get("podSelector", {}), peer.labels)


def _contains(block: Rule, address: str) -> bool:
    parsed = ip_address(address)

    def inside(text: str) -> bool:
        network = ip_network(text)
        return network.version == parsed.version and parsed in network

    return inside(block["cidr"]) and not any(map(inside, block.get("except", ())))


def _has_port(ports: Any, destination: Peer, port: int, protocol: str) -> bool:
    if ports is None:
        return True
    for each in ports:
        number = each.get("port", port)
        if isinstance(number, str):
            number = destination.ports.get(number) if isinstance(destination, Pod) else None
        if number is None or each.get("protocol", "TCP") != protocol:
            continue
        if number <= port <= each.get("endPort", number):
            return True
    return False


def _matches(selector: Rule, labels: Mapping[str, str]) -> bool:
    if any(labels.get(name) != value for name, value in selector.get("matchLabels", {}).items()):
        return False
    return all(_matches_expression(each, labels) for each in selector.get("matchExpressions", ()))


def _matches_expression(expression: Rule, labels: Mapping[str, str]) -> bool:
    name, values = expression["key"], expression.get("values", ())
    match expression["operator"]:
        case "In":
            return labels.get(name) in values
        case "NotIn":
            return labels.get(name) not in values
        case "Exists":
            return name in labels
        case "DoesNotExist":
            return name not in labels
        case other:
            raise ValueError(f"{other} is no operator of a selector")
