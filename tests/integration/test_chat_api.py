"""POST /v1/chat/completions: audio in a message is answered with its transcript."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import Sample
from tests.support.asgi_client import StreamingClient, events_of
from tests.support.http_requests import HEARD, b64, error_of
from whisper_server.services.engines import fake

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def _device_runs() -> Iterator[None]:
    yield
    fake.GATE.set()


def audio_part(data: bytes) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": b64(data), "format": "wav"}}


def asking(data: bytes, *texts: str, **fields: Any) -> dict[str, Any]:
    content = [*({"type": "text", "text": text} for text in texts), audio_part(data)]
    return {"model": "whisper-1", "messages": [{"role": "user", "content": content}], **fields}


async def test_real_speech(nano_client: httpx.AsyncClient, speech: Sample) -> None:
    body = (await nano_client.post(CHAT, json=asking(speech.data, model="nano-whisper"))).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert body["created"] > 0
    assert body["model"] == "nano-whisper"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": speech.text, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    usage = body["usage"]
    assert usage["completion_tokens"] == usage["total_tokens"] > len(speech.text.split())
    assert usage["prompt_tokens"] == 0


async def test_text_beside_the_audio_is_the_prompt(client: httpx.AsyncClient, speech: Sample) -> None:
    response = await client.post(CHAT, json=asking(speech.data, "Green", " tea "))
    assert response.json()["choices"][0]["message"]["content"].endswith(" after Green tea")


async def test_what_tunes_a_chat_model_is_ignored(client: httpx.AsyncClient, speech: Sample) -> None:
    tuning: dict[str, Any] = {
        "stream": False,
        "stream_options": None,
        "temperature": 1.7,
        "max_tokens": 1,
        "max_completion_tokens": 1,
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "mp3"},
        "n": 3,
        "user": "me",
        "seed": 7,
        "stop": ["heard"],
        "tools": [{"type": "function"}],
        "top_p": 0.1,
    }
    body = (await client.post(CHAT, json=asking(speech.data, **tuning))).json()
    assert len(body["choices"]) == 1
    assert HEARD.fullmatch(body["choices"][0]["message"]["content"])


async def test_the_newest_audio_counts(client: httpx.AsyncClient, speech: Sample, samples: Any) -> None:
    alone = (await client.post(CHAT, json=asking(speech.data))).json()["choices"][0]["message"]["content"]
    older = {"role": "user", "content": [audio_part(samples["fr-plain-009.flac"].data)]}
    newest = asking(speech.data)["messages"]
    turns = [
        {"role": "system", "content": "You listen."},
        older,
        {"role": "assistant", "content": "...", "audio": {"id": "audio_1"}},
        *newest,
        {"role": "user", "content": "And?"},
    ]
    body = (await client.post(CHAT, json={"messages": turns})).json()
    assert body["choices"][0]["message"]["content"] == alone


@pytest.mark.parametrize(
    "part",
    [
        lambda text: {"type": "input_audio", "inputAudio": {"data": text}},
        lambda text: {"type": "audio", "audio": {"data": text}},
        lambda text: {"type": "input_audio", "input_audio": text},
        lambda text: {"type": "input_audio", "input_audio": {"data": "data:audio/flac;base64," + text}},
    ],
)
async def test_parts_of_older_clients(client: httpx.AsyncClient, speech: Sample, part: Any) -> None:
    response = await client.post(CHAT, json={"messages": [{"content": [part(b64(speech.data))]}]})
    assert HEARD.fullmatch(response.json()["choices"][0]["message"]["content"])


@pytest.mark.parametrize("include_usage", [False, True])
async def test_a_stream_of_chunks(client: httpx.AsyncClient, speech: Sample, include_usage: bool) -> None:
    body = asking(speech.data, stream=True, stream_options={"include_usage": include_usage})
    response = await client.post(CHAT, json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")
    chunks = events_of(response.text)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    usage = chunks.pop() if include_usage else None
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    assert HEARD.fullmatch("".join(delta["content"] for delta in deltas[1:-1]))
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    if usage is not None:
        assert usage["choices"] == []
        assert usage["usage"]["completion_tokens"] > 0
        assert all(chunk["usage"] is None for chunk in chunks)


async def test_silence_is_an_empty_answer(client: httpx.AsyncClient) -> None:
    from tests.support.audio_files import wav_bytes

    silence = wav_bytes(bytes(64_000))
    body = (await client.post(CHAT, json=asking(silence))).json()
    assert body["choices"][0]["message"]["content"] == ""
    chunks = events_of((await client.post(CHAT, json=asking(silence, stream=True))).text)
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [{"role": "assistant", "content": ""}, {}]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": [None, {"content": [None, {"type": "text", "text": None}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        ["messages"],
    ],
)
async def test_without_audio(client: httpx.AsyncClient, body: Any) -> None:
    assert "input_audio" in error_of(await client.post(CHAT, json=body), 400, param="messages")


@pytest.mark.parametrize("stream", [False, True])
async def test_bad_audio_and_bad_values(client: httpx.AsyncClient, speech: Sample, stream: bool) -> None:
    async def ask(body: dict[str, Any]) -> httpx.Response:
        return await client.post(CHAT, json={**body, "stream": stream})

    error_of(await ask(asking(b"no audio" * 99)), 400, param="messages")
    broken = asking(speech.data)
    broken["messages"][0]["content"][0]["input_audio"]["data"] = "!!!"
    error_of(await ask(broken), 400, param="messages")
    error_of(await ask(asking(speech.data, language="klingon")), 400, param="language")
    error_of(
        await ask(asking(speech.data, model="gpt-4o-audio-preview")),
        404,
        param="model",
        code="model_not_found",
    )
    error_of(await client.post(CHAT, content=b"{", headers={"content-type": "application/json"}), 400)
    error_of(await client.post(CHAT, json=asking(speech.data, stream="maybe")), 400, param="stream")


async def test_a_client_that_leaves(client: httpx.AsyncClient, speech: Sample) -> None:
    fake.GATE.clear()
    request = client.build_request("POST", CHAT, content=json.dumps(asking(speech.data, stream=True)))
    streaming = StreamingClient(request)
    streaming.left.set()
    await streaming.run(client.app)
    assert streaming.sent == []
    assert [model.leases for model in client.app.state.services.models.loaded()] in ([], [0])
