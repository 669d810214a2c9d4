"""Named cookies: they give access to private videos and appear in no file in plain text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from tests.sites.youtube.site import YouTube
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import Suite, running_suite

_ROW = ".youtube.com\tTRUE\t/\tTRUE\t{expires}"
_COOKIES = f"{_ROW}\tLOGIN_INFO\t{{value}}\n{_ROW}\tSAPISID\tabc/def\n"
_SECRET = "a-session-of-ours"
_FUTURE, _PAST = 4102444800, 1577836800


def _download_error(suite: Suite, url: str, **options: Any) -> dict[str, Any]:
    last = wait_for_end(suite, create_download(suite, url, **options))
    assert "failed" in last, last
    error: dict[str, Any] = last["failed"]["error"]
    return error


def test_named_cookies(youtube: YouTube, tmp_path: Path) -> None:
    """Valid cookies download a private video; unknown, expired and refused ones fail with their reasons."""
    settings = {
        "fetcher_upstream_proxy": youtube.proxy_url,
        "fetcher_ca_file": str(youtube.ca_file),
        "fetcher_cookies_key": Fernet.generate_key().decode(),
    }
    environment = {f"REELHAUL_{name.upper()}": value for name, value in settings.items()}
    environment |= {"REELHAUL_DATA_DIR": str(tmp_path / "data")}

    def run_cookies(*arguments: str, cookies: str = "") -> str:
        command = [sys.executable, "-m", "reelhaul_fetcher", "cookies", *arguments]
        result = subprocess.run(
            command, env={**os.environ, **environment}, input=cookies, text=True, capture_output=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    valid = _COOKIES.format(expires=_FUTURE, value=_SECRET)
    run_cookies("add", "ours", "-", cookies=valid)
    run_cookies("add", "gone", "-", cookies=_COOKIES.format(expires=_FUTURE, value="expired"))
    run_cookies("add", "old", "-", cookies=_COOKIES.format(expires=_PAST, value=_SECRET))
    run_cookies("add", "theirs", "-", "--tenant", "acme", cookies=valid)
    url = youtube.watch_url("private")
    with running_suite(tmp_path / "data", **settings) as suite:
        job = create_download(suite, url, cookies="ours", quality="360p")
        assert "completed" in wait_for_end(suite, job)
        assert _download_error(suite, url)["reason"] == "MEDIA_LOGIN_REQUIRED"
        assert _download_error(suite, url, cookies="theirs")["reason"] == "COOKIES_UNKNOWN"
        expired = _download_error(suite, url, cookies="old")
        assert (expired["reason"], expired["retryable"]) == ("COOKIES_EXPIRED", False)
        assert suite.http.get("/api/v1/info", params={"url": url, "cookies": "ours"}).json()["title"]
        probe = suite.http.get("/api/v1/info", params={"url": url, "cookies": "old"}).json()
        assert probe["details"][0]["reason"] == "COOKIES_EXPIRED"
        refused = _download_error(suite, youtube.watch_url("private"), cookies="gone")
        assert refused["reason"] == "COOKIES_REFUSED"
        invalid = suite.http.post("/api/v1/download", json={"url": url, "cookies": "../ours"})
        assert invalid.status_code == 400
    statuses = {line.split("\t")[0]: line.split("\t")[-1] for line in run_cookies("list").splitlines()}
    assert statuses["ours"] == "ok"
    assert statuses["old"] == "refused: expired"
    assert statuses["gone"].startswith("refused: ")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if _SECRET.encode() in path.read_bytes()]
