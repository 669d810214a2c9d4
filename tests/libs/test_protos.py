"""Protos: every RPC has a comment, a policy and its own route; generated code is fresh."""

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
    """Our protos as protoc reads them, with comments."""
    image = tmp_path_factory.mktemp("protos") / "image.binpb"
    protoc("--include_source_info", f"--descriptor_set_out={image}")
    return list(descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file)


def methods(
    files: list[descriptor_pb2.FileDescriptorProto],
) -> Iterator[tuple[str, descriptor_pb2.MethodDescriptorProto, str]]:
    """Yield ``Service.Method``, the descriptor and the comment of every RPC."""
    for file in files:
        comments = {
            tuple(location.path): location.leading_comments.strip()
            for location in file.source_code_info.location
        }
        for index, service in enumerate(file.service):
            for number, method in enumerate(service.method):
                comment = comments.get((_SERVICE, index, _METHOD, number), "")
                yield f"{service.name}.{method.name}", method, comment


def bindings(files: list[descriptor_pb2.FileDescriptorProto]) -> list[tuple[str, str, str]]:
    """Return every route: verb, path, ``Service.Method``."""
    found = []
    for name, method, _ in methods(files):
        rule = method.options.Extensions[annotations_pb2.http]
        for binding in (rule, *rule.additional_bindings):
            if verb := binding.WhichOneof("pattern"):
                found.append((verb.upper(), getattr(binding, verb), name))
    return found


def test_every_rpc_has_a_comment(files):
    """Each RPC has a comment that starts with a sentence."""
    assert [name for name, _, comment in methods(files) if not comment.split("\n\n")[0].strip(".")] == []


def test_every_rpc_has_a_policy(files):
    """An RPC without a permission would be refused to everyone but the suite."""
    without = [
        n for n, m, _ in methods(files) if not m.options.Extensions[method_policy_pb2.policy].permission
    ]
    assert without == []


def test_internal_rpcs_have_no_route(files):
    """Internal RPCs cannot be reached through the gateway."""
    internal = {
        n for n, m, _ in methods(files) if m.options.Extensions[method_policy_pb2.policy].internal_only
    }
    assert internal
    assert [name for _, _, name in bindings(files) if name in internal] == []


def test_no_two_routes_are_the_same(files):
    """A verb and path, whatever the names of its variables, belongs to one RPC."""
    shapes = Counter((verb, shape(path)) for verb, path, _ in bindings(files))
    assert [route for route, count in shapes.items() if count > 1] == []


def test_published_routes(files):
    """Published routes do not change: edit routes.txt only with a reason to break callers."""
    table = sorted(" ".join(binding) for binding in bindings(files))
    assert table == ROUTES.read_text().splitlines()


def test_gateway_serves_exactly_these_routes(files):
    """The gateway serves every annotated RPC and nothing else."""
    served = [re.sub(r"reelhaul\.\w+\.v1\.", "", route) for route in list_routes()]
    assert sorted(served) == ROUTES.read_text().splitlines()


def test_generated_code_is_fresh(tmp_path):
    """The checked-in code is what protoc generates now."""
    protoc(*(f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")), *quiet(tmp_path))
    generated = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*_pb2*.py*")}
    checked_in = ROOT / "libs" / "reelhaul"
    kept = {path.relative_to(ROOT / "libs"): path.read_bytes() for path in checked_in.rglob("*_pb2*.py*")}
    kept = {path: content for path, content in kept.items() if "__pycache__" not in path.parts}
    shutil.rmtree(tmp_path)
    stale = {path for path in generated.keys() | kept.keys() if generated.get(path) != kept.get(path)}
    assert stale == set(), "run `make protos`"


@pytest.mark.parametrize("reason", ErrorReason.values()[1:])
def test_every_reason_has_a_code(reason):
    """A reason without a code would be sent as OK."""
    assert error_spec(reason).code
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,61}[A-Z0-9]", ErrorReason.Name(reason))


def shape(path: str) -> str:
    """Return *path* without the names of its variables: {name=jobs/*} is jobs/*, {job_id} is *."""
    return re.sub(r"\{[^}=]+\}", "*", re.sub(r"\{[^}=]+=([^}]+)\}", r"\1", path))


def quiet(folder: Path) -> list[str]:
    return [f"--{kind}_out=quiet:{folder}" for kind in ("mypy", "mypy_grpc")]
