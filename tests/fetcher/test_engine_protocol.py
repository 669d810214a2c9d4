"""Messages between the fetcher and a child: nothing is lost on the way, and frames are bounded."""

from __future__ import annotations

import socket
from dataclasses import fields, replace
from pathlib import Path

import pytest

from reelhaul.type.v1.media_pb2 import FormatSpec
from reelhaul.work.v1 import engine_pb2
from reelhaul_fetcher.model.engine_options import EngineOptions
from reelhaul_fetcher.model.engine_requests import (
    EngineRequest,
    ExpandRequest,
    ExtractorListRequest,
    FetchRequest,
    ProbeRequest,
)
from reelhaul_fetcher.ytdlp.process import protocol

URL, PROXY = "https://www.example.com/watch", "http://session:secret@127.0.0.1:9"


@pytest.mark.parametrize(
    "request_",
    [
        FetchRequest(
            url=URL,
            format=FormatSpec(max_height=720),
            folder=Path("/data/work/job"),
            proxy_url=PROXY,
            size_limit=1 << 40,
            max_seconds=1.5,
            record_seconds=2.5,
            record_timeout_seconds=3.5,
            idle_seconds=4.5,
            cpu_seconds=6,
            memory_bytes=1 << 33,
            cookies="a cookie",
            recording_stopped=True,
        ),
        ProbeRequest(URL, PROXY, 7, playlist=True, cpu_seconds=8, memory_bytes=9, cookies="a cookie"),
        ExpandRequest(URL, PROXY, 7, 3, cpu_seconds=8, memory_bytes=9, cookies="a cookie"),
        ExtractorListRequest(),
    ],
    ids=lambda request: type(request).__name__,
)
def test_request(request_: EngineRequest) -> None:
    """Every field of a request arrives, its cookies among the options."""
    options = EngineOptions(
        player_clients=("mweb", "tv"),
        po_token_url="http://127.0.0.1:4416",
        js_runtime="/bin/deno",
        cookies_file="/cookies.txt",
        sponsorblock_url="https://sponsor.example",
        connections=3,
        impersonate={"example.com": "chrome"},
    )
    message = protocol.request_to_proto(request_, options)
    received, received_options = protocol.request_from_proto(
        engine_pb2.EngineRequest.FromString(message.SerializeToString())
    )
    assert received == replace(request_, cookies="")
    browser = "chrome" if request_.url else ""
    assert received_options == replace(
        options, impersonate={}, cookies=request_.cookies, impersonate_target=browser
    )


def test_every_option_is_sent() -> None:
    """The message has a field for every option, but the browsers of other sites."""
    names = {field.name for field in fields(EngineOptions)}
    assert names - set(engine_pb2.EngineOptions.DESCRIPTOR.fields_by_name) == {"impersonate"}


def test_frame_too_long() -> None:
    """A frame beyond the limit is neither sent nor read."""
    message = engine_pb2.EngineTranslation(texts=["x" * protocol.MAX_FRAME_BYTES])
    with pytest.raises(ValueError, match="a frame of"):
        protocol.encode_frame(message)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(protocol.HEADER.pack(protocol.MAX_FRAME_BYTES + 1))
        with pytest.raises(ValueError, match="a frame of"):
            protocol.read_message(theirs, engine_pb2.EngineCommand)
