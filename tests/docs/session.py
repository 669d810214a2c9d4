"""Sessions: run the commands of a documentation page as its reader does, in a folder of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.docs.page import Block, matches, read_blocks, read_commands
from tests.servers import free_port, kill_group
from tests.suite.suite import SERVERS, SITE_NETWORK

_TIMEOUT = 90.0
_DRAIN_SECONDS = 25.0

# Variables and the working directory outlive a block, as in a terminal; functions do not.
_SHELL = """set -euo pipefail
SESSION_NAMES=$(compgen -v; echo SESSION_NAMES)
[ ! -e "$SESSION_STATE" ] || { . "$SESSION_STATE/variables"; cd "$(cat "$SESSION_STATE/folder")"; }
trap 'mkdir -p "$SESSION_STATE"
  names=$(compgen -v | grep -vxF "$SESSION_NAMES" | grep -v -e ^BASH_ -e ^names) || true
  { export -p; [ -z "$names" ] || declare -p $names 2> /dev/null || true; } > "$SESSION_STATE/variables"
  pwd > "$SESSION_STATE/folder"' EXIT
"""

#: Addresses of the services that pages name, which are the defaults; sessions use free ports instead.
_DEFAULT_ADDRESSES = {
    "gateway": "127.0.0.1:8080",
    "jobs": "127.0.0.1:50051",
    "fetcher": "127.0.0.1:50052",
    "storage": "127.0.0.1:50053",
    "storage_http": "127.0.0.1:50055",
    "gateway_metrics": "127.0.0.1:9180",
    "jobs_metrics": "127.0.0.1:9181",
    "fetcher_metrics": "127.0.0.1:9182",
    "storage_metrics": "127.0.0.1:9183",
}
# What `make` tells the programs that it runs would change what a page's own `make` does.
_VARIABLES_OF_MAKE = frozenset({"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES", "ARGS", "URL"})


class Session:
    """A terminal in *folder*, in which the commands of a page are run."""

    def __init__(
        self,
        folder: Path,
        replacements: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """*replacements*: text of the page, and what is run and expected instead.

        *settings*: REELHAUL_* settings by their full names, beside the addresses, which are free ports.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        addresses = {name: f"127.0.0.1:{free_port()}" for name in SERVERS}
        #: Address of the gateway: host:port.
        self.gateway = addresses["gateway"]
        used = {default: addresses[name] for name, default in _DEFAULT_ADDRESSES.items()}
        self._replacements = {**used, **(replacements or {})}
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("REELHAUL_") and name not in _VARIABLES_OF_MAKE
        }
        self._environment = {
            **inherited,
            "HOME": str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "SESSION_STATE": str(folder / ".session"),
            "REELHAUL_FETCHER_ALLOW_NETWORKS": SITE_NETWORK,
            **{f"REELHAUL_{name.upper()}_ADDRESS": address for name, address in addresses.items()},
            **(settings or {}),
        }
        self._background: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._started: set[str] = set()
        #: Blocks that were left out, with the programs that they lack.
        self.lacking: list[str] = []

    def run(self, blocks: Iterable[Block]) -> None:
        """Run *blocks* in their order. Fails the test with the place of the first that does otherwise."""
        for block in blocks:
            if "file" in block.attributes:
                path = self.folder / block.attributes["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._replace(block.text))
            elif block.is_run and self._has_programs(block):
                self._run_block(block)

    def open_shell(self) -> None:
        """Forget the variables and the working directory, as a new terminal; what was started runs on."""
        shutil.rmtree(self._environment["SESSION_STATE"], ignore_errors=True)

    def run_script(self, script: str) -> tuple[int, str]:
        """Run *script*; return its exit code and its output, both streams as a terminal shows them."""
        try:
            completed = subprocess.run(
                ["bash", "-c", _SHELL + self._replace(script)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            return 124, (expired.stdout or b"").decode(errors="replace") + f"(no end in {_TIMEOUT:.0f} s)"
        return completed.returncode, completed.stdout.decode(errors="replace")

    def close(self) -> None:
        """End what still runs in the background."""
        for process, _ in reversed(self._background):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_DRAIN_SECONDS)
            kill_group(process)

    def _run_block(self, block: Block) -> None:
        if "background" in block.attributes:
            self._start(block)
            return
        expected = int(block.attributes.get("exit", "0"))
        commands = read_commands(block) if block.language == "console" else None
        if commands is None:
            code, output = self.run_script(block.text)
            self._check(block, block.text, code == expected, f"exit code {code}, not {expected}", output)
            return
        for number, command in enumerate(commands, start=1):
            # The exit code is that of the last command.
            wanted = expected if number == len(commands) else 0
            code, output = self.run_script(command.script)
            self._check(block, command.script, code == wanted, f"exit code {code}, not {wanted}", output)
            pattern = tuple(map(self._replace, command.output))
            self._check(block, command.script, matches(output, pattern), "another output", output)

    def _start(self, block: Block) -> None:
        """Start *block*; return when its output contains what the block waits for.

        One that another page has started runs already, and is not started again.
        """
        if "once" in block.attributes:
            if (script := self._replace(block.text)) in self._started:
                return
            self._started.add(script)
        log = self.folder / f".background-{len(self._background)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", _SHELL.partition("trap")[0] + "exec env " + self._replace(block.text)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._background.append((process, log))
        # Reaped at once when it ends: a shell that waits for it sees its process id as long as it is not.
        threading.Thread(target=process.wait, daemon=True).start()
        end = time.monotonic() + _TIMEOUT
        while block.attributes.get("until", "") not in (text := log.read_text(errors="replace")):
            running = process.poll() is None and time.monotonic() < end
            self._check(block, block.text, running, "it ended, or did not become ready", text)
            time.sleep(0.05)

    def _has_programs(self, block: Block) -> bool:
        """Return whether the programs that *block* needs are installed; note it if they are not."""
        path = self._environment["PATH"]
        lacking = [
            name for name in block.attributes.get("needs", "").split() if not shutil.which(name, path=path)
        ]
        if lacking:
            self.lacking.append(f"{block.place} ({', '.join(lacking)})")
        return not lacking

    def _replace(self, text: str) -> str:
        for old, new in self._replacements.items():
            text = text.replace(old, new)
        return text

    def _check(self, block: Block, script: str, ok: bool, problem: str, output: str) -> None:
        if not ok:
            logs = "".join(
                f"\n--- {log.name}\n{log.read_text(errors='replace')[-4000:]}" for _, log in self._background
            )
            pytest.fail(f"{block.place}: {problem}\n$ {script}\n{output[-8000:]}{logs}", pytrace=False)


@contextmanager
def open_session(
    folder: Path, replacements: Mapping[str, str] | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[Session]:
    """Open a session in *folder*; what runs in its background is ended with the block."""
    session = Session(folder, replacements, settings)
    try:
        yield session
    finally:
        session.close()


def run_page(page: Path, session: Session) -> None:
    """Run all blocks of *page*; skip the test afterwards, by name, if programs were missing for some."""
    session.run(read_blocks(page))
    if session.lacking:
        pytest.skip(f"not run, because programs are missing: {'; '.join(session.lacking)}")
