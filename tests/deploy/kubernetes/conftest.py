"""Fixtures: the rendered overlays."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.kubernetes.rendering import (
    OVERLAYS,
    KubectlMissing,
    Resource,
    find_kubectl,
    render,
)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Resource]]:
    """The resources of each overlay."""
    try:
        kubectl = find_kubectl()
    except KubectlMissing as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("kubernetes")
    return {overlay: render(kubectl, overlay, folder) for overlay in OVERLAYS}
