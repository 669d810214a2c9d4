"""Cookies by name through the whole suite: they open what they are for, and show nowhere."""

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

_ROW = ".youtube.com\tTRUE\t/\tTRUE\t{ends}"
_LINE = f"{_ROW}\tLOGIN_INFO\t{{value}}\n{_ROW}\tSAPISID\tabc/def\n"
_VALUE = "a-session-of-ours"


def _error(suite: Suite, url: str, **wishes: Any) -> dict[str, Any]:
    last = wait_for_end(suite, create_download(suite, url, **wishes))
    assert "failed" in last, last
    told: dict[str, Any] = last["failed"]["error"]
    return told


def test_named_cookies(youtube: YouTube, tmp_path: Path) -> None:
    """A private video comes for who names cookies; expired and refused ones are told apart."""
    told = {
        "fetcher_upstream_proxy": youtube.proxy_url,
        "fetcher_ca_file": str(youtube.ca_file),
        "fetcher_cookies_key": Fernet.generate_key().decode(),
    }
    surroundings = {f"REELHAUL_{name.upper()}": value for name, value in told.items()}
    surroundings |= {"REELHAUL_DATA_DIR": str(tmp_path / "data")}

    def keep(*arguments: str, cookies: str = "") -> str:
        command = [sys.executable, "-m", "reelhaul_fetcher", "cookies", *arguments]
        done = subprocess.run(
            command, env={**os.environ, **surroundings}, input=cookies, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    keep("add", "ours", "-", cookies=_LINE.format(ends=4102444800, value=_VALUE))
    keep("add", "gone", "-", cookies=_LINE.format(ends=4102444800, value="expired"))
    keep("add", "old", "-", cookies=_LINE.format(ends=1577836800, value=_VALUE))
    keep("add", "theirs", "-", "--tenant", "acme", cookies=_LINE.format(ends=4102444800, value=_VALUE))
    url = youtube.watch_url("private")
    with running_suite(tmp_path / "data", **told) as suite:
        assert "completed" in wait_for_end(suite, create_download(suite, url, cookies="ours", quality="360p"))
        assert _error(suite, url)["reason"] == "MEDIA_LOGIN_REQUIRED"
        assert _error(suite, url, cookies="theirs")["reason"] == "COOKIES_UNKNOWN"
        expired = _error(suite, url, cookies="old")
        assert (expired["reason"], expired["retryable"]) == ("COOKIES_EXPIRED", False)
        assert suite.http.get("/api/v1/info", params={"url": url, "cookies": "ours"}).json()["title"]
        probed = suite.http.get("/api/v1/info", params={"url": url, "cookies": "old"}).json()
        assert probed["details"][0]["reason"] == "COOKIES_EXPIRED"
        refused = _error(suite, youtube.watch_url("private"), cookies="gone")
        assert refused["reason"] == "COOKIES_REFUSED"
        wrong = suite.http.post("/api/v1/download", json={"url": url, "cookies": "../ours"})
        assert wrong.status_code == 400
    listed = {line.split("\t")[0]: line.split("\t")[-1] for line in keep("list").splitlines()}
    assert listed["ours"] == "ok"
    assert listed["old"] == "refused: expired"
    assert listed["gone"].startswith("refused: ")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if _VALUE.encode() in path.read_bytes()]
