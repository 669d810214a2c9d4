"""Terraform with the real provider of AWS, run on copies of deploy/terraform."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "deploy/terraform"
ENVIRONMENTS = ("account", "staging", "production")
#: Folders that may have the provider: what the variable names, and where Terraform looks by itself.
_MIRRORS = (
    os.environ.get("TF_PLUGIN_MIRROR", ""),
    "/opt/tf-plugins",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
    str(Path.home() / ".terraform.d/plugins"),
)
_PROVIDER = "registry.terraform.io/hashicorp/aws"
_MIN_PROVIDER = (5, 100)
_MIN_TERRAFORM = (1, 11)
_SECONDS = 900


class TerraformMissing(Exception):
    """Terraform or its provider is not on this machine; the message says what to do."""


@dataclass(frozen=True)
class Terraform:
    """The program, and the variables that it runs with."""

    program: str
    environment: dict[str, str] = field(repr=False)

    def run(self, folder: Path, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> str:
        """Run a command in *folder*; return its output. Raises AssertionError if it fails."""
        done = subprocess.run(
            [self.program, *arguments],
            cwd=folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode in exit_codes, f"terraform {' '.join(arguments)}:\n{done.stdout[-6000:]}"
        return done.stdout


def find_terraform(folder: Path) -> Terraform:
    """Return Terraform with the provider of a mirror; *folder* gets its settings. Raises TerraformMissing."""
    if not (program := shutil.which("terraform")):
        raise TerraformMissing("terraform is missing: install Terraform 1.11 or later")
    _check_version(program)
    settings = folder / "settings.tfrc"
    settings.write_text(
        f'provider_installation {{\n  filesystem_mirror {{\n    path = "{_find_mirror()}"\n  }}\n}}\n'
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TF_"))},
        "TF_CLI_CONFIG_FILE": str(settings),
        "TF_IN_AUTOMATION": "1",
        "TF_CLI_ARGS": "-no-color",
        "CHECKPOINT_DISABLE": "1",
        # No profile of this machine, and no metadata service.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    return Terraform(program, environment)


def _check_version(program: str) -> None:
    version = subprocess.run(
        [program, "version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    found = re.search(r"v(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < _MIN_TERRAFORM:
        raise TerraformMissing(
            f"{version.splitlines()[0]} is too old: 1.11 or later knows write-only arguments"
        )


def _find_mirror() -> str:
    for mirror in filter(None, _MIRRORS):
        for version in Path(mirror, _PROVIDER).glob("[0-9]*"):
            if tuple(int(part) for part in version.name.split(".")[:2]) >= _MIN_PROVIDER:
                return mirror
    raise TerraformMissing(
        "Terraform's provider of AWS is missing: name a folder with registry.terraform.io/hashicorp/aws, "
        "5.100 or later, in TF_PLUGIN_MIRROR (`terraform providers mirror FOLDER` fills one)"
    )


def copy_source(folder: Path) -> Path:
    """Copy deploy/terraform into *folder*, with a key of links for each environment; return the copy."""
    copy = folder / "terraform"
    ignored = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfvars", "*.auto.tfvars.json", "*.pem")
    shutil.copytree(SOURCE, copy, ignore=ignored)
    for environment in ("staging", "production"):
        (copy / "environments" / environment / "link.pub.pem").write_text(_PUBLIC_KEY)
    return copy


# Of a key that nobody has.
_PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAw5j0C9hP5HA0yH601GsD
abJQyCN6x3TnfAMrRd2jBTHo8ogPFsjXcBQBRH+hsduHLwSOW1IEh4eIkYiLCE0i
B/xjKXEcMd0Jv9dwkGjkpe1OTWsxqoaGzpolxNIi8o1W19uHznlIdQjserLy+SUO
qPSsn1lGJ6sMnKVmCeM2ll7dGk7nHUCMcwM+lQ1qLm5XuzYtcl8ZCQHWwDZT8Doa
KwONOSr9Txi5Q9isTcfgnLr2nNgUm1cLcVXR7tM++NALWp/tjKc+kI6soimUdA2m
zsjg+Q2+wzR6ac+bwn6z+crXkoH7KFVhtCyNj2D6DiKQJbE+rfC1hNWK2DIUl0Dn
MwIDAQAB
-----END PUBLIC KEY-----
"""
