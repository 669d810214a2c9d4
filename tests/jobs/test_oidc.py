"""Tokens of an identity provider: an issuer that the tests run, over HTTP on loopback."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import ValidationError
from tests.servers import NatsServer

from reelhaul.admin.v1 import api_key_service_pb2, api_key_service_pb2_grpc
from reelhaul.jobs.v1 import job_service_pb2, job_service_pb2_grpc
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_jobs.app import running
from reelhaul_jobs.oidc.key_set import KeySet
from reelhaul_jobs.oidc.tokens import OidcTokens
from reelhaul_jobs.settings import Settings
from reelhaul_runtime.errors import ReelhaulError
from reelhaul_runtime.rpc.channels import open_channel, status_as_errors

AUDIENCE = "reelhaul"
_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
_SHORT_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
_EC = ec.generate_private_key(ec.SECP256R1())
_ED = ed25519.Ed25519PrivateKey.generate()
_OTHER = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Issuer:
    """An issuer: what it answers, and how often it was asked for its keys."""

    url: str = ""
    keys: dict[str, Any] = field(default_factory=lambda: {"rsa": _RSA, "ec": _EC, "ed": _ED})
    fetches: int = 0
    #: Answered in place of the documents, by the last part of the path.
    answers: dict[str, web.Response] = field(default_factory=dict)

    def sign(self, key_id: str = "ec", algorithm: str = "ES256", key: Any = None, **claims: Any) -> str:
        """Return a token that is good, but for *claims*; those that are None are left out."""
        now = time.time()
        all_claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": now,
            "exp": now + 300,
            "tenant": "local",
            "reelhaul_level": "DOWNLOAD",
        } | claims
        payload = {name: value for name, value in all_claims.items() if value is not None}
        return jwt.encode(payload, key or self.keys[key_id], algorithm, headers={"kid": key_id})

    async def answer(self, request: web.Request) -> web.Response:
        """Answer the discovery document, or the keys."""
        name = request.path.rpartition("/")[2]
        self.fetches += name == "keys"
        if name in self.answers:
            return self.answers[name]
        if name == "keys":
            return web.json_response({"keys": [_to_jwk(kid, key) for kid, key in self.keys.items()]})
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys"})


def _to_jwk(key_id: str, key: Any) -> dict[str, Any]:
    algorithms: Any = jwt.algorithms
    algorithm = algorithms.OKPAlgorithm
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm = algorithms.RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"}


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    """Run an issuer until the block exits."""
    issuer, app = Issuer(), web.Application()
    app.router.add_get("/{path:.*}", issuer.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}/realm"
    try:
        yield issuer
    finally:
        await runner.cleanup()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with running_issuer() as issuer:
        yield issuer


@dataclass
class Time:
    """A clock that tests move."""

    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def verifying(issuer: Issuer, clock: Time | None = None, **settings: Any) -> AsyncIterator[OidcTokens]:
    """Verify tokens of *issuer* in the block."""
    own = Settings(oidc_issuer=issuer.url, oidc_audience=AUDIENCE, **settings)
    async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
        yield OidcTokens(own, KeySet(client, own.oidc_issuer, own.oidc_jwks_url, clock or Time()))


async def reason_of(tokens: OidcTokens, token: str) -> str:
    """Return the reason that *token* is refused with, or OK."""
    try:
        await tokens.verify(token)
    except ReelhaulError as error:
        return ErrorReason.Name(error.reason)
    return "OK"


@pytest.mark.parametrize(("key_id", "algorithm"), [("rsa", "RS256"), ("ec", "ES256"), ("ed", "EdDSA")])
async def test_accepted_algorithms(issuer: Issuer, key_id: str, algorithm: str):
    """Tokens that are signed by RS256, ES256 or EdDSA are accepted, with their tenant and level."""
    async with verifying(issuer) as tokens:
        token = await tokens.verify(issuer.sign(key_id, algorithm))
    assert (token.subject, token.tenant) == ("alice", "local")
    assert token.level == PermissionLevel.PERMISSION_LEVEL_DOWNLOAD


def _unsigned(issuer: Issuer) -> str:
    head, payload, _ = issuer.sign().split(".")
    head = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT","kid":"ec"}').rstrip(b"=").decode()
    return f"{head}.{payload}."


def _with_header(header: str) -> Any:
    """Return a case: a token with this header, which no key has signed."""
    head = base64.urlsafe_b64encode(header.encode()).rstrip(b"=").decode()
    return lambda issuer: ".".join((head, *issuer.sign().split(".")[1:]))


def _signed_with_the_public_key(issuer: Issuer) -> str:
    """Return a token that is signed by HS256 with the issuer's public key as secret."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"rsa"}').rstrip(b"=").decode()
    payload = issuer.sign().split(".")[1]
    secret = json.dumps(_to_jwk("rsa", _RSA)).encode()
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        f"{head}.{payload}".encode(), secret
    )
    return f"{head}.{payload}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("name", "case", "reason"),
    [
        ("good", lambda issuer: issuer.sign(), "OK"),
        ("unsigned", _unsigned, "CREDENTIAL_INVALID"),
        ("signed with the public key", _signed_with_the_public_key, "CREDENTIAL_INVALID"),
        ("another algorithm", lambda issuer: issuer.sign("rsa", "RS512"), "CREDENTIAL_INVALID"),
        ("algorithm of another key", lambda issuer: issuer.sign("ec", "RS256", _RSA), "CREDENTIAL_INVALID"),
        ("key of someone else", lambda issuer: issuer.sign(key=_OTHER), "CREDENTIAL_INVALID"),
        ("wrong signature", lambda issuer: issuer.sign()[:-4] + "AAAA", "CREDENTIAL_INVALID"),
        ("list as algorithm", _with_header('{"alg":["ES256"],"kid":"ec"}'), "CREDENTIAL_INVALID"),
        ("object as algorithm", _with_header('{"alg":{"a":1},"kid":"ec"}'), "CREDENTIAL_INVALID"),
        ("list as key id", _with_header('{"alg":"ES256","kid":["ec"]}'), "CREDENTIAL_INVALID"),
        ("unknown extension", _with_header('{"alg":"ES256","kid":"ec","crit":["a"]}'), "CREDENTIAL_INVALID"),
        ("nested header", _with_header("[" * 5000), "CREDENTIAL_INVALID"),
        ("no token", lambda issuer: "a.b.c", "CREDENTIAL_INVALID"),
        ("empty", lambda issuer: "", "CREDENTIAL_INVALID"),
        ("another issuer", lambda issuer: issuer.sign(iss="http://127.0.0.1/other"), "CREDENTIAL_INVALID"),
        ("no issuer", lambda issuer: issuer.sign(iss=None), "CREDENTIAL_INVALID"),
        ("another audience", lambda issuer: issuer.sign(aud="another"), "CREDENTIAL_INVALID"),
        ("one of two audiences", lambda issuer: issuer.sign(aud=["another", AUDIENCE]), "OK"),
        ("no audience", lambda issuer: issuer.sign(aud=None), "CREDENTIAL_INVALID"),
        ("expired", lambda issuer: issuer.sign(exp=time.time() - 70), "CREDENTIAL_INVALID"),
        ("expired within the tolerance", lambda issuer: issuer.sign(exp=time.time() - 30), "OK"),
        ("no expiry", lambda issuer: issuer.sign(exp=None), "CREDENTIAL_INVALID"),
        ("expiry in a distant future", lambda issuer: issuer.sign(exp=10**30), "OK"),
        ("not yet valid", lambda issuer: issuer.sign(nbf=time.time() + 120), "CREDENTIAL_INVALID"),
        ("valid within the tolerance", lambda issuer: issuer.sign(nbf=time.time() + 30), "OK"),
        ("issued in the future", lambda issuer: issuer.sign(iat=time.time() + 120), "CREDENTIAL_INVALID"),
        ("list as start", lambda issuer: issuer.sign(nbf=[1]), "CREDENTIAL_INVALID"),
        ("object as expiry", lambda issuer: issuer.sign(exp={"a": 1}), "CREDENTIAL_INVALID"),
        ("infinite expiry", lambda issuer: issuer.sign(exp=float("inf")), "CREDENTIAL_INVALID"),
        ("number as subject", lambda issuer: issuer.sign(sub=7), "CREDENTIAL_INVALID"),
        ("empty subject", lambda issuer: issuer.sign(sub=""), "CREDENTIAL_INVALID"),
        ("NUL in the tenant", lambda issuer: issuer.sign(tenant="local\0"), "CREDENTIAL_INVALID"),
        ("no subject", lambda issuer: issuer.sign(sub=None), "CREDENTIAL_INVALID"),
        ("long subject", lambda issuer: issuer.sign(sub="x" * 256), "CREDENTIAL_INVALID"),
        ("subject with a line break", lambda issuer: issuer.sign(sub="a\nb"), "CREDENTIAL_INVALID"),
        ("no tenant", lambda issuer: issuer.sign(tenant=None), "CREDENTIAL_INVALID"),
        ("list as tenant", lambda issuer: issuer.sign(tenant=["local"]), "CREDENTIAL_INVALID"),
        ("no level", lambda issuer: issuer.sign(reelhaul_level=None), "PERMISSION_INSUFFICIENT"),
        ("no such level", lambda issuer: issuer.sign(reelhaul_level="PUBLIC"), "PERMISSION_INSUFFICIENT"),
        ("list of levels", lambda issuer: issuer.sign(reelhaul_level=["x", 7, "ADMIN"]), "OK"),
    ],
)
async def test_tokens(issuer: Issuer, name: str, case: Any, reason: str):
    """A token is accepted if all of it is right, within the tolerance of clocks; else the reason is exact."""
    async with verifying(issuer) as tokens:
        assert (name, await reason_of(tokens, case(issuer))) == (name, reason)


