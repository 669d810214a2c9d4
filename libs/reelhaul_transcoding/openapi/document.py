"""Documents: OpenAPI 3.1 of everything that a transcoder serves."""

from __future__ import annotations

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.openapi.operations import Operations
from reelhaul_transcoding.openapi.options import DocumentOptions, Object
from reelhaul_transcoding.openapi.paths import PathExpander
from reelhaul_transcoding.openapi.schemas import Schemas
from reelhaul_transcoding.routing.router import ANY_METHOD

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def build_openapi(transcoder: Transcoder, document: DocumentOptions) -> Object:
    """Return the OpenAPI 3.1 document of the routes of *transcoder*, in their order.

    It is a dict of JSON values. Routes for any method are documented as POST. HEAD, which every GET
    has, and OPTIONS are left out. https://spec.openapis.org/oas/v3.1.1.html
    """
    rules, options = transcoder.rules, transcoder.options
    full = {rule.method.full_name for rule in rules if options.emit_defaults(rule.method)}
    schemas = Schemas(rules, document, full_responses=full, strict=not options.ignore_unknown_fields)
    operations = Operations(schemas, options, document)
    expander = PathExpander(rules)
    paths: dict[str, Object] = {}
    #: Paths by their shapes: parameters of one path have the same names in all operations.
    shapes: dict[str, str] = {}
    for rule in rules:
        path = expander.expand(rule.parse_template())
        http_method = "post" if rule.http_method == ANY_METHOD else rule.http_method.lower()
        if http_method not in _METHODS:
            continue
        known = shapes.setdefault(path.shape, path.path)
        paths.setdefault(known, {})[http_method] = operations.write(rule, path.renamed_as(known))
    for text, path_operations in document.operations.items():
        paths.setdefault(text, {}).update(path_operations)
    error = {"description": "Any other error.", "content": operations.error_content()}
    return {
        "openapi": "3.1.1",
        "info": dict(document.info),
        "servers": [dict(server) for server in document.servers],
        "tags": _tags(transcoder, schemas, document),
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": {"Error": error},
            "securitySchemes": dict(document.security_schemes),
        },
    }


def _tags(transcoder: Transcoder, schemas: Schemas, document: DocumentOptions) -> list[Object]:
    tags: dict[str, Object] = {}
    for rule in transcoder.rules:
        service = rule.method.containing_service
        name = document.tag(service)
        if name not in tags:
            tags[name] = {"name": name}
            if description := schemas.describe(service.full_name, service.file.package):
                tags[name]["description"] = description
    return [*tags.values(), *(dict(tag) for tag in document.tags)]
