"""Named cookies: encrypted at rest, limited to tenants, and marked when they are expired or refused."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.fernet import Fernet
from tests.fetcher.fakes import FakeEngine, FakeGuard
from tests.fetcher.worker_harness import JOB, WorkerHarness

from reelhaul.fetcher.v1.fetcher_service_pb2 import ProbeMediaRequest
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.type.v1.method_policy_pb2 import PermissionLevel
from reelhaul_fetcher.api.convert import to_probe_query
from reelhaul_fetcher.commands import fetcher
from reelhaul_fetcher.disk.cookies import CookieFolder
from reelhaul_fetcher.model.cookies import MAX_BYTES, parse
from reelhaul_fetcher.model.engine_requests import FetchRequest, ProbeRequest
from reelhaul_fetcher.service.probe_cache import ProbeCache, ProbeQuery
from reelhaul_fetcher.service.site_access import SiteAccess, SiteCookies
from reelhaul_runtime import identity
from reelhaul_runtime.errors import ReelhaulError, from_status

KEY = Fernet.generate_key().decode()
VALUE = "a-session-of-ours"
URL = "https://www.example.com/watch"
FUTURE = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
PAST = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())


def cookie_file(*expiries: int, domain: str = ".example.com") -> str:
    """Return a cookie file with one cookie for each of *expiries*."""
    lines = [f"{domain}\tTRUE\t/\tTRUE\t{expiry}\tSID{n}\t{VALUE}" for n, expiry in enumerate(expiries)]
    return "\n".join(["# Netscape HTTP Cookie File", "", *lines, ""])


def login_required(cause: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.MEDIA_LOGIN_REQUIRED, "sign in", metadata={"cause": cause})


@pytest.fixture
def folder(tmp_path: Path) -> CookieFolder:
    return CookieFolder(tmp_path / "cookies", [KEY])


def reason(failure: pytest.ExceptionInfo[ReelhaulError]) -> str:
    return ErrorReason.Name(failure.value.reason)


def test_encrypted_at_rest(folder: CookieFolder, tmp_path: Path) -> None:
    """The file is encrypted and readable by its owner only; with the key the text is unchanged."""
    folder.add("ours", cookie_file(FUTURE), ["acme"])
    (file,) = (tmp_path / "cookies").iterdir()
    assert VALUE.encode() not in file.read_bytes()
    assert b"example" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    jar = folder.get("ours", "acme")
    assert jar.text == cookie_file(FUTURE)
    assert VALUE not in repr(jar)


def test_tenants(folder: CookieFolder) -> None:
    """Another tenant gets the same error as for an unknown name; names cannot lead to other files."""
    folder.add("ours", cookie_file(FUTURE), ["acme"])
    folder.add("all", cookie_file(FUTURE), [])
    messages = set()
    for name, tenant in (("ours", "other"), ("none", "other")):
        with pytest.raises(ReelhaulError) as failure:
            folder.get(name, tenant)
        assert reason(failure) == "COOKIES_UNKNOWN"
        messages.add(failure.value.text.replace(name, ""))
    assert len(messages) == 1
    assert folder.get("all", "other").text
    for name in ("../ours", "OURS", "", "a" * 64, "ours\n"):
        with pytest.raises(ReelhaulError):
            folder.get(name, "acme")
        with pytest.raises(ValueError, match="a name"):
            folder.add(name, cookie_file(FUTURE), [])


def test_keys(folder: CookieFolder, tmp_path: Path) -> None:
    """Another key decrypts nothing; a new key before the old one decrypts all; renamed files are rejected."""
    folder.add("ours", cookie_file(FUTURE), [])
    new_key = Fernet.generate_key().decode()
    other_key = CookieFolder(tmp_path / "cookies", [new_key])
    with pytest.raises(ReelhaulError):
        other_key.get("ours", "acme")
    assert [stored.jar for stored in other_key.list()] == [None]
    both_keys = CookieFolder(tmp_path / "cookies", [new_key, KEY])
    assert both_keys.get("ours", "acme").text == cookie_file(FUTURE)
    both_keys.add("ours", cookie_file(FUTURE, FUTURE), [])
    assert other_key.get("ours", "acme").text == cookie_file(FUTURE, FUTURE)
    (tmp_path / "cookies/ours.cookies").rename(tmp_path / "cookies/theirs.cookies")
    with pytest.raises(ReelhaulError):
        both_keys.get("theirs", "acme")
    with pytest.raises(ValueError, match="base64") as failure:
        CookieFolder(tmp_path, ["a-secret-that-is-no-key"])
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    "invalid",
    [
        "",
        "# Netscape\n",
        f"{VALUE}\n",
        f"a\tb\tc\td\tx{VALUE}\tf\tg\n",
        cookie_file(FUTURE) + "#" * MAX_BYTES,
    ],
)
def test_invalid_cookie_file(folder: CookieFolder, invalid: str) -> None:
    """An invalid file is rejected when it is added; the error shows nothing of it."""
    with pytest.raises(ValueError, match=r".") as failure:
        folder.add("ours", invalid, [])
    assert VALUE not in str(failure.value)
    assert folder.list() == []


def test_missing_header(folder: CookieFolder) -> None:
    """The header line is added to files without it: some parsers require it."""
    bare = cookie_file(FUTURE).partition("\n\n")[2]
    for content in (bare, "\ufeff" + cookie_file(FUTURE)):
        assert folder.add("ours", content, []).text.startswith("# Netscape HTTP Cookie File\n")


def test_parse() -> None:
    """HttpOnly lines and years beyond 9999 are parsed; expiry 0 means a session cookie."""
    cookies = parse(
        f"#HttpOnly_.a.example\tTRUE\t/\tTRUE\t{10**14}\tn\tv\nb.example\tFALSE\t/\tTRUE\t0\tn\tv\n"
    )
    assert [cookie.matches_host("www.a.example") for cookie in cookies] == [True, False]
    assert [cookie.matches_host("a.example") for cookie in cookies] == [True, False]
    assert [cookie.matches_host("www.b.example") for cookie in cookies] == [False, False]
    assert [cookie.expires is None for cookie in cookies] == [False, True]


@pytest.mark.parametrize(
    ("content", "expired"),
    [
        (cookie_file(PAST), True),
        (cookie_file(PAST, PAST), True),
        (cookie_file(PAST, FUTURE), False),
        (cookie_file(PAST, 0), False),
        (cookie_file(PAST, domain=".other.example"), False),
    ],
)
def test_expired(folder: CookieFolder, content: str, expired: bool) -> None:
    """If all cookies for the site have expired, using them fails, and they are marked as expired."""
    folder.add("ours", content, [])
    site_cookies = SiteCookies(folder)
    if not expired:
        assert site_cookies.get_text("ours", "acme", URL) == content
        return
    with pytest.raises(ReelhaulError) as failure:
        site_cookies.get_text("ours", "acme", URL)
    assert reason(failure) == "COOKIES_EXPIRED"
    assert failure.value.metadata == {"cookies": "ours", "host": "www.example.com"}
    assert [stored.refused for stored in folder.list()] == ["expired"]


def test_refused(folder: CookieFolder) -> None:
    """A login error marks the cookies as refused, until the site accepts them or they are replaced."""
    folder.add("ours", cookie_file(FUTURE), [])
    site_cookies = SiteCookies(folder)
    for cause in ("login", "age", "cookies"):
        failure = site_cookies.classify_cookie_failure("ours", URL, login_required(cause))
        assert failure is not None
        assert failure.reason == ErrorReason.COOKIES_REFUSED
        assert [stored.refused for stored in folder.list()] == ["sign in"]
        assert site_cookies.classify_cookie_failure("ours", URL, None) is None
        assert [stored.refused for stored in folder.list()] == [""]
    site_cookies.classify_cookie_failure("ours", URL, login_required("login"))
    folder.add("ours", cookie_file(FUTURE), [])
    assert [stored.refused for stored in folder.list()] == [""]
    for other in (
        login_required("private"),
        login_required("members"),
        ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "gone"),
    ):
        assert site_cookies.classify_cookie_failure("ours", URL, other) is other
    assert site_cookies.classify_cookie_failure("", URL, other := login_required("login")) is other


async def test_job_with_cookies(tmp_path: Path, folder: CookieFolder) -> None:
    """The cookies are in the engine's request, whose repr does not show them."""
    folder.add("ours", cookie_file(FUTURE), ["local"])
    harness = await run_job(tmp_path, folder, "ours")
    (request,) = harness.engine.requests
    assert isinstance(request, FetchRequest)
    assert request.cookies == cookie_file(FUTURE)
    assert VALUE not in repr(request)
    assert harness.outcome.HasField("succeeded")


