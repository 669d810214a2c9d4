"""Cookies by name: sealed at rest, given to whom they are for, and told of when they are of no use."""

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
LONG = int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())
PAST = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())


def text(*ends: int, domain: str = ".example.com") -> str:
    """A cookie file with a cookie for each of *ends*."""
    lines = [f"{domain}\tTRUE\t/\tTRUE\t{end}\tSID{n}\t{VALUE}" for n, end in enumerate(ends)]
    return "\n".join(["# Netscape HTTP Cookie File", "", *lines, ""])


def login(cause: str) -> ReelhaulError:
    return ReelhaulError(ErrorReason.MEDIA_LOGIN_REQUIRED, "sign in", metadata={"cause": cause})


@pytest.fixture
def folder(tmp_path: Path) -> CookieFolder:
    return CookieFolder(tmp_path / "cookies", [KEY])


def reason(failure: pytest.ExceptionInfo[ReelhaulError]) -> str:
    return ErrorReason.Name(failure.value.reason)


def test_sealed_at_rest(folder: CookieFolder, tmp_path: Path) -> None:
    """On disk nothing of them can be read, and by nobody else; with the key they are as they were."""
    folder.add("ours", text(LONG), ["acme"])
    (file,) = (tmp_path / "cookies").iterdir()
    assert VALUE.encode() not in file.read_bytes()
    assert b"example" not in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    jar = folder.get("ours", "acme")
    assert jar.text == text(LONG)
    assert VALUE not in repr(jar)


def test_whose_they_are(folder: CookieFolder) -> None:
    """Another tenant hears the same as of a name that there is not; names lead to no other file."""
    folder.add("ours", text(LONG), ["acme"])
    folder.add("all", text(LONG), [])
    told = set()
    for name, tenant in (("ours", "other"), ("none", "other")):
        with pytest.raises(ReelhaulError) as failure:
            folder.get(name, tenant)
        assert reason(failure) == "COOKIES_UNKNOWN"
        told.add(failure.value.text.replace(name, ""))
    assert len(told) == 1
    assert folder.get("all", "other").text
    for name in ("../ours", "OURS", "", "a" * 64, "ours\n"):
        with pytest.raises(ReelhaulError):
            folder.get(name, "acme")
        with pytest.raises(ValueError, match="a name"):
            folder.add(name, text(LONG), [])


def test_keys(folder: CookieFolder, tmp_path: Path) -> None:
    """Another key opens nothing; a new one in front of the old opens all; a renamed file is no other's."""
    folder.add("ours", text(LONG), [])
    fresh = Fernet.generate_key().decode()
    stranger = CookieFolder(tmp_path / "cookies", [fresh])
    with pytest.raises(ReelhaulError):
        stranger.get("ours", "acme")
    assert [kept.jar for kept in stranger.list()] == [None]
    both = CookieFolder(tmp_path / "cookies", [fresh, KEY])
    assert both.get("ours", "acme").text == text(LONG)
    both.add("ours", text(LONG, LONG), [])
    assert stranger.get("ours", "acme").text == text(LONG, LONG)
    (tmp_path / "cookies/ours.cookies").rename(tmp_path / "cookies/theirs.cookies")
    with pytest.raises(ReelhaulError):
        both.get("theirs", "acme")
    with pytest.raises(ValueError, match="base64") as failure:
        CookieFolder(tmp_path, ["a-secret-that-is-no-key"])
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    "wrong", ["", "# Netscape\n", f"{VALUE}\n", f"a\tb\tc\td\tx{VALUE}\tf\tg\n", text(LONG) + "#" * MAX_BYTES]
)
def test_what_is_no_cookie_file(folder: CookieFolder, wrong: str) -> None:
    """It is refused when it is added, in words that show none of it."""
    with pytest.raises(ValueError, match=r".") as failure:
        folder.add("ours", wrong, [])
    assert VALUE not in str(failure.value)
    assert folder.list() == []


