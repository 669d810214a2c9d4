"""The transcoder as a distribution of its own."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_reflection.v1alpha import reflection
from tests.libs import lab

import reelhaul_transcoding

_FOLDER = Path(reelhaul_transcoding.__file__).parent
#: The modules that each requirement of the distribution provides.
_PROVIDES = {
    "googleapis-common-protos": {"google"},
    "grpcio": {"grpc"},
    "grpcio-reflection": {"grpc_reflection"},
    "orjson": {"orjson"},
    "protobuf": {"google"},
    "pyyaml": {"yaml"},
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the folder of the library alone."""
    folder = tmp_path_factory.mktemp("package") / "source"
    shutil.copytree(_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel"], cwd=folder, check=True)
    (built,) = (folder / "dist").iterdir()
    return built


def test_wheel_holds_every_module_and_nothing_else(wheel) -> None:
    """What is importable here is importable where the wheel is installed, with its types."""
    with zipfile.ZipFile(wheel) as archive:
        installed = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {path.relative_to(_FOLDER.parent).as_posix() for path in _FOLDER.rglob("*.py")}
    assert installed == {m for m in modules if "/examples/" not in m} | {"reelhaul_transcoding/py.typed"}


def test_wheel_requires_what_it_imports(wheel) -> None:
    """Every import of a third-party module is of a requirement, and every requirement is imported."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        required = {
            line.removeprefix("Requires-Dist: ").split(">=")[0]
            for line in archive.read(metadata).decode().splitlines()
            if line.startswith("Requires-Dist: ")
        }
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".py")]
    imported = set().union(*map(_imported_modules, sources)) - set(sys.stdlib_module_names)
    assert required == _PROVIDES.keys()
    assert imported - {"reelhaul_transcoding"} == set().union(*_PROVIDES.values())


@pytest.fixture
def echo_server() -> Iterator[str]:
    """The address of a server with reflection, whose GetFoo answers with its request."""
    handlers = {"GetFoo": grpc.unary_unary_rpc_method_handler(lambda request, context: request)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_registered_method_handlers("lab.v1.Lab", handlers)
    reflection.enable_server_reflection([lab.service().full_name, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@contextmanager
def running_example(arguments: list[str], target: str) -> Iterator[httpx.Client]:
    """Run an example until the block exits; yields a client of it."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=_FOLDER / "examples",
        env={**os.environ, "TARGET": target, "PYTHONDONTWRITEBYTECODE": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        url = next(match[0] for line in process.stderr if (match := re.search(r"http://[0-9.:]+", line)))
        with httpx.Client(base_url=url, trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.communicate()


def test_example_serves_any_server(echo_server) -> None:
    """The server's annotations are found by reflection, without generated code."""
    with running_example(["serve.py", echo_server, "0"], echo_server) as client:
        assert client.get("/foo", params={"i": 7}).json() == {"i": 7}


def test_example_mounts_a_server_in_a_fastapi_application(echo_server) -> None:
    """The prefix of the mount is no part of the paths of the annotations; other routes stay FastAPI's."""
    with running_example(["-m", "uvicorn", "mount:app", "--port", "0"], echo_server) as client:
        assert client.get("/about").json() == {"server": echo_server}
        assert client.get("/api/foo", params={"i": 7}).json() == {"i": 7}
        assert client.get("/foo").status_code == 404


def _imported_modules(source: bytes) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
