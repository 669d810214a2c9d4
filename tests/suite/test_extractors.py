"""The list of supported sites over JSON."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from tests.suite.suite import Suite


def test_search_and_pages(suite: Suite) -> None:
    """A search finds an extractor by its name, and the second page continues the first."""

    def list_extractors(**query: str) -> dict[str, Any] | None:
        response = suite.http.get("/v1/extractors", params=query, timeout=30)
        # The first request loads all extractors and can time out on a busy machine.
        return response.json() if response.status_code == 200 else None

    matches = suite.wait_for("extractors", lambda: list_extractors(search="youtu.be"), seconds=60)
    assert {"name": "extractors/YoutubeYtBe", "displayName": "youtu.be"} in matches["extractors"]
    first = list_extractors(pageSize="2")
    assert first is not None
    assert len(first["extractors"]) == 2
    second = list_extractors(pageSize="2", pageToken=first["nextPageToken"])
    assert second is not None
    assert second["extractors"][0]["name"].casefold() > first["extractors"][1]["name"].casefold()


@pytest.mark.parametrize("name", ["youtube", "youtube:tab", "Bilibili category extractor"])
def test_get(suite: Suite, name: str) -> None:
    """An extractor is found by its name, which may contain colons and spaces."""

    def get() -> dict[str, Any] | None:
        response = suite.http.get(f"/v1/extractors/{quote(name, safe=':')}", timeout=30)
        return response.json() if response.status_code == 200 else None

    assert suite.wait_for("extractor", get, seconds=60)["name"] == f"extractors/{name}"


def test_unknown_extractor(suite: Suite) -> None:
    """An unknown extractor gets 404 with its reason."""
    response = suite.http.get("/v1/extractors/no-such-site", timeout=60)
    assert response.status_code == 404
    assert response.json()["details"][0]["reason"] == "RESOURCE_NOT_FOUND"
