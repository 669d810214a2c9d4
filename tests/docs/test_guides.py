"""README.md, the tutorial and the how-to guides: their commands run, in one suite, as a reader types them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.page import DOCS, read_blocks
from tests.docs.session import Session, open_session, run_page
from tests.servers import free_port
from tests.sites import media

ROOT = DOCS.parent
#: The pages, in the order in which they run. The first one starts the suite.
PAGES = (ROOT / "README.md", DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md")))

#: How many blocks of each page no test can run; the page states the reason of each.
SKIPPED = {
    "deploy-with-compose.md": 4,
    "difficult-sites.md": 2,
    "record-live.md": 2,
    "share-files.md": 1,
}
#: How many blocks of commands the other pages have, which no test of this folder runs: examples with names in
#: place of values, and what needs containers, a cluster, an account or another machine.
EXAMPLES = {
    "authentication.md": 1,
    "aws.md": 12,
    "backup.md": 1,
    "clients.md": 1,
    "containers.md": 8,
    "gateway.md": 1,
    "kubernetes.md": 14,
    "logs.md": 2,
    "monitoring.md": 3,
    "network.md": 1,
    "releasing.md": 4,
    "storage.md": 6,
    "systemd.md": 3,
    "tracing.md": 1,
    "webhooks.md": 1,
}
_SHELL_FENCE = re.compile(r"^ *```(?:sh|bash|console)\b", re.MULTILINE)
#: Data, not commands.
_DATA = frozenset({"text", "json"})


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A terminal in a fresh checkout, with the suite and the media site that the first pages start."""
    checkout = tmp_path_factory.mktemp("checkout")
    _link_checkout(checkout)
    replacements = {
        # It runs a suite of its own, on ports of its own, beside that of the page.
        "make demo": "env $(compgen -e | grep ^REELHAUL_ | sed 's/^/-u /') make demo",
        # One suite for all pages, with what each of them sets: see the settings below.
        "REELHAUL_FETCHER_ALLOW_NETWORKS=127.0.0.2/32 make up": "make up",
        "127.0.0.2:8090": f"127.0.0.2:{(port := free_port('127.0.0.2'))}",
        "--port 8090": f"--port {port}",
        "127.0.0.1:9000": f"127.0.0.1:{(receiver := free_port())}",
        '("127.0.0.1", 9000)': f'("127.0.0.1", {receiver})',
        "https://archive.org/details/BigBuckBunny_124": f"http://127.0.0.2:{port}/watch/demo",
    }
    settings = {
        "REELHAUL_JOBS_WEBHOOK_NETWORKS": "127.0.0.1/32",
        # The home folder of a session is its own; the media of the site are made once for all tests.
        "XDG_CACHE_HOME": str(media.user_cache().parents[1]),
    }
    with open_session(checkout, replacements, settings) as session:
        session.run(block for page in PAGES for block in read_blocks(page) if "once" in block.attributes)
        yield session


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_run_as_the_page_says(session: Session, page: Path) -> None:
    """Whoever pastes the blocks of the page, from top to bottom, into a new terminal sees what it says."""
    session.open_shell()
    run_page(page, session)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_block_is_run_or_counted(page: Path) -> None:
    """A block is run, written into a file, data, or one of the few that state why no test can run them."""
    blocks = read_blocks(page)
    assert SKIPPED.get(page.name, 0) == sum(block.is_skipped for block in blocks)
    assert [
        block.place
        for block in blocks
        if not (block.is_run or block.is_skipped or "file" in block.attributes or block.language in _DATA)
    ] == []


def test_examples_of_other_pages_are_counted() -> None:
    """A page of commands is one whose commands run: one more example elsewhere is a decision."""
    run = {*PAGES, DOCS / "operations.md"}
    counts = {
        page.relative_to(DOCS).as_posix(): len(_SHELL_FENCE.findall(page.read_text()))
        for page in sorted(DOCS.rglob("*.md"))
        # tests/observability checks the commands of runbooks.
        if page not in run and page.parent.name != "runbooks"
    }
    assert {page: count for page, count in counts.items() if count} == EXAMPLES


def _link_checkout(folder: Path) -> None:
    """Make *folder* look like the checkout, with the environment of this interpreter, without its data."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout.decode()
    names = {Path(name).parts[0] for name in listed.split("\0") if name}
    # An unpacked archive has no git.
    for name in names or {each for each in os.listdir(ROOT) if not each.startswith(".")} - {"data", "dist"}:
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
