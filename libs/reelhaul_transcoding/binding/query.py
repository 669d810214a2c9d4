"""Query binder: sets fields of a request from the query parameters of a URL."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from google.protobuf.descriptor import Descriptor

from reelhaul_transcoding.binding.field_path import FieldPath, contains_path, resolve_field_path
from reelhaul_transcoding.codec import field_types
from reelhaul_transcoding.errors import FieldError
from reelhaul_transcoding.routing.percent import percent_decode

# More than any message has fields, but few enough to bound the time.
_MAX_PARAMETERS = 1000
_MAX_CACHED_PATHS = 256


class QueryBinder:
    """Sets fields of messages of one type from query strings.

    Unknown parameters are rejected; those in *ignored* are ignored, or all with *ignore_unknown*. A
    parameter never overrides a field that the path or the body sets (*bound*, or all fields with
    *whole_body*): it is ignored, or rejected with *reject_conflicts*.
    """

    def __init__(
        self,
        message_type: Descriptor,
        bound: Collection[str],
        *,
        whole_body: bool = False,
        ignore_unknown: bool = False,
        ignored: Collection[str] = (),
        case_insensitive_enums: bool = False,
        reject_conflicts: bool = False,
    ) -> None:
        self._message_type = message_type
        self._bound = tuple(bound)
        self._whole_body = whole_body
        self._ignore_unknown, self._ignored = ignore_unknown, frozenset(ignored)
        self._reject_conflicts = reject_conflicts
        self._case_insensitive_enums = case_insensitive_enums
        self._paths: dict[str, FieldPath] = {}

    def bind(self, message: Any, query: bytes) -> None:
        """Set the fields of *message* from *query*. Raises FieldError."""
        bound_names: set[str] = set()
        for name, values in _parse_parameters(query).items():
            base, key = _split_key(name)
            path = self._resolve(base)
            if path is None or (key is not None and not field_types.is_map(path.field)):
                if not self._ignore_unknown and name not in self._ignored:
                    raise FieldError(name, _describe_unknown(path))
            elif key is None and field_types.is_map(path.field):
                raise FieldError(path.name, f"is a map; {base}[key]=value sets one entry of it")
            elif self._whole_body or any(contains_path(bound, path.name) for bound in self._bound):
                if self._reject_conflicts:
                    raise FieldError(path.name, "is set by the path or the body, and by a parameter")
            elif key is not None:
                path.set_map_entry(message, key, values)
            elif path.name in bound_names and not path.field.is_repeated:
                raise FieldError(path.name, "is given more than once, by its two names")
            else:
                bound_names.add(path.name)
                path.set(message, values)

    def _resolve(self, name: str) -> FieldPath | None:
        if name in self._paths:
            return self._paths[name]
        path = resolve_field_path(
            self._message_type, name, case_insensitive_enums=self._case_insensitive_enums
        )
        # Bounded: a message that contains itself has infinitely many paths.
        if path is not None and len(self._paths) < _MAX_CACHED_PATHS:
            self._paths[name] = path
        return path


def _split_key(name: str) -> tuple[str, str | None]:
    """Return the field path and the key of ``labels[team]``; a name of another form has no key."""
    base, bracket, rest = name.partition("[")
    key = rest.removesuffix("]")
    if not bracket or key == rest or "[" in key or "]" in key:
        return name, None
    return base, key


def _describe_unknown(path: FieldPath | None) -> str:
    if path is None:
        return "unknown parameter"
    if path.field.is_repeated:
        return f"unknown parameter; repeat {path.name}=value for each element"
    return f"unknown parameter; only a map has keys in brackets, and {path.name} is none"


def _parse_parameters(query: bytes) -> dict[str, list[str]]:
    """Return the decoded names and values of *query*, in order. Raises FieldError."""
    # Unlike urllib.parse.parse_qs, this rejects malformed escapes and says in which parameter.
    parameters: dict[str, list[str]] = {}
    pairs = query.split(b"&")
    if len(pairs) > _MAX_PARAMETERS:
        raise FieldError("", f"more than {_MAX_PARAMETERS} parameters")
    for pair in pairs:
        if pair:
            raw_name, _, raw_value = pair.partition(b"=")
            name = _decode(raw_name, "a parameter's name")
            parameters.setdefault(name, []).append(_decode(raw_value, name))
    return parameters


def _decode(raw: bytes, field: str) -> str:
    try:
        return percent_decode(raw.decode().replace("+", " "))
    except ValueError as error:
        cause = "invalid UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise FieldError(field, f"contains {cause}") from error
