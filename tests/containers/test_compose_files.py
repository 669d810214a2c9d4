"""What compose.yaml promises, read from the file: confinement, networks and secrets."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.containers.images import ROOT, STAND_INS

from reelhaul_runtime.service import settings_classes
from reelhaul_runtime.setting_names import variable_names

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CREATE_SECRETS = ROOT / "deploy/compose/create_secrets.sh"


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str):
    """No container can write its root file system, has a capability, or may use all memory or processes."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"] <= 1024
    assert "privileged" not in service
    assert not [volume for volume in service.get("volumes", ()) if "docker.sock" in volume]


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_unless_asked_otherwise(name: str):
    """Nothing listens beyond this machine by default."""
    for port in SERVICES[name].get("ports", ()):
        assert re.match(r"(\$\{\w+:-)?127\.0\.0\.1:", port), port


def test_fetchers_reach_sites_and_no_database():
    """Fetchers have a way out of their own; databases, broker and objects are in networks without one."""
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    internal = {name for name, options in COMPOSE["networks"].items() if options and options.get("internal")}
    assert networks["fetcher"] == {"control", "objects", "egress"}
    assert internal == {"control", "data", "objects"}
    assert networks["postgres"] == {"data"}
    assert {name for name, members in networks.items() if "egress" in members} == {"fetcher", "all-in-one"}
    assert not networks["fetcher"] & networks["postgres"]
    assert "secrets" not in SERVICES["fetcher"] or not {
        "jobs_database_url",
        "storage_database_url",
        "aws_credentials",
        "postgres_password",
    } & set(SERVICES["fetcher"]["secrets"])


@pytest.mark.parametrize("name", ["gateway", "jobs", "fetcher", "storage", "migrate"])
def test_settings_of_services_exist(name: str):
    """Each REELHAUL_* in compose.yaml is a setting; services refuse to start with an unknown one."""
    known = {variable for settings in settings_classes() for variable in variable_names(settings)}
    for variable in SERVICES[name]["environment"]:
        if variable.startswith("REELHAUL_"):
            assert variable in known or variable.removesuffix("_FILE") in known, variable


def test_secrets_are_created_once_and_are_the_owners(tmp_path: Path):
    """The script creates each secret that compose.yaml names, in a folder for its owner, and keeps it."""
    folder = tmp_path / "secrets"
    subprocess.run([CREATE_SECRETS, folder], check=True, capture_output=True)
    created = {file.name: file.read_text() for file in folder.iterdir()}
    named = {re.sub(r"^.*/", "", secret["file"]) for secret in COMPOSE["secrets"].values()}
    assert set(created) == named
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o444}
    assert created["postgres_password"] in created["jobs_database_url"]
    again = subprocess.run([CREATE_SECRETS, folder], check=True, capture_output=True, text=True)
    assert again.stdout == ""
    assert {file.name: file.read_text() for file in folder.iterdir()} == created


def test_secrets_are_in_no_variable():
    """No container gets a secret by its environment, which `docker inspect` shows."""
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            if re.search(
                r"TOKEN|PASSWORD|SECRET|_KEYS?$|DATABASE_URL|NATS_URL", variable.removesuffix("_FILE")
            ):
                assert str(value).startswith("/run/secrets/"), f"{name} {variable}"


def test_ci_replaces_images_and_nothing_else():
    """What CI runs differs from what operators run by the images that no package registry has."""
    services = yaml.safe_load((ROOT / "compose.ci.yaml").read_text())["services"]
    assert services == {name: {"image": f"reelhaul-ci/{name}"} for name in STAND_INS}
