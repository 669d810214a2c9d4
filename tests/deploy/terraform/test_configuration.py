"""The environments are formatted and valid for the real provider, and `terraform test` passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.deploy.terraform.terraform import ENVIRONMENTS, SOURCE, Terraform

MODULES_WITH_TESTS = sorted(each.parents[1].name for each in SOURCE.glob("modules/*/tests/*.tftest.hcl"))

pytestmark = [pytest.mark.deployment, pytest.mark.timeout(900)]


def test_files_are_formatted(terraform: Terraform):
    """`terraform fmt` has nothing to change."""
    assert terraform.run(SOURCE, "fmt", "-check", "-recursive", "-diff") == ""


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_environment_is_valid(environment: str, terraform: Terraform, copy: Path):
    """The provider knows every resource and argument of an environment, and none is missing."""
    folder = copy / "environments" / environment
    terraform.run(folder, "init", "-backend=false")
    assert "The configuration is valid." in terraform.run(folder, "validate")


@pytest.mark.parametrize("module", MODULES_WITH_TESTS)
def test_plans_are_as_promised(module: str, terraform: Terraform, copy: Path):
    """`terraform test` of a module passes: its plans, with a provider that is simulated."""
    folder = copy / "modules" / module
    terraform.run(folder, "init", "-backend=false")
    output = terraform.run(folder, "test")
    assert ", 0 failed." in output, output
