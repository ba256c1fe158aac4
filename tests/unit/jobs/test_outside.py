"""Addresses that clients name: what is called, what is not, and that nothing else is connected to."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from whisper_server.core.errors import InvalidRequest
from whisper_server.services.jobs.outside import NoConnection, NotAllowed, OutsideHosts, call, target_of

PUBLIC, INSIDE = "93.184.215.14", "10.1.2.3"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/a",
        "file:///etc/passwd",
        "//example.org/a",
        "http://",
        "http:///a",
        "http://user@example.org/",
        "http://user:password@example.org/",
        "http://example.org\\@evil.example/",
        "http://exa mple.org/",
        "http://example.org/\r\nx: y",
        "http://example.org:99999/",
        "http://[::1/",
        "http://" + "a" * 3000,
        "http://ex\u00e4mple.org/",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(NotAllowed):
        target_of(url)


def test_a_url_is_taken_apart() -> None:
    target = target_of("https://Hooks.Example.org.:8443/a/b?c=d#e")
    assert (target.host, target.port, target.path) == ("hooks.example.org", 8443, "/a/b?c=d")
    assert target.authority == "hooks.example.org:8443"
    assert target_of("http://[::1]/").authority == "[::1]"


@pytest.mark.parametrize(
    ("allowed", "url", "is_allowed"),
    [
        ((), "https://example.org/", False),
        (("example.org",), "https://example.org/", True),
        (("example.org",), "https://EXAMPLE.org./", True),
        (("example.org",), "https://a.example.org/", False),
        (("*.example.org",), "https://a.example.org/", True),
        (("*.example.org",), "https://example.org/", False),
        (("*.example.org",), "https://notexample.org/", False),
        (("*",), "https://any.example/", True),
        (("*",), "http://10.1.2.3/", False),  # addresses are listed as addresses
        (("*",), f"http://{PUBLIC}/", False),
        (("10.0.0.0/8",), "http://10.1.2.3/", True),
        (("10.0.0.0/8",), "http://11.1.2.3/", False),
        (("::1",), "http://[::1]:9/", True),
        (("10.1.2.3",), "http://[::ffff:10.1.2.3]/", False),
        (("*",), "http://2130706433/", True),  # a name, which leads to loopback: refused when looked up
    ],
)
def test_what_an_operator_allows(allowed: tuple[str, ...], url: str, is_allowed: bool) -> None:
    hosts = OutsideHosts(allowed)
    if is_allowed:
        hosts.check(url, "callback_url", "WHISPER_CALLBACK_HOSTS")
        return
    with pytest.raises(InvalidRequest, match="WHISPER_CALLBACK_HOSTS") as caught:
        hosts.check(url, "callback_url", "WHISPER_CALLBACK_HOSTS")
    assert caught.value.param == "callback_url"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What names lead to: there is no network in tests."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *rest: Any, **named: Any) -> list[Any]:
        if host not in known:
            return real(host, port, *rest, **named)
        return [found for address in known[host] for found in real(address, port, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.mark.parametrize(
    "address",
    [
        INSIDE,
        "127.0.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
async def test_a_name_that_leads_inside_is_not_called(names: dict[str, list[str]], address: str) -> None:
    names["hook.example.org"] = [address]
    with pytest.raises(NotAllowed):
        await OutsideHosts(["*"]).addresses(target_of("http://hook.example.org/"))


async def test_a_name_may_lead_inside_where_that_is_listed(names: dict[str, list[str]]) -> None:
    names["hook.example.org"] = [PUBLIC, "127.0.0.1", INSIDE]
    target = target_of("http://hook.example.org/")
    assert await OutsideHosts(["hook.example.org"]).addresses(target) == [PUBLIC]
    listed = OutsideHosts(["hook.example.org", "10.0.0.0/8"])
    assert await listed.addresses(target) == [PUBLIC, INSIDE]


async def test_numbers_that_are_names_lead_nowhere() -> None:
    with pytest.raises((NotAllowed, NoConnection)):
        await OutsideHosts(["*"]).addresses(target_of("http://2130706433/"))  # 127.0.0.1


async def test_the_connection_goes_to_the_address_that_was_checked(names: dict[str, list[str]]) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        # A second look-up would lead to an address that nobody listens on.
        names["hook.example.org"] = ["127.0.0.9"]
        writer.write(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    names["hook.example.org"] = ["127.0.0.1"]
    hosts = OutsideHosts(["hook.example.org", "127.0.0.1"])
    url = f"http://hook.example.org:{port}/a?b=c"
    async with server, call(hosts, "GET", url, headers={}, timeout_s=30) as reply:
        assert reply.status_code == 302  # which is not followed
    (request,) = heard
    assert request.startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert f"host: hook.example.org:{port}\r\n".encode() in request.lower()


async def test_nobody_there(names: dict[str, list[str]]) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        with pytest.raises(NoConnection):
            async with call(OutsideHosts(["127.0.0.1"]), "GET", url, headers={}, timeout_s=5):
                pass