async def test_claims_by_setting(issuer: Issuer):
    """Tenant and level may stand in nested claims, and levels have the names of the issuer's groups."""
    settings = {
        "oidc_tenant_claim": "https://example/org.id",
        "oidc_level_claim": "realm_access.roles",
        "oidc_levels": {"staff": "READ_ONLY", "boss": "FULL_ACCESS"},
    }
    claims = {"https://example/org.id": "acme", "realm_access": {"roles": ["staff", "boss", "ADMIN"]}}
    async with verifying(issuer, **settings) as tokens:
        token = await tokens.verify(issuer.sign(tenant=None, reelhaul_level="ADMIN", **claims))
        assert (token.tenant, token.level) == ("acme", PermissionLevel.PERMISSION_LEVEL_FULL_ACCESS)
        claims["realm_access"] = {"roles": ["ADMIN"]}
        assert await reason_of(tokens, issuer.sign(**claims)) == "PERMISSION_INSUFFICIENT"


@pytest.mark.filterwarnings("ignore:The RSA key")
async def test_short_keys_are_ignored(issuer: Issuer):
    """An RSA key below 2,048 bits signs nothing that is accepted."""
    issuer.keys["rsa"] = _SHORT_RSA
    async with verifying(issuer) as tokens:
        assert await reason_of(tokens, issuer.sign("rsa", "RS256")) == "CREDENTIAL_INVALID"
        assert await reason_of(tokens, issuer.sign()) == "OK"


