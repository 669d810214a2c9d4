"""The sites that the engine reads, as a JSON caller asks for them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from tests.suite.suite import Suite


def test_search_and_pages(suite: Suite) -> None:
    """A search finds an extractor by its name; pages follow one another until the last."""

    def listed(**asked: str) -> dict[str, Any] | None:
        answer = suite.http.get("/v1/extractors", params=asked, timeout=30)
        # The first who asks may have to wait for a busy machine.
        return answer.json() if answer.status_code == 200 else None

    found = suite.wait_for("sites", lambda: listed(search="youtu.be"), seconds=60)
    assert {"name": "extractors/YoutubeYtBe", "displayName": "youtu.be"} in found["extractors"]
    first = listed(pageSize="2")
    assert first is not None
    assert len(first["extractors"]) == 2
    second = listed(pageSize="2", pageToken=first["nextPageToken"])
    assert second is not None
    assert second["extractors"][0]["name"].casefold() > first["extractors"][1]["name"].casefold()


@pytest.mark.parametrize("name", ["youtube", "youtube:tab", "Bilibili category extractor"])
def test_one_by_its_name(suite: Suite, name: str) -> None:
    """Names with colons and spaces are read as they stand in the list."""

    def read() -> dict[str, Any] | None:
        answer = suite.http.get(f"/v1/extractors/{quote(name, safe=':')}", timeout=30)
        return answer.json() if answer.status_code == 200 else None

    assert suite.wait_for("site", read, seconds=60)["name"] == f"extractors/{name}"


def test_no_such_site(suite: Suite) -> None:
    """What the engine does not know is 404, by its reason."""
    answer = suite.http.get("/v1/extractors/no-such-site", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["details"][0]["reason"] == "RESOURCE_NOT_FOUND"
