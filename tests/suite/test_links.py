"""Signed links of a suite on the local disk, and a gateway that redirects downloads to them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
from tests.sites.site import Site
from tests.suite.downloads import create_download, wait_for_end
from tests.suite.suite import running_suite


def test_links_survive_the_death_of_storage(site: Site, tmp_path: Path) -> None:
    """Downloads lead to storage's own port; a link works again once a killed storage was restarted."""
    with running_suite(tmp_path / "data", gateway_downloads="redirect") as suite:
        job = create_download(suite, site.url("/watch/demo"), quality="360p", format="mp4")
        (file,) = wait_for_end(suite, job)["completed"]["files"]
        redirect = suite.http.get(file["url"])
        assert redirect.status_code == 307
        link = redirect.headers["location"]
        with httpx.Client(trust_env=False, timeout=10) as client:
            assert hashlib.sha256(client.get(link).content).hexdigest() == file["sha256"]
            suite.wait_for_restart("storage", suite.kill("storage"))

            def get() -> bytes:
                try:
                    return client.get(link).raise_for_status().content
                except httpx.TransportError:
                    return b""  # it does not listen yet

            content = suite.wait_for("link after the restart", get)
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert (
            hashlib.sha256(suite.http.get(f"{file['url']}?redirect=false").content).hexdigest()
            == file["sha256"]
        )
        assert "signature=" not in suite.log.read_text()
