"""Addresses that clients name: which of them this server calls, and calls that go nowhere else.

A name is looked up once, what it leads to is checked, and the connection goes to the checked address itself:
there is no second look-up that could give another one. Redirects are not followed, and no proxy of the
environment is used, which would look the name up again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from whisper_server.core.errors import InvalidRequest

if TYPE_CHECKING:
    import httpx2

MAX_URL_CHARS = 2048
CONNECT_TIMEOUT_S = 10.0

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class NotAllowed(Exception):
    """An address that this server does not call; the message says why."""


class NoConnection(Exception):
    """Nobody was reached, or what was said is no HTTP; another attempt may help."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL, taken apart."""

    scheme: str
    host: str  # a name in ASCII and lower case, or an address without brackets
    port: int
    path: str  # with the query

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str) -> Target:
    """Take a URL apart; raises `NotAllowed` where it is none that could be called."""
    if len(url) > MAX_URL_CHARS or not url.isascii() or any(each <= " " or each == "\x7f" for each in url):
        raise NotAllowed(f"a URL has at most {MAX_URL_CHARS} characters, all of ASCII and without spaces")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError as error:
        raise NotAllowed("it is no URL") from error
    if parts.scheme not in _PORTS or not host:
        raise NotAllowed("it does not begin with http:// or https:// and a host")
    if parts.username is not None or parts.password is not None or "\\" in url:
        raise NotAllowed("it has a user, a password or a backslash in it")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host, _PORTS[parts.scheme] if port is None else port, path)


class OutsideHosts:
    """What an operator allows: names, `*.example.org`, `*`; addresses and networks.

    A name may lead to public addresses only, unless the address or its network is allowed as well.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._names: list[str] = []
        self._networks = []
        for entry in allowed:
            try:
                self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                self._names.append(entry.lower().rstrip("."))

    @property
    def is_empty(self) -> bool:
        """Whether nothing is allowed."""
        return not (self._names or self._networks)

    def check(self, url: str, param: str, setting: str) -> None:
        """Check what can be told without a look-up.

        Raises:
            InvalidRequest: such addresses are not called; the message names `setting`.
        """
        try:
            self._named(target_of(url))
        except NotAllowed as error:
            raise InvalidRequest(f"{param}: {error} ({setting}).", param=param) from error

    async def addresses(self, target: Target) -> list[str]:
        """Look a target up; return the addresses that may be connected to, at least one.

        Raises:
            NotAllowed: there is none among those that it has.
            NoConnection: the name is not known now.
        """
        literal = self._named(target)
        if literal is not None:
            return [str(literal)]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            raise NoConnection("its name cannot be looked up") from error
        addresses = list(dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found))
        allowed = [each for each in addresses if self._may_lead_to(ipaddress.ip_address(each))]
        if not allowed:
            raise NotAllowed("its name leads to an address that is not public and not allowed")
        return allowed

    def _named(self, target: Target) -> _Address | None:
        """Return the address that a target is written as, None for a name; raises `NotAllowed`."""
        try:
            literal = ipaddress.ip_address(target.host)
        except ValueError:
            if not any(_fits(target.host, each) for each in self._names):
                raise NotAllowed("this host is not allowed") from None
            return None
        if not self._is_listed(literal):
            raise NotAllowed("this address is not allowed")
        return literal

    def _is_listed(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def _may_lead_to(self, address: _Address) -> bool:
        if self._is_listed(address):
            return True
        inner = _inside(address)
        return address.is_global and not address.is_multicast and (inner is None or inner.is_global)


def _inside(address: _Address) -> ipaddress.IPv4Address | None:
    """Return the address of IPv4 that one of IPv6 stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _fits(host: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return host.endswith(pattern[1:]) and host != pattern[1:]
    return pattern in ("*", host)


@asynccontextmanager
async def call(
    hosts: OutsideHosts,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    content: bytes | None = None,
) -> AsyncIterator[httpx2.Response]:
    """Send a request to a checked address; yield the reply before its body is read.

    Raises:
        NotAllowed: it leads to where this server does not go.
        NoConnection: no address of it answers, or not within `timeout_s` of silence.
    """
    import httpx2  # noqa: PLC0415  (most servers call nobody)

    target = target_of(url)
    sent = {
        **headers,
        "host": target.authority,
        "user-agent": "whisper-server",
        "accept-encoding": "identity",
    }
    timeout = httpx2.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
    async with httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout) as client:
        requests = [
            client.build_request(
                method,
                f"{target.scheme}://{f'[{each}]' if ':' in each else each}:{target.port}{target.path}",
                headers=sent,
                content=content,
                extensions={"sni_hostname": target.host},
            )
            for each in await hosts.addresses(target)
        ]
        try:
            reply = await _first_that_connects(client, requests)
            try:
                yield reply
            finally:
                await reply.aclose()
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise NoConnection(type(error).__name__) from error


async def _first_that_connects(
    client: httpx2.AsyncClient, requests: Sequence[httpx2.Request]
) -> httpx2.Response:
    """Send the first of the requests whose address can be connected to; raises what the last one does."""
    import httpx2  # noqa: PLC0415

    for request in requests[:-1]:
        with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
            return await client.send(request, stream=True)
    return await client.send(requests[-1], stream=True)
