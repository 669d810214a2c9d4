"""Query: parameters of a URL become fields of the request."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor import Descriptor

from reelhaul_transcoding.binding.field_path import FieldPath, covers, resolved
from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.errors import FieldFault
from reelhaul_transcoding.routing.percent import decoded

# More than any message has fields, less than what would keep the loop busy.
_MAX_PARAMETERS = 1000
_MAX_REMEMBERED = 256


class Query:
    """Sets fields of messages of one kind from query strings.

    Parameters that name no field are refused, unless *unknown* lets all pass or *ignored*
    lists them. Those that the path or the body sets already never override it: they are
    passed over, or refused where *strict*.
    """

    def __init__(
        self,
        kind: Descriptor,
        bound: Collection[str],
        *,
        whole_body: bool = False,
        unknown: bool = False,
        ignored: Collection[str] = (),
        strict: bool = False,
    ) -> None:
        self._kind = kind
        self._bound = tuple(bound)
        self._whole_body = whole_body
        self._unknown = unknown
        self._ignored = frozenset(ignored)
        self._strict = strict
        self._known: dict[str, FieldPath] = {}

    def apply(self, message: Any, query: bytes) -> None:
        """Set the fields of *message* that *query* names. Raises FieldFault."""
        for name, values in _parameters(query).items():
            if name in self._ignored:
                continue
            base, bracket, key = name.partition("[")
            path = self._path(name if not bracket else base)
            is_entry = bool(bracket)
            if (
                path is None
                or is_entry != field_types.is_map(path.field)
                or (is_entry and not key.endswith("]"))
            ):
                self._refuse(name, path)
            elif self._whole_body or any(covers(bound, path.name) for bound in self._bound):
                if self._strict:
                    raise FieldFault(path.name, "is set by the path or the body, and by a parameter")
            elif is_entry:
                path.put_entry(message, key[:-1], values)
            else:
                path.put(message, values)

    def _refuse(self, name: str, path: FieldPath | None) -> None:
        if path is not None:
            raise FieldFault(path.name, "is a map: set its entries as name[key]=value, and only a map's")
        if not self._unknown:
            raise FieldFault(name, "there is no such parameter")

    def _path(self, name: str) -> FieldPath | None:
        if name in self._known:
            return self._known[name]
        path = resolved(self._kind, name)
        # Bounded: a message that holds itself has paths without end.
        if path is not None and len(self._known) < _MAX_REMEMBERED:
            self._known[name] = path
        return path


def _parameters(query: bytes) -> dict[str, list[str]]:
    """Names and their values in order, decoded. Raises FieldFault."""
    found: dict[str, list[str]] = {}
    pairs = query.split(b"&")
    if len(pairs) > _MAX_PARAMETERS:
        raise FieldFault("", f"more than {_MAX_PARAMETERS} parameters")
    for pair in pairs:
        if pair:
            name, _, value = pair.partition(b"=")
            found.setdefault(_text(name, "a parameter's name"), []).append(_text(value, _shown(name)))
    return found


def _text(raw: bytes, what: str) -> str:
    try:
        return decoded(raw.decode().replace("+", " "))
    except ValueError as error:
        cause = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"holds {error}"
        raise FieldFault(what, cause) from error


def _shown(name: bytes) -> str:
    return name.decode(errors="replace")
