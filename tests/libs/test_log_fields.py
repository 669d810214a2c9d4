"""docs/logs.md names each field of the log, and no other."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.log_fields import documented_fields

from reelhaul_runtime import logs

_ROOT = Path(__file__).resolve().parents[2]
# Fields that are not given with a record: the formatter, the multiplexer and the access logs write them.
_WRITTEN_ELSEWHERE = {
    *("time", "level", "service", "logger", "message", "pid", "exception", "omitted", "source"),
    *("request_id", "job", "attempt", "tenant", "client", "trace_id", "span_id"),
    *("method", "path", "status", "bytes", "rpc", "code", "reason", "milliseconds"),
}


def _keys_of_records(file: Path) -> Iterator[str]:
    """Yield the keys of all dictionaries that *file* gives to log records as `extra`.

    These are literals in the call, and those that a variable or function has which the call names.
    """
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for function in functions:
        given = [
            keyword.value
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
            for keyword in call.keywords
            if keyword.arg == "extra"
        ]
        names = {node.id for value in given for node in ast.walk(value) if isinstance(node, ast.Name)}
        returned = [
            node.value
            for each in functions
            if each.name in names
            for node in ast.walk(each)
            if isinstance(node, ast.Return) and node.value
        ]
        for value in [*given, *_values_of(function, names), *returned]:
            for node in ast.walk(value):
                if isinstance(node, ast.Dict):
                    yield from (str(key.value) for key in node.keys if isinstance(key, ast.Constant))


def _values_of(function: ast.AST, names: set[str]) -> Iterator[ast.expr]:
    """Yield what *function* assigns to *names* and to their items."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in names:
                    yield node.value
                elif (
                    isinstance(target, ast.Subscript)
                    and isinstance(target.value, ast.Name)
                    and target.value.id in names
                ):
                    yield ast.Dict([target.slice], [node.value])


def test_documentation_names_every_field():
    """The tables of docs/logs.md have the fields of all records in the code, and no others."""
    files = [
        file
        for folder in ("libs", "services")
        for file in (_ROOT / folder).rglob("*.py")
        if not file.name.endswith("_pb2.py")
    ]
    # Type and stack are fields of `exception`.
    written = {key for file in files if "extra=" in file.read_text() for key in _keys_of_records(file)} - {
        "type",
        "stack",
    }
    assert "uri" in written
    assert written | _WRITTEN_ELSEWHERE == documented_fields().keys()


_JOB = "jobs/01a229d4-ae23-7c2d-bb11-8768a370183d"


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is missing: install the Debian package jq")
def test_queries_of_jq_find_lines(tmp_path: Path):
    """Each command for jq in docs/logs.md runs, and finds something in a log that has it."""
    error: dict[str, object] = {"type": "ValueError", "stack": "…"}
    (tmp_path / "reelhaul.log").write_text(
        "\n".join(
            [
                logs.to_json("gateway", 20, "reelhaul_gateway.access", "request", status=200, job=_JOB),
                logs.to_json("jobs", 40, "reelhaul_jobs", "unexpected error", exception=error),
            ]
        )
    )
    document = (_ROOT / "docs/logs.md").read_text()
    commands = [line for line in document.splitlines() if line.startswith("jq ")]
    assert len(commands) == 3
    for command in commands:
        found = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert found.stdout.strip(), command
