"""Host and Origin, the key, request ids; and, on raw sockets, bodies that are larger than they say."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest

from tests.conftest import Sample, Server, StartServer
from tests.support.http_requests import HEARD, URL, b64, error_of, exchange, form, request_headers
from tests.support.in_process import OpenClient
from whisper_server.api.middleware.auth import AuthMiddleware
from whisper_server.api.middleware.errors import ErrorMiddleware
from whisper_server.api.middleware.host_check import HostCheckMiddleware
from whisper_server.api.middleware.websocket_refusals import WebSocketRefusalMiddleware
from whisper_server.core.settings.origins import matcher

REFUSED = "websocket.http.response.start"
SILENT = {"/asr", "/detect-language"}  # whose errors have no body


async def status_for(client: httpx.AsyncClient, method: str = "GET", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return (await client.request(method, "/health" if method == "GET" else URL, headers=named)).status_code


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8089",
        "localhost.",
        "app.localhost",
        "127.0.0.1:1",
        "10.1.2.3",
        "[::1]:8089",
        "[fe80::1]",
    ],
)
async def test_hosts_that_cannot_be_rebound(client: httpx.AsyncClient, host: str) -> None:
    assert await status_for(client, host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8089",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1.evil.example",
        "user@localhost",
        "localhost:99999",
        "localhost/x",
        "localhost#",
        "LOCALHOST?",
        "local\thost",
        "2130706433",
        "0x7f.1",
        "",
        "[::1",
        "[::1]0",
        "0[::1]",
        "..localhost",
        ".localhost",
        "a..localhost",
        "localhost..",
        ".",
    ],
)
async def test_hosts_of_strangers(client: httpx.AsyncClient, host: str) -> None:
    response = await client.get("/health", headers={"host": host})
    assert response.status_code == 403
    assert "ALLOWED_HOSTS" in response.json()["error"]["message"]


async def test_hosts_that_the_operator_names(open_client: OpenClient) -> None:
    async with open_client(allowed_hosts=("speech.example", "*.lan"), host="box.home") as client:
        for host in ("speech.example:1", "nas.lan", "a.b.lan", "box.home"):
            assert await status_for(client, host=host) == 200, host
        for host in ("lan", ".lan", "evillan", "x.speech.example"):
            assert await status_for(client, host=host) == 403, host
    async with open_client(allowed_hosts=("*",)) as client:
        assert await status_for(client, host="anything.example") == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://10.0.0.2:3000",
        "http://localhost.evil.example",
        "file://",
        "",
    ],
)
async def test_pages_of_strangers_may_not_post(client: httpx.AsyncClient, origin: str) -> None:
    response = await client.post(URL, headers={"origin": origin})
    assert response.status_code == 403
    assert "ALLOWED_ORIGINS" in response.json()["error"]["message"]
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("scheme", ["ftp", "javascript", "ws", "file", "data", "x", ""])
async def test_a_page_of_our_name_but_of_another_kind_is_a_stranger(
    client: httpx.AsyncClient, scheme: str
) -> None:
    for host in ("localhost:8089", "localhost"):
        assert await status_for(client, "POST", origin=f"{scheme}://{host}", host=host) == 403


async def test_an_app_that_the_operator_names(open_client: OpenClient) -> None:
    async with open_client(allowed_origins=("tauri://localhost",)) as client:
        assert await status_for(client, "POST", origin="tauri://localhost") == 400


@pytest.mark.parametrize("end", ["%0A", "%0a", "%0D%0A", "%00", "%7F", "%C2%85", "%0Ax"])
@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ready",
        "/metrics",
        "/v1/models",
        "/v1/models/whisper-1",
        "/docs",
        "/openapi.json",
        "/",
        URL,
    ],
)
async def test_a_path_with_a_control_character_is_no_path(
    client: httpx.AsyncClient, path: str, end: str
) -> None:
    for method in ("GET", "POST", "DELETE"):
        response = await client.request(method, path + end)
        assert response.status_code == 404, response.text
        assert response.json()["error"]["type"] == "invalid_request_error"


async def test_pages_of_ours_and_of_friends_may_post(client: httpx.AsyncClient) -> None:
    for origin, host in [
        ("http://localhost:3000", "localhost:8089"),  # configured by default
        ("http://localhost:8089", "localhost:8089"),  # the same origin
        ("https://127.0.0.1", "127.0.0.1:443"),  # the same, behind a proxy that ends TLS
    ]:
        assert await status_for(client, "POST", origin=origin, host=host) == 400, origin


async def test_errors_carry_the_headers_that_let_a_page_read_them(client: httpx.AsyncClient) -> None:
    response = await client.post(URL, headers={"origin": "http://localhost:3000"})
    assert response.status_code == 400
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_preflights(open_client: OpenClient) -> None:
    async with open_client(api_key="key") as client:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        friend = await client.options(URL, headers={"origin": "http://localhost:3000", **asked})
        assert friend.status_code == 200
        assert friend.headers["access-control-allow-origin"] == "http://localhost:3000"
        stranger = await client.options(URL, headers={"origin": "https://evil.example", **asked})
        assert stranger.status_code == 403
        assert "access-control-allow-origin" not in stranger.headers


async def test_every_origin_where_the_operator_says_so(open_client: OpenClient) -> None:
    async with open_client(allowed_origins=("*",)) as client:
        assert await status_for(client, "POST", origin="null") == 400


async def test_websockets_are_checked_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def nothing() -> Any:
        raise AssertionError

    checked = HostCheckMiddleware(app, own_host="127.0.0.1", allowed_hosts=(), allowed_origins=matcher(()))
    guarded = WebSocketRefusalMiddleware(ErrorMiddleware(checked))
    for headers, expected in [
        ([(b"host", b"localhost")], "websocket.accept"),
        ([(b"host", b"evil.example")], REFUSED),
        ([(b"host", b"localhost"), (b"origin", b"https://evil.example")], REFUSED),
        ([(b"host", b"localhost:1"), (b"origin", b"http://localhost:1")], "websocket.accept"),
        ([(b"host", b"localhost"), (b"host", b"localhost")], REFUSED),
    ]:
        sent: list[Any] = []

        async def send(message: Any, into: list[Any] = sent) -> None:
            into.append(message)

        await guarded({"type": "websocket", "path": "/", "headers": headers}, nothing, send)
        assert sent[0]["type"] == expected


async def test_the_key(open_client: OpenClient) -> None:
    async with open_client(api_key="schlüssel") as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 200
        assert "press **Authorize**" in (await client.get("/openapi.json")).json()["info"]["description"]
        assert (
            (await client.get("/docs")).headers["content-security-policy"].startswith("default-src 'none'; ")
        )
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic a2V5"},
            {"authorization": b"Bearer \xff\xfe"},
        ):
            for path in ("/v1/models", "/metrics", "/nothing", "/docsx", "/openapi.json/x"):
                response = await client.get(path, headers=headers)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["code"] == "invalid_api_key"
        right = {"authorization": "bearer schlüssel".encode()}
        assert (await client.get("/v1/models", headers=right)).status_code == 200


async def test_the_key_opens_every_route_but_the_probes(open_client: OpenClient) -> None:
    async with open_client(api_key="key") as client:
        paths = client.app.openapi()["paths"]
        assert len(paths) > 8
        for path, methods in paths.items():
            for method in methods:
                response = await client.request(method, path.replace("{model}", "whisper-1"))
                assert (response.status_code == 401) == (path not in {"/health", "/ready"}), path
                if response.status_code == 401 and path not in SILENT:
                    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_the_key_opens_websockets_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})

    async def nothing() -> Any:
        raise AssertionError

    for headers, expected in [
        ([], REFUSED),
        ([(b"authorization", b"Bearer wrong")], REFUSED),
        ([(b"authorization", b"Bearer key")], "websocket.accept"),
    ]:
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/health", "headers": headers}
        guarded = WebSocketRefusalMiddleware(ErrorMiddleware(AuthMiddleware(app, api_key="key")))
        await guarded(scope, nothing, send)
        assert sent[0]["type"] == expected
        assert sent[0].get("status", 401) == 401


async def test_request_ids(client: httpx.AsyncClient) -> None:
    given = await client.get("/health", headers={"x-request-id": "desk-7.a_b"})
    assert given.headers["x-request-id"] == "desk-7.a_b"
    ids = {given.headers["x-request-id"]}
    for bad in ("", "-x", "a b", "x" * 65, "a\u00e9".encode(), "<script>"):
        response = await client.get("/nothing", headers={"x-request-id": bad})
        ids.add(response.headers["x-request-id"])
    assert len(ids) == 7
    assert all(len(made) <= 64 for made in ids)


# --- a real server and raw sockets ------------------------------------------------------------------


@pytest.fixture
def small(start_server: StartServer) -> Server:
    """A server that takes 1 MiB of audio."""
    return start_server("--max-audio-file-size-mb", "1")


def check_413(reply: bytes) -> None:
    top, _, body = reply.partition(b"\r\n\r\n")
    assert top.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in top.lower()
    assert b"x-request-id: " in top.lower()
    error = json.loads(body)["error"]
    assert error["message"].startswith("Maximum content size limit (1048576) exceeded (")
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)


def check_health(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200


JSON = "Content-Type: application/json"


def test_a_declared_length_over_the_limit_is_refused_unread(small: Server) -> None:
    check_413(
        exchange(small.address, request_headers(JSON, "Content-Length: 10000000", "Expect: 100-continue"))
    )
    check_health(small)


def test_a_body_over_the_limit_gets_its_answer_although_it_is_sent(small: Server) -> None:
    body = b"x" * 5_000_000
    check_413(exchange(small.address, request_headers(JSON, f"Content-Length: {len(body)}"), body))
    check_health(small)


@pytest.mark.parametrize("kind", [JSON, "Content-Type: multipart/form-data; boundary=x"])
def test_a_body_without_a_length_is_counted(small: Server, kind: str) -> None:
    start = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunks = [start, *[b"y" * (1 << 18)] * 12]
    encoded = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks]
    check_413(
        exchange(small.address, request_headers(kind, "Transfer-Encoding: chunked"), *encoded, b"0\r\n\r\n")
    )
    check_health(small)


def test_a_body_longer_than_its_declared_length(small: Server) -> None:
    reply = exchange(
        small.address, request_headers(JSON, "Content-Length: 2"), b"{}" + b"z" * 70_000 + b"\r\n\r\n"
    )
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b'"param": "audio"' in reply
    # What was too much is no second request.
    assert reply.count(b"HTTP/1.1 ") == reply.count(b"HTTP/1.1 400")
    check_health(small)


def test_a_body_shorter_than_its_declared_length(small: Server) -> None:
    with socket.create_connection(small.address, timeout=60) as connection:
        connection.sendall(request_headers(JSON, "Content-Length: 1000") + b"{")
    check_health(small)


def test_the_size_limit_of_a_real_upload(small: Server, speech: Sample) -> None:
    response = httpx.post(f"{small.url}{URL}", files={"file": bytes(5_000_000)})
    assert response.status_code == 413
    text = httpx.post(f"{small.url}{URL}", files={"file": speech.data}).json()["text"]
    assert HEARD.fullmatch(text)


@pytest.mark.parametrize("where", ["multipart", "body", "base64", "work"])
async def test_no_memory_is_a_503_that_is_worth_a_retry(
    open_client: OpenClient, speech: Sample, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Wherever Python finds none: nothing is wrong with the request, nor with the server."""
    places = {
        "multipart": "whisper_server.api.requests.form._Reader.add_data",
        "body": "whisper_server.api.requests.upload.Upload",
        "base64": "whisper_server.api.requests.upload.decode_base64",
        "work": "whisper_server.services.transcriber.Transcriber.open",
    }

    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    async with open_client() as client:
        as_json = {"json": {"audio": b64(speech.data)}}
        arguments = as_json if where == "base64" else form(speech.data)
        with monkeypatch.context() as patch:
            patch.setattr(places[where], no_memory)
            response = await client.post(URL, **arguments)
        assert "no memory" in error_of(response, 503)
        assert int(response.headers["retry-after"]) > 0
        assert "x-should-retry" not in response.headers
        assert (await client.post(URL, **arguments)).status_code == 200
        page = (await client.get("/metrics")).text
        assert 'error="OutOfMemory"} 1.0' in page
        assert 'error="bug"} 0.0' in page