def test_first_line(folder: CookieFolder) -> None:
    """Files without the line that the form begins with are completed: some readers insist on it."""
    bare = text(LONG).partition("\n\n")[2]
    for given in (bare, "\ufeff" + text(LONG)):
        assert folder.add("ours", given, []).text.startswith("# Netscape HTTP Cookie File\n")


def test_what_is_read() -> None:
    """HttpOnly lines count, years beyond the calendar too; 0 is the end of a session."""
    found = parse(
        f"#HttpOnly_.a.example\tTRUE\t/\tTRUE\t{10**14}\tn\tv\nb.example\tFALSE\t/\tTRUE\t0\tn\tv\n"
    )
    assert [cookie.matches_host("www.a.example") for cookie in found] == [True, False]
    assert [cookie.matches_host("a.example") for cookie in found] == [True, False]
    assert [cookie.matches_host("www.b.example") for cookie in found] == [False, False]
    assert [cookie.expires is None for cookie in found] == [False, True]


@pytest.mark.parametrize(
    ("kept", "expired"),
    [
        (text(PAST), True),
        (text(PAST, PAST), True),
        (text(PAST, LONG), False),
        (text(PAST, 0), False),
        (text(PAST, domain=".other.example"), False),
    ],
)
def test_expired(folder: CookieFolder, kept: str, expired: bool) -> None:
    """Where all cookies for the site have expired it is not asked at all; and that is remembered."""
    folder.add("ours", kept, [])
    sign_in = SiteCookies(folder)
    if not expired:
        assert sign_in.get_text("ours", "acme", URL) == kept
        return
    with pytest.raises(ReelhaulError) as failure:
        sign_in.get_text("ours", "acme", URL)
    assert reason(failure) == "COOKIES_EXPIRED"
    assert failure.value.metadata == {"cookies": "ours", "host": "www.example.com"}
    assert [kept.refused for kept in folder.list()] == ["expired"]


def test_refused(folder: CookieFolder) -> None:
    """A site that wants a sign-in all the same refuses them: known until it takes them, or others come."""
    folder.add("ours", text(LONG), [])
    sign_in = SiteCookies(folder)
    for cause in ("login", "age", "cookies"):
        told = sign_in.classify_cookie_failure("ours", URL, login(cause))
        assert told is not None
        assert told.reason == ErrorReason.COOKIES_REFUSED
        assert [kept.refused for kept in folder.list()] == ["sign in"]
        assert sign_in.classify_cookie_failure("ours", URL, None) is None
        assert [kept.refused for kept in folder.list()] == [""]
    sign_in.classify_cookie_failure("ours", URL, login("login"))
    folder.add("ours", text(LONG), [])
    assert [kept.refused for kept in folder.list()] == [""]
    for failure in (login("private"), login("members"), ReelhaulError(ErrorReason.MEDIA_NOT_FOUND, "gone")):
        assert sign_in.classify_cookie_failure("ours", URL, failure) is failure
    assert sign_in.classify_cookie_failure("", URL, plain := login("login")) is plain


async def test_a_job_with_cookies(tmp_path: Path, folder: CookieFolder) -> None:
    """A fetch gets its copy in its order, which does not show it; its folder never has one."""
    folder.add("ours", text(LONG), ["local"])
    harness = await worked(tmp_path, folder, "ours")
    (order,) = harness.engine.requests
    assert isinstance(order, FetchRequest)
    assert order.cookies == text(LONG)
    assert VALUE not in repr(order)
    assert harness.outcome.HasField("succeeded")


async def test_a_job_without_a_right_to_them(tmp_path: Path, folder: CookieFolder) -> None:
    """It fails at once, and the site is not asked."""
    folder.add("theirs", text(LONG), ["other"])
    harness = await worked(tmp_path, folder, "theirs")
    assert harness.engine.requests == []
    assert from_status(harness.outcome.failed.status).reason == ErrorReason.COOKIES_UNKNOWN


