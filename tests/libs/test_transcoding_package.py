"""The transcoder as a distribution of its own."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from tests.libs import lab

import reelhaul_transcoding
from reelhaul_transcoding import Transcoder

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


async def test_transcoder_is_served_below_a_path_of_a_fastapi_application() -> None:
    """The prefix of the mount is no part of the paths that the annotations give."""
    app = FastAPI()
    app.mount("/grpc", Transcoder([(lab.service(), lab.EchoUpstream())]))

    @app.get("/about")
    async def about() -> dict[str, str]:
        return {"name": "lab"}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://lab") as client:
        assert (await client.get("/about")).json() == {"name": "lab"}
        response = await client.post("/grpc/v1/all/a%2Fb", json={"i32": 7})
        assert response.json() == {"s": "a/b", "i32": 7}
        assert (await client.post("/v1/all/a", json={})).status_code == 404


def _imported_modules(source: bytes) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
