"""Serve gRPC methods with google.api.http annotations as REST/JSON from an ASGI application."""

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.descriptors import (
    services_of_descriptor_set,
    services_of_modules,
    services_of_server,
)
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.upstream import GrpcUpstream, InProcessUpstream

__all__ = [
    "GrpcUpstream",
    "InProcessUpstream",
    "Options",
    "Transcoder",
    "services_of_descriptor_set",
    "services_of_modules",
    "services_of_server",
]
