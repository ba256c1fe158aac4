"""Addresses as other servers have them -> our own; pure. Add one as a line of `_PREFIXES`.

The request is served under our own address without a redirect: clients that follow a redirect send the
whole upload twice, or forget their key on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from whisper_server.api.asgi import Scope

# How a path begins -> how it begins here; the first that fits is taken, again and again until none does.
_PREFIXES = (
    ("/openai/v1/", "/v1/"),  # groq's SDKs, and Azure's newer ones
    ("/openai/", "/v1/"),  # Azure's older ones, for what needs no deployment
    ("/api/v1/", "/v1/"),  # OpenRouter's
    ("/api/openai/", "/openai/"),
    ("/v1/v1/", "/v1/"),  # a base URL that ends in /v1, in a client that adds it
    # A base URL without /v1, in a client that does not add it.
    ("/audio/", "/v1/audio/"),
    ("/chat/", "/v1/chat/"),
    ("/models/", "/v1/models/"),
)
_MAX_PREFIXES = 8  # that are taken of one path: a base URL and a proxy add a few, and each is a copy of it
_DEPLOYMENT = re.compile(r"/openai/deployments/([^/]+)(/.+)")
_GROQ = "/openai/v1/"
_FOUND = "address"  # in the scope's state


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes, and what its own address says beyond that."""

    path: str  # ours
    deployment: str = ""  # the model, as Azure has it in the path
    is_groq: bool = False  # replies carry groq's own field


def own_address(path: str) -> Address:
    """Return where a path leads here; one that is ours already stays as it is."""
    path = re.sub("/{2,}", "/", path)
    deployment = ""
    if found := _DEPLOYMENT.fullmatch(path):
        deployment, path = found[1], found[2]
    address = Address(path, deployment, is_groq=path.startswith(_GROQ) and not deployment)
    # A slash at the end, so that a prefix fits the whole path too.
    path = path if path.endswith("/") else path + "/"
    for _ in range(_MAX_PREFIXES):
        prefix = next((each for each in _PREFIXES if path.startswith(each[0])), None)
        if prefix is None:
            break
        path = prefix[1] + path.removeprefix(prefix[0])
    return replace(address, path=path.rstrip("/") or "/")


def keep_address(scope: Scope, address: Address) -> None:
    """Let those below know the address that the request came to."""
    scope.setdefault("state", {})[_FOUND] = address


def address_of(scope: Scope) -> Address:
    """Return the address of a request, as `keep_address` was told it."""
    address: Address = scope.get("state", {}).get(_FOUND) or Address(scope["path"])
    return address
