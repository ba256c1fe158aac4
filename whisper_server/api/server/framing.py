"""What HTTP says of requests whose length can be read in two ways; the parser takes them."""

from __future__ import annotations

from whisper_server.api.asgi import Scope
from whisper_server.core.errors import InvalidRequest, VersionNotSupported, WhisperServerError


def framing_error(scope: Scope) -> WhisperServerError | None:
    """Return what is wrong with a request that the parser takes: RFC 9112, sections 2.3, 6.1 and 6.3.

    Two lengths of one body are how requests are smuggled past proxies, so none of them is believed.
    """
    if scope["http_version"][:2] != "1.":
        return VersionNotSupported(f"This server speaks HTTP/1.1, not HTTP/{scope['http_version']}.")
    names = {name for name, _ in scope["headers"]}
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            return InvalidRequest(
                "The request has a Content-Length and a Transfer-Encoding. Send one of them."
            )
        if scope["http_version"] == "1.0":
            return InvalidRequest("HTTP/1.0 has no Transfer-Encoding. Send a Content-Length, or HTTP/1.1.")
    return None