async def test_job_with_cookies_of_another_tenant(tmp_path: Path, folder: CookieFolder) -> None:
    """The job fails at once, without a request to the site."""
    folder.add("theirs", cookie_file(FUTURE), ["other"])
    harness = await run_job(tmp_path, folder, "theirs")
    assert harness.engine.requests == []
    assert from_status(harness.outcome.failed.status).reason == ErrorReason.COOKIES_UNKNOWN


async def run_job(tmp_path: Path, folder: CookieFolder, cookies: str) -> WorkerHarness:
    """Run a job with *cookies*; return its worker's harness."""
    harness = WorkerHarness(tmp_path / "work")
    harness.access.cookies = SiteCookies(folder)
    harness.leases.specs[JOB].format.cookies = cookies
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    return harness


async def test_probe_with_cookies(folder: CookieFolder) -> None:
    """A result of a probe with cookies is cached only for callers who may use the same cookies."""
    folder.add("ours", cookie_file(FUTURE), ["local"])
    engine = FakeEngine()
    probes = ProbeCache(
        engine, SiteAccess(FakeGuard(), cookies=SiteCookies(folder)), lambda: datetime.now(UTC)
    )
    await probes.probe(ProbeQuery(URL, cookies="ours", tenant="local"))
    with pytest.raises(ReelhaulError) as failure:
        await probes.probe(ProbeQuery(URL, cookies="ours", tenant="other"))
    assert reason(failure) == "COOKIES_UNKNOWN"
    await probes.probe(ProbeQuery(URL))
    assert [isinstance(request, ProbeRequest) and request.cookies for request in engine.requests] == [
        cookie_file(FUTURE),
        "",
    ]


