"""Fixtures: Terraform, and a copy of deploy/terraform."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.terraform.terraform import Terraform, TerraformMissing, copy_source, find_terraform


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform with the provider of AWS; skips where either is missing."""
    try:
        return find_terraform(tmp_path_factory.mktemp("settings"))
    except TerraformMissing as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of deploy/terraform."""
    return copy_source(tmp_path_factory.mktemp("source"))