async def test_rotation_of_keys(issuer: Issuer):
    """A new key is fetched when it is first used, but unknown key ids cause one request in 30 seconds."""
    clock = Time()
    async with verifying(issuer, clock) as tokens:
        assert await reason_of(tokens, issuer.sign()) == "OK"
        assert await reason_of(tokens, issuer.sign()) == "OK"
        assert issuer.fetches == 1
        issuer.keys["new"] = _OTHER
        clock.seconds += 31
        assert await reason_of(tokens, issuer.sign("new")) == "OK"
        assert issuer.fetches == 2
        invented = [issuer.sign(f"invented-{n}", key=_OTHER) for n in range(20)]
        assert {await reason_of(tokens, token) for token in invented} == {"CREDENTIAL_INVALID"}
        assert issuer.fetches == 2
        del issuer.keys["ec"]
        clock.seconds += 3601
        assert await reason_of(tokens, issuer.sign("ec", key=_EC)) == "CREDENTIAL_INVALID"
        assert issuer.fetches == 3


async def test_concurrent_tokens_share_one_request(issuer: Issuer):
    """Tokens that arrive together cause one request of the issuer."""
    async with verifying(issuer) as tokens:
        await asyncio.gather(*(tokens.verify(issuer.sign(sub=f"user-{n}")) for n in range(20)))
    assert issuer.fetches == 1


