"""Which web pages may call the server: how an origin is written in a setting, and what it matches.

An origin is what a browser sends in `Origin`: a scheme, a host and a port that is not the scheme's own, in
lower case and without a slash at the end; or `null`, which pages from files and in sandboxes send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

ALL = "*"
DEFAULTS = "default"  # the word for `DEFAULT_ORIGINS` in a setting that adds to them

# Pages that run on this machine anyway: development servers, and the web views of installed applications.
# Extensions and `null` are not among them: any page can open a sandbox, and extensions come from a store.
DEFAULT_ORIGINS = (
    "http://localhost:*",
    "https://localhost:*",
    "http://*.localhost:*",  # Tauri on Windows and Android: tauri.localhost
    "https://*.localhost:*",
    "http://127.0.0.1:*",
    "https://127.0.0.1:*",
    "http://[::1]:*",
    "https://[::1]:*",
    "tauri://localhost",
    "app://*",  # Electron's custom, as Obsidian has it
    "capacitor://localhost",
    "ionic://localhost",
    "vscode-webview://*",
)

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[^/\s\[\]:@]+)(:(\d+|\*))?|null|\*", re.IGNORECASE)
_ANY_PORT = ":*"


def as_browsers_write_them(origins: Iterable[str]) -> tuple[str, ...]:
    """Return origins and patterns as they are compared, with the default ones where the setting says so.

    Raises:
        ValueError: one is neither an origin nor a pattern of one.
    """
    found: list[str] = []
    for written in origins:
        origin = written.lower().rstrip("/")
        if origin == DEFAULTS:
            found += DEFAULT_ORIGINS
        elif _ORIGIN.fullmatch(origin):
            found.append(origin)
        else:
            raise ValueError(
                f"{written!r} is no origin such as http://localhost:3000, https://*.example.org or null"
            )
    return tuple(dict.fromkeys(found))


def matcher(origins: Iterable[str]) -> re.Pattern[str]:
    """Return what matches an origin, whole and in lower case; `*` is any host, part of one, or port."""
    return re.compile("|".join(_regex(origin) for origin in origins) or r"(?!)")


def _regex(origin: str) -> str:
    if origin == ALL:
        return ".*"
    port = ""
    if origin.endswith(_ANY_PORT):
        origin, port = origin.removesuffix(_ANY_PORT), r"(:\d+)?"
    return re.escape(origin).replace(r"\*", "[^/:@]+") + port
