"""Tenants: the calls that manage the users of the suite."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from reelhaul.admin.v1 import api_key_pb2, tenant_pb2, tenant_service_pb2

_PAGE_SIZE = 100


class Tenants:
    """Manages tenants; every method raises CallFailed, and changes need a key of level FULL_ACCESS.

    Tenants are named by ``tenants/{id}`` or by the id alone.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def create(self, tenant: Mapping[str, Any], tenant_id: str = "") -> tenant_pb2.Tenant:
        """Create a tenant; *tenant* is a Tenant in JSON. Without *tenant_id* the server chooses one."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        query = {"tenantId": tenant_id}
        return self._tenant("POST", "/v1/tenants", body=dict(tenant), query=query, headers=headers)

    def get(self, name: str = "me") -> tenant_pb2.Tenant:
        """Return a tenant, by default that of this client."""
        return self._tenant("GET", _path(name))

    def get_usage(self, name: str = "me") -> api_key_pb2.Usage:
        """Return the quota that a tenant has used."""
        usage: api_key_pb2.Usage = self._call(api_key_pb2.Usage(), "GET", _path(name) + "/usage")
        return usage

    def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
    ) -> Iterator[tenant_pb2.Tenant]:
        """Yield the tenants that match *filter* (AIP-160, ListTenantsRequest.filter), by name."""
        token = ""
        while True:
            query = {"filter": filter, "pageSize": _PAGE_SIZE, "pageToken": token}
            response = tenant_service_pb2.ListTenantsResponse()
            page = self._call(response, "GET", "/v1/tenants", query=query)
            yield from page.tenants
            if not (token := page.next_page_token):
                return

    def update(self, name: str, tenant: Mapping[str, Any], fields: Sequence[str]) -> tenant_pb2.Tenant:
        """Change *fields* of a tenant, in lowerCamelCase, to what *tenant* has, or to their defaults."""
        query = {"updateMask": ",".join(fields)}
        return self._tenant("PATCH", _path(name), body=dict(tenant), query=query)

    def delete(self, name: str, *, force: bool = False) -> tenant_pb2.Tenant:
        """Delete a tenant; with *force* also if it owns keys, jobs or other resources."""
        return self._tenant("DELETE", _path(name), query={"force": force and "true"})

    def _tenant(self, method: str, path: str, **arguments: Any) -> tenant_pb2.Tenant:
        tenant: tenant_pb2.Tenant = self._call(tenant_pb2.Tenant(), method, path, **arguments)
        return tenant


def _path(name: str) -> str:
    return "/v1/tenants/" + quote(name.strip().removeprefix("tenants/"), safe="")
