"""Jobs that fetch their file, and jobs that call back; the other side is a real server on loopback."""

from __future__ import annotations

import base64
import json

import httpx
import pytest
from standardwebhooks import Webhook

from tests.conftest import Sample
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import OpenClient
from tests.support.job_requests import JOBS, result_of, submit, until_end
from tests.support.receiver import receiving, reply
from whisper_server.core.config import load_settings
from whisper_server.core.errors import ConfigError
from whisper_server.services.jobs import callbacks, fetching

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OPEN = {"callback_hosts": ("127.0.0.1",), "callback_secret": SECRET, "file_url_hosts": ("127.0.0.1",)}


async def test_a_job_that_ends_is_told_and_signed(open_client: OpenClient, speech: Sample) -> None:
    async with receiving(reply(200)) as receiver, open_client(**OPEN) as client:
        job = await submit(client, speech.data, callback_url=receiver.url)
        heard = await receiver.heard.get()
        assert heard.line == "POST /hook?x=1 HTTP/1.1"
        event = Webhook(SECRET).verify(heard.body, heard.headers)
        assert (event["type"], event["data"]["id"]) == ("job.completed", job["id"])
        assert heard.headers["webhook-id"] == job["id"]
        assert "text" not in event["data"]
    assert receiver.heard.empty()


async def test_a_callback_is_repeated_until_it_is_taken(
    open_client: OpenClient, speech: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "DELAYS_S", (0.0, 0.0, 0.0))
    answers = (reply(500), reply(302, b"", "location: http://127.0.0.1/"), reply(204))
    async with receiving(*answers) as receiver, open_client(**OPEN) as client:
        await submit(client, speech.data, callback_url=receiver.url)
        heard = [await receiver.heard.get() for _ in answers]
    assert len({each.headers["webhook-id"] for each in heard}) == 1
    for each in heard:
        Webhook(SECRET).verify(each.body, each.headers)


async def test_a_failure_is_told_too(open_client: OpenClient) -> None:
    async with receiving(reply(410)) as receiver, open_client(**OPEN) as client:
        sent = {"background": True, "callback_url": receiver.url, "file_url": "http://127.0.0.1:1/none"}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fetching, "DELAYS_S", ())
            made = await client.post(URL, json=sent)
            assert made.status_code == 202, made.text
            event = json.loads((await receiver.heard.get()).body)
    assert (event["type"], event["data"]["error"]["param"]) == ("job.failed", "file_url")


async def test_a_file_is_fetched(open_client: OpenClient, speech: Sample) -> None:
    for encoding in ("form", "json"):
        async with receiving(reply(503), reply(200, speech.data)) as sender, open_client(**OPEN) as client:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fetching, "DELAYS_S", (0.0,))
                fields = {"background": "true", "file_url": sender.url}
                if encoding == "form":
                    fields_as_parts = {name: (None, value) for name, value in fields.items()}
                    made = await client.post(URL, files=fields_as_parts)
                else:
                    made = await client.post(URL, json=fields)
                assert made.status_code == 202, made.text
                assert (await until_end(client, made.json()["id"]))["status"] == "completed"
            at_once = await client.post(URL, **form(speech.data))
            assert (await result_of(client, made.json()["id"])).json() == at_once.json()
            assert (await sender.heard.get()).line == "GET /hook?x=1 HTTP/1.1"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (reply(404), "the answer was 404"),
        (reply(302, b"", "location: http://127.0.0.1/"), "the answer was 302"),
        (reply(200, bytes((1 << 20) + 1)), "Maximum content size limit"),
        (reply(200, b"x", "content-encoding: gzip"), "compressed"),
        (reply(200, b"no audio"), ""),
        (b"nonsense\r\n\r\n", "cannot be had"),
    ],
)
async def test_what_is_no_file_fails_the_job(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch, answer: bytes, expected: str
) -> None:
    monkeypatch.setattr(fetching, "DELAYS_S", ())
    async with receiving(answer) as sender, open_client(**OPEN, max_audio_file_size_mb=1) as client:
        made = await client.post(URL, json={"background": True, "file_url": sender.url})
        ended = await until_end(client, made.json()["id"])
        assert ended["status"] == "failed"
        assert expected in ended["error"]["message"]
        assert "127.0.0.1" not in ended["error"]["message"]


async def test_a_file_that_does_not_come_fails_the_job(open_client: OpenClient) -> None:
    slow = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nabc"
    async with receiving(slow) as sender, open_client(**OPEN, file_url_timeout_s=0.2) as client:
        made = await client.post(URL, json={"background": True, "file_url": sender.url})
        ended = await until_end(client, made.json()["id"])
        assert (ended["status"], ended["error"]["param"]) == ("failed", "file_url")


async def test_what_is_not_allowed_is_refused_at_once(
    client: httpx.AsyncClient, open_client: OpenClient, speech: Sample
) -> None:
    for name in ("callback_url", "file_url"):
        fields = {"background": True, name: "http://127.0.0.1/"}
        if name == "callback_url":
            fields["audio"] = base64.b64encode(speech.data).decode()
        message = error_of(await client.post(URL, json=fields), 400, param=name)
        assert "HOSTS" in message
        later = {**fields, "background": False}
        error_of(await client.post(URL, json=later), 400, param=name)
    both = await client.post(URL, **form(speech.data, background="true", file_url="http://a.example/"))
    error_of(both, 400, param="file_url")
    alignment = await client.post("/v1/audio/alignments", json={"text": "a", "file_url": "http://a.example/"})
    error_of(alignment, 400, param="audio")
    assert (await client.get(JOBS)).json()["data"] == []


def test_callbacks_need_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_CALLBACK_HOSTS", "example.org")
    with pytest.raises(ConfigError, match="WHISPER_CALLBACK_SECRET"):
        load_settings()
    monkeypatch.setenv("WHISPER_CALLBACK_SECRET", "too short to be one")
    with pytest.raises(ConfigError, match="WHISPER_CALLBACK_SECRET") as caught:
        load_settings()
    assert "too short" not in str(caught.value)
    monkeypatch.setenv("WHISPER_CALLBACK_SECRET", SECRET)
    assert load_settings().callback_hosts == ("example.org",)
