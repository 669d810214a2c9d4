"""Local links: URLs of artifacts at the HTTP port of storage, signed by HMAC-SHA256.

``{base}/artifacts/{id}/{file name}?expires=…&generation=…&disposition=…&cidr=…&key=…&signature=…``
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode
from uuid import UUID

from reelhaul_runtime.errors import FieldInvalid
from reelhaul_storage.errors import Unsupported
from reelhaul_storage.model import Artifact, LinkTerms, Network

_MAX_QUERY = 1000
_MAX_NUMBER_DIGITS = 11
_REQUIRED = frozenset({"expires", "generation", "disposition", "key", "signature"})
_PARAMETERS = _REQUIRED | {"cidr"}
_LABEL = b"reelhaul storage links"


@dataclass(frozen=True, slots=True)
class LocalLink:
    """What a link allows. The signature covers every field."""

    artifact_id: str
    #: The name under which the file is saved.
    file_name: str
    #: Unix time in seconds.
    expires: int
    #: ``Artifact.link_generation`` when the link was signed.
    generation: int
    disposition: Literal["attachment", "inline"]
    #: The network from which the link works; None: everywhere.
    network: Network | None

    @property
    def expire_time(self) -> datetime:
        """When the link stops working."""
        return datetime.fromtimestamp(self.expires, UTC)

    def canonical_bytes(self) -> bytes:
        """Return an encoding of the fields that no other link has."""
        return json.dumps(["1", *astuple(self)], default=str).encode()


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature, and the id of the key that is said to have created it."""

    key_id: str
    value: str


class LinkKeys:
    """Signs links with the first of *secrets* and accepts signatures of all of them."""

    def __init__(self, secrets: Sequence[str]) -> None:
        # A key of its own: a secret that is also used elsewhere signs nothing else this way.
        keys = [hmac.digest(_LABEL, secret.encode(), "sha256") for secret in secrets]
        self._keys = {hashlib.sha256(b"id\0" + key).hexdigest()[:8]: key for key in keys}
        self._first = next(iter(self._keys))

    def sign(self, link: LocalLink) -> Signature:
        """Return the signature of *link*."""
        return Signature(self._first, _sign(self._keys[self._first], link))

    def verify(self, link: LocalLink, signature: Signature) -> bool:
        """Return whether *signature* is one of *link* by a key in use."""
        key = self._keys.get(signature.key_id)
        return key is not None and hmac.compare_digest(_sign(key, link).encode(), signature.value.encode())


class LocalLinkSigner:
    """Implements ports.LinkSigner for the HTTP port of storage, which clients reach at *base_url*."""

    revocable = True

    def __init__(self, keys: LinkKeys, base_url: str) -> None:
        self._keys, self._base_url = keys, base_url

    async def sign(self, artifact: Artifact, terms: LinkTerms) -> str:
        if terms.network is not None and self._base_url.startswith("https:"):
            raise Unsupported(
                "SignArtifactUrl",
                "ip_cidr: a proxy serves the links (REELHAUL_STORAGE_PUBLIC_URL is https), so storage does"
                " not see the addresses of clients",
            )
        link = LocalLink(
            artifact.id,
            artifact.file_name,
            int(terms.expire_time.timestamp()),
            artifact.link_generation,
            "inline" if terms.inline else "attachment",
            terms.network,
        )
        return self._base_url + build_path(link, self._keys.sign(link))


def build_path(link: LocalLink, signature: Signature) -> str:
    """Return the path and query of the URL of *link*."""
    parameters = {
        "expires": str(link.expires),
        "generation": str(link.generation),
        "disposition": link.disposition,
        "key": signature.key_id,
        "signature": signature.value,
    }
    if link.network is not None:
        parameters["cidr"] = str(link.network)
    return f"/artifacts/{link.artifact_id}/{quote(link.file_name, safe='')}?{urlencode(parameters)}"


def parse_path(artifact_id: str, file_name: str, query: str) -> tuple[LocalLink, Signature]:
    """Return the link with the decoded parts *artifact_id* and *file_name* of its path, and its *query*.

    Raises FIELD_INVALID if it is not exactly as ``build_path`` writes it.
    """
    if len(query) > _MAX_QUERY:
        raise FieldInvalid("query", f"must have at most {_MAX_QUERY} characters")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=10)
    except ValueError:
        raise FieldInvalid("query", "must be the parameters of a signed link") from None
    parameters = dict(pairs)
    if len(pairs) != len(parameters):
        raise FieldInvalid("query", "must have each parameter once")
    if unknown := parameters.keys() - _PARAMETERS:
        raise FieldInvalid(min(unknown)[:64], "unknown parameter")
    if missing := _REQUIRED - parameters.keys():
        raise FieldInvalid(min(missing), "is missing: the link is not complete")
    disposition = parameters["disposition"]
    link = LocalLink(
        _parse_id(artifact_id),
        file_name,
        _parse_number(parameters, "expires"),
        _parse_number(parameters, "generation"),
        "inline" if disposition == "inline" else "attachment",
        parse_network(parameters["cidr"], "cidr") if "cidr" in parameters else None,
    )
    if disposition != link.disposition:
        raise FieldInvalid("disposition", "must be attachment or inline")
    return link, Signature(parameters["key"], parameters["signature"])


def parse_network(text: str, field: str) -> Network:
    """Return the network in CIDR notation in *text*. Raises FIELD_INVALID."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise FieldInvalid(field, "must be a network like 192.0.2.0/24 or 2001:db8::/48") from None


def _parse_id(text: str) -> str:
    try:
        canonical = str(UUID(text)) == text
    except ValueError:
        canonical = False
    if not canonical:
        raise FieldInvalid("artifact", "must be the id of an artifact")
    return text


def _parse_number(parameters: dict[str, str], name: str) -> int:
    text = parameters[name]
    if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_NUMBER_DIGITS):
        raise FieldInvalid(name, "must be a number")
    return int(text)


def _sign(key: bytes, link: LocalLink) -> str:
    digest = hmac.digest(key, link.canonical_bytes(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
