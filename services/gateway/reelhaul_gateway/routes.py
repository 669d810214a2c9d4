"""Routes: which services the gateway serves, and who answers them."""

from __future__ import annotations

from google.protobuf.descriptor import ServiceDescriptor

from reelhaul.admin.v1 import api_key_service_pb2, audit_service_pb2
from reelhaul.downloads.v1 import download_service_pb2
from reelhaul.fetcher.v1 import fetcher_service_pb2
from reelhaul.jobs.v1 import job_service_pb2, schedule_service_pb2, webhook_service_pb2
from reelhaul.storage.v1 import storage_service_pb2
from reelhaul.system.v1 import system_service_pb2
from reelhaul_transcoding.routing.rules import rules

_FILES = {
    "jobs": (
        download_service_pb2,
        job_service_pb2,
        schedule_service_pb2,
        webhook_service_pb2,
        api_key_service_pb2,
        audit_service_pb2,
    ),
    "storage": (storage_service_pb2,),
    "fetcher": (fetcher_service_pb2,),
    "gateway": (system_service_pb2,),
}

#: Proto services by the service of the suite that answers them.
SERVICES: dict[str, list[ServiceDescriptor]] = {
    owner: [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    for owner, files in _FILES.items()
}


def table() -> list[str]:
    """Every route as ``VERB path package.Service.Method``, sorted."""
    every = [service for services in SERVICES.values() for service in services]
    return sorted(f"{rule.verb} {rule.template} {rule.name}" for rule in rules(every))
