"""Dispatcher: matches requests to methods and builds their calls, for HTTP and WebSocket alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from google.protobuf.descriptor import ServiceDescriptor

from reelhaul_transcoding.binding.binding import Binding
from reelhaul_transcoding.codec import well_known
from reelhaul_transcoding.codec.decoder import Decoder
from reelhaul_transcoding.codec.encoder import Encoder
from reelhaul_transcoding.codec.fragments import FragmentCache
from reelhaul_transcoding.errors import FieldError, MethodNotAllowed
from reelhaul_transcoding.http.asgi import Scope
from reelhaul_transcoding.http.headers import accepts_trailers, parse_grpc_timeout
from reelhaul_transcoding.options import Options
from reelhaul_transcoding.routing.percent import Unescape
from reelhaul_transcoding.routing.router import Match, Router
from reelhaul_transcoding.routing.rules import http_rules
from reelhaul_transcoding.upstream import Call, Upstream

#: Key of the scope: the template of the path that a request has matched.
ROUTE = "reelhaul_transcoding.route"

# What a path may contain without an escape (RFC 3986 section 3.3).
_PATH_CHARACTERS = "/:@!$&'()*+,;=-._~"


@dataclass(frozen=True, slots=True)
class Target:
    """A compiled rule and the upstream that answers it."""

    binding: Binding
    upstream: Upstream
    #: The template of the path.
    route: str


class Dispatcher:
    """The routes of all annotated methods. Raises RouteError if an annotation is invalid."""

    def __init__(self, services: Iterable[tuple[ServiceDescriptor, Upstream]], options: Options) -> None:
        self._options = options
        fully_decode = options.http is not None and options.http.fully_decode_reserved_expansion
        unescape = Unescape.ALL_CHARACTERS_EXCEPT_SLASH if fully_decode else options.unescape
        self._router: Router[Target] = Router(unescape, ignore_trailing_slash=options.ignore_trailing_slash)
        #: The cache of encoded messages; None: there is none.
        self.fragments = FragmentCache(options.fragment_cache_bytes) if options.fragment_cache_bytes else None
        encoders = {
            emit_defaults: Encoder(emit_defaults=emit_defaults, fragments=self.fragments)
            for emit_defaults in (False, True)
        }
        decoder = Decoder(
            ignore_unknown_fields=options.ignore_unknown_fields,
            case_insensitive_enums=options.case_insensitive_enums,
        )
        services = list(services)
        upstreams = {service.full_name: upstream for service, upstream in services}
        #: Every rule that is routed, in the order of the services.
        self.rules = http_rules(
            (service for service, _ in services), options.http, auto_mapping=options.auto_mapping
        )
        for rule in self.rules:
            template = rule.parse_template()
            encoder = encoders[options.emit_defaults(rule.method)]
            binding = Binding(rule, template, options, decoder, encoder)
            target = Target(binding, upstreams[rule.method.containing_service.full_name], rule.template)
            self._router.add(rule.http_method, template, target, rule.name)

    def match(self, method: str, scope: Scope) -> Match[Target]:
        """Return the target of a request; HEAD falls back to GET. Raises TranscodingError.

        The scope gets the template as ROUTE, for middleware.
        """
        path = _raw_path(scope)
        try:
            match = self._router.match(method, path)
        except MethodNotAllowed as error:
            if method != "HEAD" or "GET" not in error.allowed:
                raise
            match = self._router.match("GET", path)
        scope[ROUTE] = match.target.route
        return match

    def allowed_methods(self, scope: Scope) -> tuple[str, ...]:
        """Return the methods that are routed at the path of a request; empty if there is no route."""
        return self._router.allowed_methods(_raw_path(scope))

    def build_call(
        self, match: Match[Target], scope: Scope, headers: Mapping[bytes, bytes], body: bytes
    ) -> Call:
        """Return the upstream call for a request. Raises TranscodingError."""
        binding = match.target.binding
        return Call(
            binding.path,
            binding.build_request(match.variables, scope["query_string"], headers, body),
            self._options.headers.to_metadata(scope["headers"]),
            _timeout(headers, binding.max_timeout),
            trailers=accepts_trailers(headers),
        )

    def build_stream_call(
        self,
        match: Match[Target],
        scope: Scope,
        headers: Mapping[bytes, bytes],
        chunks: AsyncIterator[bytes],
    ) -> Call:
        """Return the upstream call for a client stream of *chunks*. Raises TranscodingError."""
        binding = match.target.binding
        return Call(
            binding.path,
            b"",
            self._options.headers.to_metadata(scope["headers"]),
            _timeout(headers, binding.max_timeout),
            binding.build_stream(match.variables, scope["query_string"], headers, chunks),
            accepts_trailers(headers),
        )


def _raw_path(scope: Scope) -> bytes:
    """Return the path below the root path: an application that mounts this one leaves its prefix in both."""
    # raw_path is optional in ASGI, and path is decoded: what decoding would change is encoded again.
    raw_path: bytes = scope.get("raw_path") or quote(scope["path"], safe=_PATH_CHARACTERS).encode()
    return raw_path.removeprefix(scope["root_path"].encode()) if scope.get("root_path") else raw_path


def _timeout(headers: Mapping[bytes, bytes], maximum: float) -> float:
    """Return the seconds that a call may take: the client's deadline, at most *maximum*."""
    timeout = maximum
    if (value := headers.get(b"grpc-timeout")) is not None:
        timeout = parse_grpc_timeout(value.decode("latin-1"))
    elif (value := headers.get(b"x-server-timeout")) is not None:
        try:
            timeout = well_known.check_finite(well_known.parse_double(value.decode("latin-1")))
        except ValueError as error:
            raise FieldError("x-server-timeout", f"{error}, in seconds") from error
        if not timeout > 0:
            raise FieldError("x-server-timeout", "must be more than 0 seconds")
    return min(timeout, maximum)
