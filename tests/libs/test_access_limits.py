"""Limits of keys and tenants: what is accepted, and in which form it is kept."""

from __future__ import annotations

import pytest

from reelhaul.admin.v1 import api_key_pb2
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.validation import access
from reelhaul_runtime.validation.violations import FieldViolations


@pytest.mark.parametrize(
    ("normalize", "values", "expected"),
    [
        (
            access.normalize_sites,
            ["YouTube.com.", "youtube.com", "a-b.example"],
            ["youtube.com", "a-b.example"],
        ),
        (access.normalize_sites, ["bücher.example"], ["xn--bcher-kva.example"]),
        (access.normalize_sites, ["x" * 63 + ".example"], ["x" * 63 + ".example"]),
        (access.normalize_sites, ["x" * 64 + ".example"], None),
        (access.normalize_sites, ["ü" * 60 + ".example"], None),
        (access.normalize_sites, [""], None),
        (access.normalize_sites, ["*.youtube.com"], None),
        (access.normalize_sites, ["https://youtube.com"], None),
        (access.normalize_sites, ["youtube.com:443"], None),
        (access.normalize_sites, ["youtube.com/watch"], None),
        (access.normalize_sites, [".".join("a" * 127)], [".".join("a" * 127)]),
        (access.normalize_sites, ["a" * 100_000], None),
        (access.normalize_sites, [f"{n}.example" for n in range(100)], [f"{n}.example" for n in range(100)]),
        (access.normalize_sites, [f"{n}.example" for n in range(101)], None),
        (access.normalize_networks, ["192.0.2.0/24", "192.0.2.7"], ["192.0.2.0/24", "192.0.2.7/32"]),
        (access.normalize_networks, ["2001:DB8::/32", "0.0.0.0/0"], ["2001:db8::/32", "0.0.0.0/0"]),
        (access.normalize_networks, ["::ffff:192.0.2.0/120"], ["192.0.2.0/24"]),
        (access.normalize_networks, ["192.0.2.1/24"], None),
        (access.normalize_networks, ["fe80::1%eth0"], None),
        (access.normalize_networks, ["example.com"], None),
        (access.normalize_networks, ["192.0.2.0/255.255.255.0"], ["192.0.2.0/24"]),
        (access.normalize_networks, [""], None),
        (access.normalize_networks, ["1" * 100_000], None),
        (access.normalize_networks, [f"10.0.0.{n}" for n in range(51)], None),
    ],
)
def test_lists(normalize, values, expected):
    """Sites and networks are kept in one form, each once; anything else is refused by its field."""
    violations = FieldViolations()
    normalized = normalize(values, "api_key.list", violations)
    if expected is None:
        with pytest.raises(ReelhaulError) as failure:
            violations.raise_if_any()
        assert failure.value.violations[0].field.startswith("api_key.list")
    else:
        assert not violations
        assert normalized == expected


@pytest.mark.parametrize(
    ("value", "is_valid"), [(-1, True), (0, True), (10**15, True), (-2, False), (2**62, False)]
)
def test_quota(value, is_valid):
    """A limit is a number, or -1 for none; absurd ones are refused."""
    violations = FieldViolations()
    access.check_quota(api_key_pb2.Quota(stored_bytes=value), "api_key.quota", violations)
    assert bool(violations) is not is_valid
