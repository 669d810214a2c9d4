"""Documentation over HTTP: the OpenAPI document as JSON and YAML, and Swagger UI for it at /docs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.resources
from collections.abc import Callable
from typing import Any

import orjson
import yaml

from reelhaul_gateway.static_files import StaticFile, reject_method, send_file
from reelhaul_transcoding.http.asgi import Receive, Scope, Send
from reelhaul_transcoding.http.status import StatusWriter

# The page loads only from this server, and no script or style is inline. Icons are data: URLs, images in
# responses blob: URLs.
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
    b" blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATIC = {
    "/docs": ("docs.html", b"text/html; charset=utf-8"),
    "/docs/docs.js": ("docs.js", b"text/javascript"),
}
# Of the files in the package swagger-ui-py only these are served.
_SWAGGER_UI = {
    "/docs/swagger-ui.css": ("swagger-ui.css", b"text/css"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", b"text/javascript"),
    "/docs/favicon-32x32.png": ("favicon-32x32.png", b"image/png"),
}
_DOCUMENTS = {"/openapi.json": b"application/json", "/openapi.yaml": b"application/yaml"}

#: The RPC whose policy says who may read the documentation, and what that costs.
METHOD = "/reelhaul.system.v1.SystemService/DescribeServer"
#: The paths of the documentation.
PATHS = frozenset({*_DOCUMENTS, *_STATIC, *_SWAGGER_UI})


def is_documentation(scope: Scope) -> bool:
    """Return whether the request is for a path of the documentation."""
    return scope["path"] in PATHS


class DocumentationEndpoints:
    """Serves the requests that ``is_documentation`` selects, to anyone.

    *build* returns the document. Pages are built when they are first requested, in a thread, and kept.
    """

    def __init__(self, build: Callable[[], dict[str, Any]], statuses: StatusWriter) -> None:
        self._build, self._statuses = build, statuses
        self._pages: dict[str, StaticFile] = {}
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if await reject_method(scope, send, self._statuses):
            return
        path = scope["path"]
        async with self._lock:
            if path not in self._pages:
                self._pages |= await asyncio.to_thread(self._load, path)
        headers = [(b"content-security-policy", _PAGE_POLICY)] if path == "/docs" else []
        await send_file(scope, send, self._pages[path], headers)

    def _load(self, path: str) -> dict[str, StaticFile]:
        """Return the page of *path*; of one of the documents, both."""
        if path in _STATIC:
            name, content_type = _STATIC[path]
            file = importlib.resources.files("reelhaul_gateway").joinpath("static", name)
            return {path: StaticFile.compress(content_type, file.read_bytes())}
        if path in _SWAGGER_UI:
            name, content_type = _SWAGGER_UI[path]
            # Found without importing the package, which needs none of its code here.
            location = importlib.metadata.distribution("swagger-ui-py").locate_file(
                f"swagger_ui/static/{name}"
            )
            with open(str(location), "rb") as opened:
                return {path: StaticFile.compress(content_type, opened.read())}
        document = self._build()
        bodies = {"/openapi.json": orjson.dumps(document), "/openapi.yaml": _to_yaml(document)}
        return {path: StaticFile.compress(_DOCUMENTS[path], body) for path, body in bodies.items()}


def _to_yaml(document: dict[str, Any]) -> bytes:
    # The C form is faster by a factor of ten; wheels of PyYAML have it, builds from source may not.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(document, Dumper=dumper, sort_keys=False, allow_unicode=True, width=110)
    return text.encode()