@pytest.mark.parametrize(("suite", "tenant"), [(True, "acme"), (False, "theirs")])
def test_tenant_of_a_probe(suite: bool, tenant: str) -> None:
    """Only a service of the suite may name a tenant; any other caller uses its own."""
    level = PermissionLevel.PERMISSION_LEVEL_READ_ONLY
    identity.set_caller(identity.Caller("theirs", level, suite=suite))
    request = ProbeMediaRequest(url=URL, tenant="acme", format=FormatSpec(cookies="ours"))
    assert to_probe_query(request).tenant == tenant
    assert to_probe_query(ProbeMediaRequest(url=URL, tenant="acme")).tenant == ""


def test_command_line(tmp_path: Path) -> None:
    """add, list and remove work, explain what is missing, and show no cookie value."""
    environment = {"REELHAUL_DATA_DIR": str(tmp_path), "REELHAUL_FETCHER_COOKIES_KEY": ""}

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(fetcher, ["cookies", *arguments], env=environment)
        assert result.exit_code == code, result.output
        assert VALUE not in result.output
        return result.output

    assert "REELHAUL_FETCHER_COOKIES_KEY" in run("list", code=1)
    environment["REELHAUL_FETCHER_COOKIES_KEY"] = run("key").strip()
    (tmp_path / "jar.txt").write_text(cookie_file(FUTURE, FUTURE + 86400))
    (tmp_path / "old.txt").write_text(cookie_file(PAST))
    assert run("add", "ours", str(tmp_path / "jar.txt")) == "ours: cookies for example.com\n"
    run("add", "old", str(tmp_path / "old.txt"), "--any-tenant")
    old, ours = run("list").splitlines()
    assert ours.split("\t") == ["ours", "example.com", "local", "until 2100-01-01 to 2100-01-02", "ok"]
    assert old.split("\t")[2:] == ["any tenant", "until 2020-01-01 to 2020-01-01", "expired"]
    (tmp_path / "wrong.txt").write_text(VALUE)
    assert "line 1" in run("add", "wrong", str(tmp_path / "wrong.txt"), code=1)
    run("remove", "old")
    assert "no cookies" in run("remove", "old", code=1)
    environment["REELHAUL_FETCHER_COOKIES_KEY"] = run("key").strip()
    assert "cannot be opened" in run("list")
    environment["REELHAUL_FETCHER_COOKIES_KEY"] = "no-key"
    assert "REELHAUL_FETCHER_COOKIES_KEY: each key must be" in run("list", code=2)


def test_expires_later(folder: CookieFolder) -> None:
    """Cookies that are valid today are rejected after their expiry."""
    folder.add("ours", cookie_file(FUTURE), [])
    later = datetime.fromtimestamp(FUTURE, UTC) + timedelta(seconds=1)
    with pytest.raises(ReelhaulError):
        SiteCookies(folder, lambda: later).get_text("ours", "acme", URL)
