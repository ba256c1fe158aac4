"""The listening sockets, bound before the server is imported: a taken port is known at once."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import ExitStack
from typing import Any

BACKLOG = 512  # connections that wait to be accepted
RESERVED_CONNECTIONS = 64  # for request headers; more than are accepted between a connection and its headers
# What the system keeps of a reply. Its own choice grows to megabytes: a slow client would then take minutes
# to make any room, and could not be told from one that takes nothing.
_SEND_BUFFER_BYTES = 64 * 1024
_EVERY_ADDRESS = ipaddress.IPv6Address("::")


def listen(host: str, port: int) -> list[socket.socket]:
    """Return one listening socket per address of `host`, all on the same port; 0 takes a free one.

    `::` is every address of both families; any other IPv6 address is that address alone.

    Raises:
        OSError: the port is taken, or the host is none of this machine's addresses.
    """
    found = _addresses(host, port)
    unavailable: OSError | None = None
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                listening = opened.enter_context(socket.socket(family, kind, protocol))
                _bind(listening, (address[0], port, *address[2:]))
            except OSError as error:
                # `localhost` often has an IPv6 address that the machine does not: one is enough.
                if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                    raise
                unavailable = error
                continue
            port = listening.getsockname()[1]
            sockets.append(listening)
        if not sockets:
            raise unavailable or OSError(errno.EADDRNOTAVAIL, "no such address")
        opened.pop_all()
        return sockets


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens on `host`.

    Raises:
        OSError: the name cannot be resolved.
    """
    addresses = [str(address[0]) for *_, address in _addresses(host, 0)]
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _addresses(host: str, port: int) -> list[Any]:
    """Return what `listen` binds."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)


def _bind(listening: socket.socket, address: tuple[object, ...]) -> None:
    if os.name == "posix":  # elsewhere it would let two servers share a port
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listening.family == socket.AF_INET6:
        is_every = ipaddress.IPv6Address(str(address[0]).partition("%")[0]) == _EVERY_ADDRESS
        listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_every)
    listening.bind(address)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)  # of what it accepts too
    listening.listen(BACKLOG)


def url_of(listening: socket.socket, scheme: str = "http") -> str:
    """Return the address that a client uses."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
