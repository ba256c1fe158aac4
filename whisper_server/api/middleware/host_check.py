"""Host and Origin are checked, because web pages must not use a local server without its operator's word.

Theory of operation. A page on `evil.example` cannot read our replies, but it can send simple requests:
those carry its Origin, and are refused. It can also point its own name at 127.0.0.1 (DNS rebinding)
and is then same-origin to us: those requests carry its name in Host, and are refused. A Host that is an
IP address cannot be rebound, because it is no name.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from whisper_server.api.asgi import ASGIApp, Receive, Scope, Send, header, header_values
from whisper_server.api.errors import MAX_SHOWN_CHARS
from whisper_server.core.errors import Forbidden

_NETLOC = re.compile(r"(\[[^\[\]]+\]|[^\[\]:@]+)(:\d*)?")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PAGE_SCHEMES = frozenset({"http", "https"})  # of pages that the server, or a proxy before it, has sent
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_MAX_LOGGED = 100  # origins that the log names

log = logging.getLogger("whisper_server.requests")


class HostCheckMiddleware:
    """Refuses requests whose Host or Origin is not configured; HTTP and WebSocket."""

    def __init__(
        self, app: ASGIApp, *, own_host: str, allowed_hosts: Sequence[str], allowed_origins: re.Pattern[str]
    ) -> None:
        self._app = app
        self._hosts = ("localhost", "*.localhost", _name_of(own_host) or own_host, *allowed_hosts)
        self._origins = allowed_origins
        self._logged: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] in {"http", "websocket"}:
            self._check(scope)
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        hosts = header_values(scope, b"host")
        # Without the header (HTTP/1.0, load balancers) there is no name that could have been rebound.
        if hosts and not (len(hosts) == 1 and self._is_host_allowed(hosts[0])):
            raise Forbidden(
                f"The host {', '.join(hosts)[:MAX_SHOWN_CHARS]!r} is not one of this server's names. "
                "To reach it by that name, add the name to ALLOWED_HOSTS."
            )
        origin = header(scope, b"origin")
        if origin is None or self._is_origin_allowed(origin, hosts[0] if hosts else ""):
            return
        self._log_once(origin)
        is_preflight = header(scope, b"access-control-request-method") is not None
        # What only reads is answered: the browser shows the page nothing of it.
        if is_preflight or scope.get("method") not in _SAFE_METHODS:
            raise Forbidden(
                f"Web pages of {origin[:MAX_SHOWN_CHARS]!r} may not use this server. "
                "To let them, add that origin to ALLOWED_ORIGINS."
            )

    def _log_once(self, origin: str) -> None:
        shown = ascii(origin[:MAX_SHOWN_CHARS])
        if shown not in self._logged and len(self._logged) < _MAX_LOGGED:
            self._logged.add(shown)
            log.warning("web pages of %s were refused; to let them in, add that to ALLOWED_ORIGINS", shown)

    def _is_host_allowed(self, host: str) -> bool:
        name = _name_of(host)
        return name is not None and (_is_ip(name) or any(_matches(name, host) for host in self._hosts))

    def _is_origin_allowed(self, origin: str, host: str) -> bool:
        origin = origin.lower()
        if self._origins.fullmatch(origin):
            return True
        scheme = origin.partition("://")[0]
        if scheme not in _PAGE_SCHEMES:
            return False
        # A proxy that ends TLS makes our own scheme differ from the page's: compare name and port.
        own = _authority(f"{scheme}://{host}".lower())
        return own is not None and own == _authority(origin)


def _name_of(host: str) -> str | None:
    """Return the name in a Host header, lower case, without port and brackets; None if it is malformed."""
    authority = _authority(f"http://{host}")
    return authority and authority[0]


def _authority(url: str) -> tuple[str, int] | None:
    """Return name and port of `scheme://name:port`, None for anything else."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    # urlsplit takes [::1]x and x[::1] for [::1], ends the name at / ? and #, and leaves tabs out.
    is_all = parts.netloc == url.partition("://")[2]
    if not (parts.hostname and is_all and _NETLOC.fullmatch(parts.netloc)):
        return None
    name = parts.hostname.removesuffix(".")
    if not all(name.split(".")):
        return None
    if port is None:
        port = _DEFAULT_PORTS.get(parts.scheme, 0)
    return name, port


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _matches(name: str, pattern: str) -> bool:
    pattern = pattern.lower()
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return pattern in {"*", name}
