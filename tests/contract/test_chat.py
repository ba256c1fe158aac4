"""Chat completions of a real server, as the official Python client reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import NANO, Sample, StartServer
from tests.support.http_requests import b64

openai = pytest.importorskip("openai", reason="openai is not installed")


def test_plain_streamed_and_wrong(start_server: StartServer, nano_cache: Path, speech: Sample) -> None:
    server = start_server(
        "--model", str(NANO), WHISPER_ENGINE="ctranslate2", WHISPER_CACHE_DIR=str(nano_cache)
    )
    part = {"type": "input_audio", "input_audio": {"data": b64(speech.data), "format": "wav"}}
    asked: dict[str, Any] = {
        "model": "nano-whisper",
        "messages": [{"role": "user", "content": [part]}],
        "temperature": 1.5,
        "max_tokens": 10,
        "modalities": ["text"],
        "n": 1,
        "user": "me",
        "seed": 1,
    }
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="any", _strict_response_validation=True
    ) as client:
        create = client.chat.completions.create
        reply = create(**asked)
        assert reply.choices[0].message.content == speech.text
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage.completion_tokens > 0

        chunks = list(create(**asked, stream=True, stream_options={"include_usage": True}))
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-1].usage == reply.usage
        said = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
        assert "".join(text or "" for text in said) == speech.text

        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                create(model="whisper-1", messages=[{"role": "user", "content": "Hello"}], stream=stream)
            assert caught.value.param == "messages"
            with pytest.raises(openai.NotFoundError) as unknown:
                create(**{**asked, "model": "gpt-4o"}, stream=stream)
            assert unknown.value.code == "model_not_found"
