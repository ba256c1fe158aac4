"""GET /docs: Swagger UI over our own document, without a byte from anywhere else.

Its script and style come from the package fastapi-offline, of which no code is used. The policy lets the page
run them and ask nothing but this server, whatever the document says.
"""

from __future__ import annotations

import functools
from importlib import resources

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

router = APIRouter(prefix="/docs", include_in_schema=False)

_POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
# Addresses are relative, because a proxy may put something before them.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>whisper-server</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: true, validatorUrl: null,
});
"""
_KINDS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("")
async def docs() -> Response:
    """Show the document to a person."""
    return HTMLResponse(_PAGE, headers=_POLICY)


@router.get("/start.js")
async def start() -> Response:
    """Start the page; a file of its own, so that no script need be allowed in the page itself."""
    return Response(_START, media_type="text/javascript", headers=_POLICY)


@router.get("/swagger-ui-bundle.js")
async def script() -> Response:
    """Return Swagger UI."""
    return _asset("swagger-ui-bundle.js")


@router.get("/swagger-ui.css")
async def style() -> Response:
    """Return Swagger UI's style."""
    return _asset("swagger-ui.css")


def _asset(name: str) -> Response:
    return FileResponse(_folder() + "/" + name, media_type=_KINDS[name], headers=_POLICY)


@functools.cache
def _folder() -> str:
    return str(resources.files("fastapi_offline") / "static")
