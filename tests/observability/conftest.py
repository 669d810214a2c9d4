"""Programs of Prometheus, which come from Debian packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import debian_packages


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of prometheus, promtool, prometheus-alertmanager and amtool; skips where there is none."""
    try:
        folder = debian_packages.unpack("prometheus", "prometheus-alertmanager", dependencies=False)
    except debian_packages.Missing as error:
        pytest.skip(f"Prometheus and Alertmanager are missing, alerts stay untested: {error}")
    return folder / "usr/bin"
