"""Keys: the calls that manage API keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from reelhaul.admin.v1 import api_key_pb2, api_key_service_pb2

_PAGE_SIZE = 100


class Keys:
    """Manages API keys; every method raises CallFailed, and most need a key of level ADMIN.

    Keys are named by ``apiKeys/{id}`` or by the id alone. ``key_string`` is set only in what ``create`` and
    ``rotate`` return.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def create(self, key: Mapping[str, Any]) -> api_key_pb2.ApiKey:
        """Create a key; *key* is an ApiKey in JSON, e.g. ``{"permission": "PERMISSION_LEVEL_DOWNLOAD"}``."""
        # A call that is repeated after a lost response has no string: then the key is of no use.
        return self._key("POST", "/v1/apiKeys", body=dict(key), headers=_new_request())

    def get(self, name: str = "me") -> api_key_pb2.ApiKey:
        """Return a key, by default that of this client."""
        return self._key("GET", _path(name))

    def list(
        self,
        filter: str = "",  # noqa: A002 - the field's name in the API
        *,
        show_deleted: bool = False,
    ) -> Iterator[api_key_pb2.ApiKey]:
        """Yield the keys that match *filter* (AIP-160, ListApiKeysRequest.filter), newest first."""
        token = ""
        while True:
            query = {
                "filter": filter,
                "showDeleted": show_deleted and "true",
                "pageSize": _PAGE_SIZE,
                "pageToken": token,
            }
            response = api_key_service_pb2.ListApiKeysResponse()
            page = self._call(response, "GET", "/v1/apiKeys", query=query)
            yield from page.api_keys
            if not (token := page.next_page_token):
                return

    def update(self, name: str, key: Mapping[str, Any], fields: Sequence[str]) -> api_key_pb2.ApiKey:
        """Change *fields* of a key, in lowerCamelCase, to what *key* has, or to their defaults."""
        return self._key("PATCH", _path(name), body=dict(key), query={"updateMask": ",".join(fields)})

    def delete(self, name: str) -> api_key_pb2.ApiKey:
        """Delete a key: it stops working now, and can be undeleted for 30 days."""
        return self._key("DELETE", _path(name))

    def undelete(self, name: str) -> api_key_pb2.ApiKey:
        """Restore a deleted key."""
        return self._key("POST", _path(name) + ":undelete", body={})

    def rotate(self, name: str, grace_seconds: float = 0) -> api_key_pb2.ApiKey:
        """Give a key a new string; the old one works for *grace_seconds* more."""
        body = {"grace": f"{grace_seconds:.3f}s"}
        return self._key("POST", _path(name) + ":rotate", body=body, headers=_new_request())

    def _key(self, method: str, path: str, **arguments: Any) -> api_key_pb2.ApiKey:
        key: api_key_pb2.ApiKey = self._call(api_key_pb2.ApiKey(), method, path, **arguments)
        return key


def _new_request() -> dict[str, str]:
    return {"Idempotency-Key": str(uuid.uuid4())}


def _path(name: str) -> str:
    return "/v1/apiKeys/" + quote(name.strip().removeprefix("apiKeys/"), safe="")
