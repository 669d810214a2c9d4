"""Descriptors: the services to serve, from generated modules, a descriptor set, or the server itself.

A descriptor set and reflection need no generated code. Each call has a descriptor pool of its own: to
serve a newer version of the same files, build another Transcoder from it and replace the old one.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from reelhaul_transcoding.routing.rules import RouteError

# The services of gRPC itself: reflection, health, channelz.
_GRPC_PACKAGE = "grpc."


def services_of_modules(*modules: ModuleType) -> list[ServiceDescriptor]:
    """Return all services of generated *modules*, e.g. ``library_service_pb2``."""
    return [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]


def services_of_descriptor_set(serialized: bytes, names: Iterable[str] = ()) -> list[ServiceDescriptor]:
    """Return the services in a FileDescriptorSet; those of *names*, e.g. ``library.v1.Books``, or all.

    ``protoc --include_imports --descriptor_set_out`` writes one. Raises RouteError.
    """
    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(serialized).file
        pool = descriptor_pool.DescriptorPool()
        for file in files:
            pool.AddSerializedFile(file.SerializeToString())
    except (DecodeError, TypeError) as error:
        raise RouteError(f"the descriptor set is invalid, or has no imports: {error}") from error
    found = [f"{file.package}.{service.name}".lstrip(".") for file in files for service in file.service]
    return _find_services(pool, list(names) or found)


def services_of_server(channel: grpc.Channel, names: Iterable[str] = ()) -> list[ServiceDescriptor]:
    """Return the services that the server of *channel* describes by reflection; those of *names*, or all.

    Blocks: call it before serving, or in a thread. Raises RouteError, and grpc.RpcError if the server
    does not answer.
    """
    database = ProtoReflectionDescriptorDatabase(channel)
    found = [name for name in database.get_services() if not name.startswith(_GRPC_PACKAGE)]
    return _find_services(descriptor_pool.DescriptorPool(database), list(names) or found)


def _find_services(pool: descriptor_pool.DescriptorPool, names: list[str]) -> list[ServiceDescriptor]:
    try:
        return [pool.FindServiceByName(name) for name in names]
    except KeyError as error:
        raise RouteError(f"no service of this name is described: {error}") from error
