"""Service config: the HTTP rules of a YAML or JSON file, for services without annotations or with others.

The form is that of google.api.Service, of which only ``http`` is read:

    type: google.api.Service
    config_version: 3
    http:
      rules:
      - selector: library.v1.LibraryService.GetBook
        get: /v1/{name=books/*}

https://github.com/googleapis/googleapis/blob/master/google/api/service.proto
"""

from __future__ import annotations

import yaml
from google.api import http_pb2
from google.protobuf import json_format

from reelhaul_transcoding.routing.rules import RouteError


def read_service_config(text: str | bytes) -> http_pb2.Http:
    """Return the HTTP rules of a service config, for ``Options.http``. Raises RouteError."""
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RouteError(f"the service config is not YAML: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("http"), dict):
        raise RouteError("the service config has no object http")
    try:
        return json_format.ParseDict(config["http"], http_pb2.Http())
    except json_format.ParseError as error:
        raise RouteError(f"http of the service config is invalid: {error}") from error