@pytest.mark.parametrize(
    ("document", "answer"),
    [
        ("keys", lambda: web.Response(status=500)),
        ("keys", lambda: web.Response(text="[]")),
        ("keys", lambda: web.Response(text="no json")),
        ("keys", lambda: web.json_response({"keys": [], "x": "x" * (300 << 10)})),
        ("keys", lambda: web.Response(status=302, headers={"location": "http://127.0.0.2/"})),
        ("openid-configuration", lambda: web.json_response({"issuer": "http://127.0.0.1/other"})),
    ],
)
async def test_while_the_issuer_fails(issuer: Issuer, document: str, answer: Any):
    """Without keys tokens are UNAVAILABLE, at one request in 30 seconds; keys that are known stay."""
    issuer.answers[document] = answer()
    clock = Time()
    async with verifying(issuer, clock) as tokens:
        for _ in range(3):
            assert await reason_of(tokens, issuer.sign()) == "SERVICE_UNAVAILABLE"
        assert issuer.fetches == (document == "keys")
        issuer.answers.clear()
        clock.seconds += 31
        assert await reason_of(tokens, issuer.sign()) == "OK"
        issuer.answers[document] = answer()
        clock.seconds += 3601
        assert await reason_of(tokens, issuer.sign()) == "OK"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"oidc_issuer": "https://id.example", "oidc_audience": "a"}, ""),
        ({"oidc_issuer": "http://127.0.0.1:1/realm", "oidc_audience": "a"}, ""),
        ({"oidc_issuer": "http://id.example", "oidc_audience": "a"}, "must be https"),
        ({"oidc_issuer": "id.example", "oidc_audience": "a"}, "must be a URL"),
        ({"oidc_issuer": "https://u:p@id.example", "oidc_audience": "a"}, "must be a URL"),
        ({"oidc_issuer": "https://id.example"}, "OIDC_AUDIENCE is not set"),
        ({"oidc_levels": {"a": "ROOT"}}, "READ_ONLY"),
        ({"oidc_leeway_seconds": 301}, "less than or equal to 300"),
    ],
)
def test_settings(settings: dict[str, Any], problem: str):
    """Settings that would accept more tokens than meant are refused."""
    if not problem:
        assert Settings(**settings)
        return
    with pytest.raises(ValidationError, match=problem):
        Settings(**settings)


async def test_calls_with_tokens(issuer: Issuer, settings: Settings, nats_server: NatsServer):
    """A caller with a token acts for its tenant at its level, until the token expires; tickets work too."""
    own = {"auth": "keys", "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
    services = [
        job_service_pb2.DESCRIPTOR.services_by_name["JobService"],
        api_key_service_pb2.DESCRIPTOR.services_by_name["ApiKeyService"],
    ]
    async with (
        running(settings.model_copy(update=own)) as port,
        open_channel(f"127.0.0.1:{port}", services) as channel,
        open_channel(f"127.0.0.1:{port}", services, suite_token=settings.suite_token) as suite_channel,
    ):
        jobs: Any = job_service_pb2_grpc.JobServiceStub(channel)
        keys: Any = api_key_service_pb2_grpc.ApiKeyServiceStub(channel)

        async def reason(call: Any, request: Any, **claims: Any) -> str:
            metadata = [("authorization", f"Bearer {issuer.sign(**claims)}")]
            try:
                with status_as_errors("jobs"):
                    await call(request, metadata=metadata)
            except ReelhaulError as error:
                return ErrorReason.Name(error.reason)
            return "OK"

        list_jobs, list_keys = job_service_pb2.ListJobsRequest(), api_key_service_pb2.ListApiKeysRequest()
        assert await reason(jobs.ListJobs, list_jobs) == "OK"
        assert await reason(keys.ListApiKeys, list_keys) == "PERMISSION_INSUFFICIENT"
        assert await reason(keys.ListApiKeys, list_keys, reelhaul_level="ADMIN") == "OK"
        assert await reason(jobs.ListJobs, list_jobs, tenant="nobody") == "CREDENTIAL_INVALID"
        assert await reason(jobs.ListJobs, list_jobs, exp=time.time() - 100) == "CREDENTIAL_INVALID"
        assert await reason(jobs.ListJobs, list_jobs, reelhaul_level=None) == "PERMISSION_INSUFFICIENT"

        metadata = [("authorization", f"Bearer {issuer.sign(sub='bob')}")]
        ticket = await keys.CreateTicket(api_key_service_pb2.CreateTicketRequest(), metadata=metadata)
        suite: Any = api_key_service_pb2_grpc.ApiKeyServiceStub(suite_channel)
        principal = await suite.RedeemTicket(api_key_service_pb2.RedeemTicketRequest(ticket=ticket.ticket))
        assert (principal.api_key.name, principal.api_key.tenant) == ("users/bob", "tenants/local")