async def worked(tmp_path: Path, folder: CookieFolder, cookies: str) -> WorkerHarness:
    """A worker that has done a job with those *cookies*."""
    harness = WorkerHarness(tmp_path / "work")
    harness.access.cookies = SiteCookies(folder)
    harness.leases.specs[JOB].format.cookies = cookies
    async with harness.running():
        harness.enqueue()
        await harness.wait_logged("ack")
    return harness


async def test_a_probe_with_cookies(folder: CookieFolder) -> None:
    """An answer that cookies opened is kept for those who have the same ones only."""
    folder.add("ours", text(LONG), ["local"])
    engine = FakeEngine()
    probing = ProbeCache(
        engine, SiteAccess(FakeGuard(), cookies=SiteCookies(folder)), lambda: datetime.now(UTC)
    )
    await probing.probe(ProbeQuery(URL, cookies="ours", tenant="local"))
    with pytest.raises(ReelhaulError) as failure:
        await probing.probe(ProbeQuery(URL, cookies="ours", tenant="other"))
    assert reason(failure) == "COOKIES_UNKNOWN"
    await probing.probe(ProbeQuery(URL))
    assert [isinstance(order, ProbeRequest) and order.cookies for order in engine.requests] == [
        text(LONG),
        "",
    ]


@pytest.mark.parametrize(("suite", "tenant"), [(True, "acme"), (False, "theirs")])
def test_whose_probe_it_is(suite: bool, tenant: str) -> None:
    """Only a service of ours may speak for a tenant; everyone else speaks for their own."""
    level = PermissionLevel.PERMISSION_LEVEL_READ_ONLY
    identity.set_caller(identity.Caller("theirs", level, suite=suite))
    asked = ProbeMediaRequest(url=URL, tenant="acme", format=FormatSpec(cookies="ours"))
    assert to_probe_query(asked).tenant == tenant
    assert to_probe_query(ProbeMediaRequest(url=URL, tenant="acme")).tenant == ""


def test_command_line(tmp_path: Path) -> None:
    """add, list and remove, with words for what is missing; nothing shows a value."""
    told = {"REELHAUL_DATA_DIR": str(tmp_path), "REELHAUL_FETCHER_COOKIES_KEY": ""}

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(fetcher, ["cookies", *arguments], env=told)
        assert done.exit_code == code, done.output
        assert VALUE not in done.output
        return done.output

    assert "REELHAUL_FETCHER_COOKIES_KEY" in run("list", code=1)
    told["REELHAUL_FETCHER_COOKIES_KEY"] = run("key").strip()
    (tmp_path / "jar.txt").write_text(text(LONG, LONG + 86400))
    (tmp_path / "old.txt").write_text(text(PAST))
    assert run("add", "ours", str(tmp_path / "jar.txt")) == "ours: cookies for example.com\n"
    run("add", "old", str(tmp_path / "old.txt"), "--any-tenant")
    old, ours = run("list").splitlines()
    assert ours.split("\t") == ["ours", "example.com", "local", "until 2100-01-01 to 2100-01-02", "ok"]
    assert old.split("\t")[2:] == ["any tenant", "until 2020-01-01 to 2020-01-01", "expired"]
    (tmp_path / "wrong.txt").write_text(VALUE)
    assert "line 1" in run("add", "wrong", str(tmp_path / "wrong.txt"), code=1)
    run("remove", "old")
    assert "no cookies" in run("remove", "old", code=1)
    told["REELHAUL_FETCHER_COOKIES_KEY"] = run("key").strip()
    assert "cannot be opened" in run("list")
    told["REELHAUL_FETCHER_COOKIES_KEY"] = "no-key"
    assert "base64" in run("list", code=1)


def test_time_passes(folder: CookieFolder) -> None:
    """What is good today is expired when its time has come."""
    folder.add("ours", text(LONG), [])
    later = datetime.fromtimestamp(LONG, UTC) + timedelta(seconds=1)
    with pytest.raises(ReelhaulError):
        SiteCookies(folder, lambda: later).get_text("ours", "acme", URL)
