"""GET / in a browser: the page, without a byte from anywhere else; other clients get what `routes.root` says.

Files below `static/` are served as they are, without a build step. The policy lets them ask nothing but this
server and lets no other page show them.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from whisper_server.core.errors import RouteNotFound

router = APIRouter(prefix="/web", include_in_schema=False)

FOLDER = Path(__file__).with_name("static")
_KINDS = {".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "media-src blob:; img-src data:; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "permissions-policy": "microphone=(self)",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",  # a new version of the server brings its own page
}


def page() -> Response:
    """Return the page itself; it differs from what other clients get of the same address."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers={**_HEADERS, "vary": "accept"})


@router.get("/{name}")
async def asset(name: str) -> Response:
    """Return one of the page's scripts, or its style."""
    file = next((each for each in FOLDER.iterdir() if each.name == name and each.suffix in _KINDS), None)
    if file is None:
        raise RouteNotFound("There is no such file.")
    return FileResponse(file, media_type=_KINDS[file.suffix], headers=_HEADERS)
