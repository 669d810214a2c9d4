"""What every proto owes its readers: comments, policies, routes of their own, fresh code."""

from __future__ import annotations

import importlib.resources
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2

from reelhaul.type.v1 import method_policy_pb2
from reelhaul.type.v1.error_reason_pb2 import ErrorReason
from reelhaul_gateway.transcoding import list_routes
from reelhaul_runtime.errors import error_spec

ROOT = Path(__file__).parents[2]
ROUTES = Path(__file__).with_name("routes.txt")
_SERVICE, _METHOD = 6, 2


def protoc(*options: str) -> None:
    """Run protoc over all our protos, with the plugins that the Makefile names."""
    google = Path(str(importlib.resources.files("google.rpc").joinpath("status.proto"))).parents[2]
    here = Path(sys.executable).parent
    plugins = [f"--plugin=protoc-gen-{name}={here}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")]
    sources = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}/protos", f"-I{google}"]
    subprocess.run([*command, *plugins, *options, *sources], check=True, timeout=60)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[descriptor_pb2.FileDescriptorProto]:
    """Our protos as protoc reads them, comments and all."""
    image = tmp_path_factory.mktemp("protos") / "image.binpb"
    protoc("--include_source_info", f"--descriptor_set_out={image}")
    return list(descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file)


def methods(
    files: list[descriptor_pb2.FileDescriptorProto],
) -> Iterator[tuple[str, descriptor_pb2.MethodDescriptorProto, str]]:
    """Every RPC: ``Service.Method``, itself, and its comment."""
    for file in files:
        comments = {tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location}
        for place, service in enumerate(file.service):
            for number, method in enumerate(service.method):
                comment = comments.get((_SERVICE, place, _METHOD, number), "")
                yield f"{service.name}.{method.name}", method, comment


def bindings(files: list[descriptor_pb2.FileDescriptorProto]) -> list[tuple[str, str, str]]:
    """Every route: verb, path, ``Service.Method``."""
    found = []
    for name, method, _ in methods(files):
        rule = method.options.Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            if verb := binding.WhichOneof("pattern"):
                found.append((verb.upper(), getattr(binding, verb), name))
    return found


def test_every_rpc_has_a_comment(files):
    """A reader of the proto learns what each RPC does, in a sentence."""
    assert [name for name, _, comment in methods(files) if not comment.split("\n\n")[0].strip(".")] == []


def test_every_rpc_has_a_policy(files):
    """An RPC without a permission would be refused to everyone but the suite."""
    bare = [n for n, m, _ in methods(files) if not m.options.Extensions[method_policy_pb2.policy].permission]
    assert bare == []


def test_internal_rpcs_have_no_route(files):
    """What is for the suite itself is not reached from outside."""
    inner = {n for n, m, _ in methods(files) if m.options.Extensions[method_policy_pb2.policy].internal_only}
    assert inner
    assert [name for _, _, name in bindings(files) if name in inner] == []


def test_no_two_routes_are_the_same(files):
    """One verb and path, whatever its variables are called, is one RPC's."""
    shapes = Counter((verb, shape(path)) for verb, path, _ in bindings(files))
    assert [at for at, count in shapes.items() if count > 1] == []


def test_routes_are_the_ones_agreed(files):
    """A path once published stays: this file changes only with a reason to break callers."""
    table = sorted(" ".join(binding) for binding in bindings(files))
    assert table == ROUTES.read_text().splitlines()


def test_gateway_serves_just_these_routes(files):
    """Nothing annotated is forgotten by the gateway, and nothing else is served."""
    served = [re.sub(r"reelhaul\.\w+\.v1\.", "", route) for route in list_routes()]
    assert sorted(served) == ROUTES.read_text().splitlines()


def test_generated_code_is_fresh(tmp_path):
    """What is checked in is what protoc makes of the protos now."""
    protoc(*(f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")), *quiet(tmp_path))
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    checked_in = ROOT / "libs" / "reelhaul"
    kept = {path.relative_to(ROOT / "libs"): path.read_bytes() for path in checked_in.rglob("*_pb2*.py*")}
    kept = {path: content for path, content in kept.items() if "__pycache__" not in path.parts}
    shutil.rmtree(tmp_path)
    stale = {path for path in made.keys() | kept.keys() if made.get(path) != kept.get(path)}
    assert stale == set(), "run `make protos`"


@pytest.mark.parametrize("reason", ErrorReason.values()[1:])
def test_every_reason_has_a_code(reason):
    """A reason without a code would be told as OK."""
    assert error_spec(reason).code
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", ErrorReason.Name(reason))


def shape(path: str) -> str:
    """*path* with its variables nameless: {name=jobs/*} is jobs/*, {job_id} is *."""
    return re.sub(r"\{[^}=]+\}", "*", re.sub(r"\{[^}=]+=([^}]+)\}", r"\1", path))


def quiet(folder: Path) -> list[str]:
    return [f"--{kind}_out=quiet:{folder}" for kind in ("mypy", "mypy_grpc")]
