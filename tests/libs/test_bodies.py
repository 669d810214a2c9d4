"""Requests and responses in the log: without secrets, within bounds, and only if that is enabled."""

from __future__ import annotations

import json
import logging
import re
from importlib.resources import files

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import FieldDescriptor

from reelhaul.admin.v1.api_key_pb2 import ApiKey
from reelhaul.jobs.v1.job_pb2 import Job
from reelhaul.jobs.v1.job_service_pb2 import GetJobRequest, ListJobsRequest, ListJobsResponse
from reelhaul_runtime.rpc.bodies import describe_message, log_bodies

GET_JOB = "/reelhaul.jobs.v1.JobService/GetJob"
#: Names of fields that are secrets, and those among them that are none.
SECRET_NAMES = re.compile(
    r"secret|key_string|ticket|password|cookies$|proxy_url|authorization|_token$|^token$"
)
NO_SECRETS = {"page_token", "next_page_token", "resume_token"}


def test_secrets_are_replaced():
    """A field that the protos mark as a secret is replaced; URLs lose user info, query and fragment."""
    key = ApiKey(name="apiKeys/1", key_string="secret", display_name="of https://u:p@example.org/a?token=b")
    assert describe_message(key) == {
        "name": "apiKeys/1",
        "key_string": "[secret]",
        "display_name": "of https://example.org/a",
    }


def test_keys_are_replaced_wherever_they_are():
    """A key that a caller put into a filter, or a part of one, is replaced, and tokens of pages are."""
    request = ListJobsRequest(filter='tenant = "rh_live_abc123DEF"', page_token="rh_live_x")
    assert describe_message(request) == {"filter": 'tenant = "[secret]"', "page_token": "[secret]"}


def test_protos_mark_their_secrets():
    """Each field whose name is that of a secret is marked (debug_redact)."""
    unmarked = [
        f"{message.name}.{field.name}"
        for message in _messages()
        for field in message.field
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
        and SECRET_NAMES.search(field.name)
        and field.name not in NO_SECRETS
        and not field.options.debug_redact
    ]
    assert unmarked == []


def _messages() -> list[descriptor_pb2.DescriptorProto]:
    parsed = descriptor_pb2.FileDescriptorSet.FromString(
        files("reelhaul").joinpath("protos.binpb").read_bytes()
    )
    waiting = [message for file in parsed.file for message in file.message_type]
    found = []
    while waiting:
        message = waiting.pop()
        found.append(message)
        waiting += message.nested_type
    return found


def test_bodies_are_bounded():
    """Long texts and lists are cut, whatever a caller sends."""
    response = ListJobsResponse(jobs=[Job(name="n" * 10**5)] * 2000)
    described = describe_message(response)
    assert len(described["jobs"]) == 50
    assert {len(job["name"]) for job in described["jobs"]} == {500}
    labels = Job(labels={f"{number:04}": "x" * 5000 for number in range(1000)})
    assert len(json.dumps(describe_message(labels))) < 50_000


def test_bodies_are_logged_if_enabled(caplog: pytest.LogCaptureFixture):
    """Bodies are lines of their own at DEBUG; a response that was serialized before is read again."""
    request, response = GetJobRequest(name="jobs/1"), Job(name="jobs/1").SerializeToString()
    with caplog.at_level(logging.INFO, logger="reelhaul_runtime.rpc.bodies"):
        log_bodies(GET_JOB, request, response)
    assert caplog.records == []
    with caplog.at_level(logging.DEBUG, logger="reelhaul_runtime.rpc.bodies"):
        log_bodies(GET_JOB, request, response)
        log_bodies(GET_JOB, iter([request]), b"\xff")
    first, second = map(vars, caplog.records)
    assert (first["rpc"], first["request"], first["response"]) == (
        GET_JOB,
        {"name": "jobs/1"},
        {"name": "jobs/1"},
    )
    assert "request" not in second
    assert "response" not in second
