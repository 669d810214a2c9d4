"""Where the transcoder's services and rules come from: descriptor sets, reflection, service configs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from tests.libs import asgi, lab
from tests.libs.lab import EchoUpstream

from reelhaul_transcoding import Options, Transcoder
from reelhaul_transcoding.descriptors import (
    services_of_descriptor_set,
    services_of_modules,
    services_of_server,
)
from reelhaul_transcoding.routing.percent import Unescape
from reelhaul_transcoding.routing.rules import RouteError, http_rules
from reelhaul_transcoding.routing.service_config import read_service_config

JSON = {"content-type": "application/json"}
CONFIG = """
type: google.api.Service
config_version: 3
http:
  fully_decode_reserved_expansion: true
  rules:
  - selector: lab.v1.Lab.GetFoo
    get: /v2/never
  - selector: lab.v1.Lab.GetFoo
    get: /v2/foo
    additional_bindings:
    - post: /v2/foo
      body: "*"
"""


@pytest.fixture
def reflecting_server() -> Iterator[grpc.Channel]:
    """A channel to a server that has the lab's service and describes it."""
    server = grpc.server(ThreadPoolExecutor(2))
    reflection.enable_server_reflection([lab.service().full_name, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(None).wait()


async def _post_any(services) -> asgi.Response:
    """Return the response to a body with every kind of value that needs a descriptor."""
    app = Transcoder([(service, EchoUpstream()) for service in services])
    body = (
        b'{"s":"x","any":{"@type":"type.googleapis.com/lab.v1.Sub","id":"7"},"ts":"2020-01-01T00:00:00Z",'
        b'"wI64":"1","st":{"a":[1]},"color":"RED","m":{"a":"b"}}'
    )
    response = await asgi.request(app, "POST", "/v1/all", body=body, headers=JSON)
    assert response.status == 200, response.body
    return response


async def test_services_of_a_descriptor_set() -> None:
    """A FileDescriptorSet serves like generated code, in a pool of its own."""
    (service,) = services_of_descriptor_set(lab.descriptor_set())
    assert service.file.pool is not lab.service().file.pool
    assert (await _post_any([service])).json == (await _post_any([lab.service()])).json


async def test_two_versions_of_one_message() -> None:
    """Services of different descriptor sets may disagree on a message that both use."""
    newer = descriptor_pb2.FileDescriptorSet.FromString(lab.descriptor_set(without_rules=True))
    newer.file[-1].service[0].name = "Newer"
    next(message for message in newer.file[-1].message_type if message.name == "Sub").field.add(
        name="added", number=99, type="TYPE_STRING", label="LABEL_OPTIONAL", json_name="added"
    )
    services = [lab.service(), *services_of_descriptor_set(newer.SerializeToString())]
    app = Transcoder([(service, EchoUpstream()) for service in services], Options(auto_mapping=True))
    body = b'{"sub":{"name":"n","added":"a"}}'
    older = await asgi.request(app, "POST", "/v1/all", body=body, headers=JSON)
    assert older.json == {"sub": {"name": "n"}}
    response = await asgi.request(app, "POST", "/lab.v1.Newer/PostAll", body=body, headers=JSON)
    assert response.json == {"sub": {"name": "n", "added": "a"}}


@pytest.mark.parametrize(("serialized", "names"), [(b"\xff", ()), (b"", ("lab.v1.Lab",))])
def test_broken_descriptor_set(serialized, names) -> None:
    """Damage, a missing import or a service that is not in it ends at start, with a RouteError."""
    with pytest.raises(RouteError):
        services_of_descriptor_set(serialized, names)
    without_imports = lab.descriptor_set(with_imports=False)
    with pytest.raises(RouteError):
        services_of_descriptor_set(without_imports)


async def test_services_of_a_server(reflecting_server) -> None:
    """A server with reflection describes itself; gRPC's own services are left out."""
    services = await asyncio.to_thread(services_of_server, reflecting_server)
    assert [service.full_name for service in services] == ["lab.v1.Lab"]
    assert (await _post_any(services)).json == (await _post_any([lab.service()])).json
    with pytest.raises(RouteError, match="Nope"):
        await asyncio.to_thread(services_of_server, reflecting_server, ["lab.v1.Nope"])


def test_services_of_modules() -> None:
    """Those of generated modules, in their order."""
    names = [service.full_name for service in services_of_modules(reflection_pb2)]
    assert names == [reflection.SERVICE_NAME]


async def test_service_config_replaces_annotations() -> None:
    """The last rule of a method wins, over its annotation too; other methods keep theirs."""
    app = Transcoder([(lab.service(), EchoUpstream())], Options(http=read_service_config(CONFIG)))
    assert (await asgi.request(app, "GET", "/v2/foo?i=1")).json == {"i": 1}
    assert (await asgi.request(app, "POST", "/v2/foo", body=b'{"i":2}', headers=JSON)).json == {"i": 2}
    assert [(await asgi.request(app, "GET", path)).status for path in ("/foo", "/v2/never")] == [404, 404]
    assert (await asgi.request(app, "POST", "/v1/all/x", body=b"{}", headers=JSON)).json == {"s": "x"}


async def test_service_config_selects_how_paths_are_decoded() -> None:
    """fully_decode_reserved_expansion keeps only %2F in variables of several segments."""
    rules = {"http": {"rules": [{"selector": "lab.v1.Lab.GetFoo", "get": "/v2/{resume_token=a/*}"}]}}
    for fully_decode, expected in ((False, "a/b%3Ac%2Fd"), (True, "a/b:c%2Fd")):
        config = read_service_config(str(rules))
        config.fully_decode_reserved_expansion = fully_decode
        options = Options(http=config, unescape=Unescape.ALL_CHARACTERS_EXCEPT_RESERVED)
        app = Transcoder([(lab.service(), EchoUpstream())], options)
        response = await asgi.request(app, "GET", "/v2/a/b%3Ac%2Fd")
        assert response.json == {"resumeToken": expected}


@pytest.mark.parametrize(
    "text",
    [
        "http: {rules: [{selector: lab.v1.Lab.Nope, get: /x}]}",
        "http: {rules: [{selector: lab.v1.Lab.GetFoo, get: x}]}",
        "http: {rules: [{selector: lab.v1.Lab.GetFoo}]}",
        "http: {rules: [{selector: lab.v1.Lab.GetFoo, gett: /x}]}",
        "http: {rules: 1}",
        "type: google.api.Service",
        "[]",
        "a: b: c",
        "http: !!python/object/apply:os.getcwd []",
        b"\xff",
    ],
)
def test_invalid_service_config(text) -> None:
    """A mistake ends at start, with a RouteError."""
    with pytest.raises(RouteError):
        Transcoder([(lab.service(), EchoUpstream())], Options(http=read_service_config(text)))


async def test_auto_mapping() -> None:
    """With the option, a method without a rule is POST /package.Service/Method; annotated ones are not."""
    (service,) = services_of_descriptor_set(lab.descriptor_set(without_rules=True))
    app = Transcoder([(service, EchoUpstream())], Options(auto_mapping=True))
    response = await asgi.request(app, "POST", "/lab.v1.Lab/GetFoo", body=b'{"i":1}', headers=JSON)
    assert response.json == {"i": 1}
    assert (await asgi.request(app, "GET", "/lab.v1.Lab/GetFoo")).headers["allow"] == "POST"
    assert http_rules([service]) == []
    assert http_rules([lab.service()], auto_mapping=True) == http_rules([lab.service()])
