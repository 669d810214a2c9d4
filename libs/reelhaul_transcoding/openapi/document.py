"""Documents: OpenAPI 3.1 of everything that a transcoder serves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping

from reelhaul_transcoding.app import Transcoder
from reelhaul_transcoding.openapi.operations import Operations
from reelhaul_transcoding.openapi.options import DocumentOptions, Object
from reelhaul_transcoding.openapi.paths import PathExpander
from reelhaul_transcoding.openapi.schemas import Schemas
from reelhaul_transcoding.routing.router import ANY_METHOD
from reelhaul_transcoding.routing.rules import HttpRule

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")


def build_openapi(transcoder: Transcoder, document: DocumentOptions) -> Object:
    """Return the OpenAPI 3.1 document of the routes of *transcoder*, in their order.

    It is a dict of JSON values. Routes for any method are documented as POST. HEAD, which every GET
    has, and OPTIONS are left out. https://spec.openapis.org/oas/v3.1.1.html
    """
    rules = [rule for rule in transcoder.rules if document.include(rule.method)]
    options = transcoder.options
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
    # Copied without objects in common, which YAML anchors make.
    for text, path_operations in json.loads(json.dumps(dict(document.operations))).items():
        paths.setdefault(text, {}).update(path_operations)
    responses = {"Error": {"description": "Any other error.", "content": operations.error_content()}}
    responses |= _share_responses(paths)
    return {
        "openapi": "3.1.1",
        "info": dict(document.info),
        "servers": [dict(server) for server in document.servers],
        "tags": _tags(rules, schemas, document),
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "responses": responses,
            "securitySchemes": dict(document.security_schemes),
        },
    }


def _share_responses(paths: Mapping[str, Object]) -> Object:
    """Replace the most frequent response of each error status by a reference; return these responses."""
    by_status: dict[str, list[Object]] = {}
    for operations in paths.values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status.startswith(("4", "5")):
                    by_status.setdefault(status, []).append(response)
    shared: Object = {}
    for status, responses in sorted(by_status.items()):
        most_frequent, count = Counter(map(_to_text, responses)).most_common(1)[0]
        if count == 1:
            continue
        shared[f"Error{status}"] = json.loads(most_frequent)
        for response in responses:
            if _to_text(response) == most_frequent:
                response.clear()
                response["$ref"] = f"#/components/responses/Error{status}"
    return shared


def _to_text(response: Object) -> str:
    return json.dumps(response, sort_keys=True)


def _tags(rules: Iterable[HttpRule], schemas: Schemas, document: DocumentOptions) -> list[Object]:
    tags = {tag["name"]: dict(tag) for tag in document.tags}
    for rule in rules:
        service = rule.method.containing_service
        tag = tags.setdefault(document.tag(service), {"name": document.tag(service)})
        description = schemas.describe(service.full_name, service.file.package)
        if description and "description" not in tag:
            tag["description"] = description
    return list(tags.values())
