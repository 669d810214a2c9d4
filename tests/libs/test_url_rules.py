"""URLs whose host is an address: refused at once where the guard would refuse them for certain."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

import pytest

from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_runtime.addresses import Refused, Rules
from reelhaul_runtime.validation import urls
from reelhaul_runtime.validation.violations import FieldViolations

PUBLIC = Rules()
LAB = Rules((ip_network("127.0.0.2/32"), ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")))

FORBIDDEN = [
    "http://127.0.0.1/",
    "https://127.0.0.1:443/v.mp4",
    "http://127.255.255.254/",
    "http://10.0.0.1/v",
    "http://172.16.0.1/v",
    "http://192.168.1.1/v",
    "http://100.64.0.1/",
    "http://0.0.0.0/",
    "http://169.254.169.254/latest",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://224.0.0.1/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[2002:7f00:1::]/",
    "http://localhost/",
    "http://LOCALHOST:8080/x",
    "http://localhost./",
    "http://a.localhost/",
    "http://metadata.google.internal/",
    "http://metadata.goog/",
    "http://8.8.8.8:22/",
]
ALLOWED = [
    "http://8.8.8.8/",
    "https://8.8.8.8:443/v",
    "https://[2606:4700::1111]/v",
    "https://videos.example/v",
    "https://videos.example:8443/v",
    "http://localhost.example/",
    "http://notlocalhost/",
    "http://10.example/",
]


def reason_of(url: str, rules: Rules | None) -> str:
    """Return the name of the reason for which *url* is refused; empty if it is not."""
    violations = FieldViolations()
    urls.check_url(url, "url", violations, rules)
    try:
        violations.raise_if_any()
    except Exception as error:
        return ErrorReason.Name(error.reason)  # type: ignore[attr-defined]
    return ""


@pytest.mark.parametrize("url", FORBIDDEN)
def test_forbidden_by_default(url: str):
    """A host that is not a public address, or always resolves to another, is URL_FORBIDDEN."""
    assert reason_of(url, PUBLIC) == "URL_FORBIDDEN"


@pytest.mark.parametrize("url", ALLOWED)
def test_left_to_the_guard(url: str):
    """Public addresses pass, and so do names: what they resolve to, the guard checks."""
    assert reason_of(url, PUBLIC) == ""


@pytest.mark.parametrize(
    ("url", "is_allowed"),
    [
        ("http://127.0.0.2:18080/v", True),
        ("http://127.0.0.1:18080/v", False),
        ("http://10.1.2.3/v", True),
        ("http://10.2.0.1/v", False),
        ("http://[::ffff:10.1.2.3]/v", True),
        ("http://[fd00:1::5]:9000/v", True),
        ("http://[fd00:2::5]/v", False),
        ("http://localhost/", False),
    ],
)
def test_networks_of_the_operator(url: str, is_allowed: bool):
    """Networks that fetches may reach are allowed, on any port."""
    assert reason_of(url, LAB) == ("" if is_allowed else "URL_FORBIDDEN")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://10.0.0.1/v", "http://[::1]/", "http://localhost/"]
)
def test_without_rules(url: str):
    """Where the rules are not known, only what no setting could allow is forbidden."""
    assert reason_of(url, None) == ""
    assert reason_of("http://169.254.169.254/", None) == "URL_FORBIDDEN"


@pytest.mark.parametrize("rules", [PUBLIC, LAB])
@pytest.mark.parametrize("url", [url for url in [*FORBIDDEN, *ALLOWED] if "[" in url or url[7:8].isdigit()])
def test_same_verdict_as_the_guard(url: str, rules: Rules):
    """A literal address is refused by the call if and only if the guard refuses it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    try:
        address = ip_address(parts.hostname)
    except ValueError:
        return
    try:
        rules.check([address], parts.port or {"http": 80, "https": 443}[parts.scheme])
        expected = ""
    except Refused:
        expected = "URL_FORBIDDEN"
    assert reason_of(url, rules) == expected
