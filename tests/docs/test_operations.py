"""docs/operations.md: every command in it runs, in the order of the page."""

from __future__ import annotations

from pathlib import Path

from tests.docs.page import DOCS
from tests.docs.session import open_session, run_page
from tests.sites.site import Site


def test_every_command_of_the_operations_page_runs(site: Site, tmp_path: Path) -> None:
    """Whoever types the commands of the page, in its order, sees what it says."""
    with open_session(
        tmp_path / "home", {"https://videos.example/watch": site.url("/watch/demo")}
    ) as session:
        run_page(DOCS / "operations.md", session)
