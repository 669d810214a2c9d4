"""docs/clients.md: its Python, from top to bottom, against a suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.docs.page import DOCS, read_blocks
from tests.sites.site import Site
from tests.suite.suite import Suite, running_suite

from reelhaul.webhooks import SignatureInvalid

PAGE = DOCS / "clients.md"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    with running_suite(tmp_path_factory.mktemp("clients-page") / "data") as running:
        yield running


def test_page(
    suite: Suite,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every block of Python runs after those above it, and does what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REELHAUL_GATEWAY_ADDRESS", suite.address("gateway"))
    replacements = {
        "http://127.0.0.1:8080": suite.address("gateway"),
        "127.0.0.1:50051": suite.address("jobs"),
        "127.0.0.1:50053": suite.address("storage"),
        "http://127.0.0.2:8090": site.url("").rstrip("/"),
    }
    names: dict[str, Any] = {}
    blocks = read_blocks(PAGE)
    assert {block.language for block in blocks if not block.is_skipped} == {"python"}
    for block in blocks:
        if block.language == "python":
            text = block.text
            for old, new in replacements.items():
                text = text.replace(old, new)
            exec(compile(text, block.place, "exec"), names)
    output = capsys.readouterr().out
    for expected in ("'URL_INVALID'", "MEDIA_NOT_FOUND", "{'quality': ", "SUCCEEDED"):
        assert expected in output, output
    videos = {path.name for path in (tmp_path / "videos").iterdir()}
    assert any(" (2)." in name for name in videos)
    assert not any(name.endswith(".part") for name in videos)
    assert names["receive"]("whsec_aGVsbG8=", {}, b"") == 400
    with pytest.raises(SignatureInvalid):
        names["verify"]("whsec_aGVsbG8=", {}, b"")
