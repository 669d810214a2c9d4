"""Which URLs a list of sites allows."""

from __future__ import annotations

import pytest

from reelhaul.admin.v1.api_key_pb2 import ApiKey
from reelhaul.admin.v1.tenant_pb2 import Tenant
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_runtime.auth.site_rules import check_site, rules_of_caller, site_rules
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.identity import Caller


@pytest.mark.parametrize(
    ("site", "url", "listed"),
    [
        ("videos.example", "https://videos.example/1", True),
        ("videos.example", "https://CDN.Videos.Example.:8443/1", True),
        ("videos.example", "https://www.videos.example/", True),
        ("videos.example", "https://notvideos.example/", False),
        ("videos.example", "https://videos.example.evil.example/", False),
        ("videos.example", "https://example/videos.example", False),
        ("www.videos.example", "https://videos.example/", False),
        ("example", "https://videos.example/", True),
        ("youtube.com", "https://youtu.be/1", True),
        ("youtube.com", "https://music.youtube.com/1", True),
        ("youtu.be", "https://www.youtube.com/1", False),
        ("xn--bcher-kva.example", "https://bücher.example/", True),
        ("xn--bcher-kva.example", "https://BÜCHER.example/", True),
        ("192.0.2.1", "http://192.0.2.1:8080/x", True),
        ("0.2.1", "http://192.0.2.1/", False),
        ("videos.example", "http://[2001:db8::1]/", False),
    ],
)
def test_site_of_a_list(site: str, url: str, listed: bool):
    """A name includes its subdomains, whole labels only, and a site all domains of its operator."""
    (denying,), (allowing,) = site_rules("t", [], [site]), site_rules("t", [site], [])
    assert allowing.allow(url) is listed
    assert denying.allow(url) is not listed


def test_denied_within_allowed():
    """What is denied stays denied within a site that is allowed, and no lists allow everything."""
    (rules,) = site_rules("t", ["videos.example"], ["ads.videos.example"])
    assert rules.allow("https://a.videos.example/")
    assert not rules.allow("https://x.ads.videos.example/")
    assert not site_rules("t", [], [])


def test_every_party_must_allow():
    """A key cannot widen the lists of its tenant; the error names field, host and whose list it is."""
    caller = Caller(
        "acme",
        PermissionLevel.PERMISSION_LEVEL_DOWNLOAD,
        api_key=ApiKey(allowed_sites=["videos.example", "films.example"]),
        tenant_resource=Tenant(denied_sites=["films.example"]),
    )
    rules = rules_of_caller(caller)
    check_site("https://videos.example/1", "job.url", rules)
    for url, text in (
        ("https://films.example/1", "job.url: the tenant does not allow downloads from films.example"),
        ("https://other.example/1", "job.url: the API key does not allow downloads from other.example"),
    ):
        with pytest.raises(ReelhaulError, match=text) as failure:
            check_site(url, "job.url", rules)
        assert failure.value.reason == ErrorReason.SITE_FORBIDDEN
        assert failure.value.violations[0].field == "job.url"
    assert not rules_of_caller(Caller("acme", PermissionLevel.PERMISSION_LEVEL_DOWNLOAD))
