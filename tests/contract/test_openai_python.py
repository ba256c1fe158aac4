"""The official Python client, unmodified and with strict response validation, against a real server."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.conftest import SAMPLES, Sample, Server, StartServer
from tests.contract.clients import KEY, NANO_NAME, client_package, stereo, wav_of
from tests.contract.document import needs_chat, needs_delete, needs_field, needs_stream, needs_translations
from tests.support.audio_files import encode, tone
from tests.support.http_requests import upload_begun

openai = client_package("openai")

CUE_TIMES = re.compile(r"^(\d\d:\d\d:\d\d[.,]\d{3}) --> (\d\d:\d\d:\d\d[.,]\d{3})$", re.MULTILINE)


@pytest.fixture
def client(nano: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{nano.url}/v1", api_key="any", _strict_response_validation=True) as opened:
        yield opened


@pytest.fixture
async def async_client(nano: Server) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(
        base_url=f"{nano.url}/v1", api_key="any", _strict_response_validation=True
    ) as opened:
        yield opened


def counting(server: Server, **options: Any) -> tuple[Any, list[str]]:
    """Return a client with its default retries, and the list of requests that it made."""
    client = openai.OpenAI(**{"base_url": f"{server.url}/v1", "api_key": "any", **options})
    made: list[str] = []
    client._client.event_hooks = {"request": [lambda request: made.append(request.url.path)], "response": []}
    return client, made


# --- a busy server ----------------------------------------------------------------------------------


@pytest.mark.long
def test_it_comes_back_to_a_server_that_was_busy(start_contract_server: StartServer, speech: Sample) -> None:
    server = start_contract_server("--queue-requests", "1")
    client, made = counting(server)
    waits: list[str] = []
    first = upload_begun(server.address)

    def when_answered(reply: Any) -> None:
        if reply.status_code == 429:
            waits.append(reply.headers["retry-after"])
            first.sendall(b"{}")  # the one before it is done in the meantime
            assert first.recv(1 << 16).startswith(b"HTTP/1.1 400 ")

    client._client.event_hooks["response"] = [when_answered]
    with first, client:
        assert client.audio.transcriptions.create(model="whisper-1", file=speech.data).text
    assert len(made) == 2
    assert waits == ["1"]


@pytest.mark.long
def test_what_it_sees_of_a_server_that_stays_busy(start_contract_server: StartServer, speech: Sample) -> None:
    server = start_contract_server("--queue-requests", "1")
    client, made = counting(server, max_retries=0)
    with upload_begun(server.address), client, pytest.raises(openai.RateLimitError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=speech.data)
    error = caught.value
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert error.request_id
    assert len(made) == 1


# --- plain replies ----------------------------------------------------------------------------------


def test_an_open_file(client: Any, speech: Sample) -> None:
    with (SAMPLES / speech.name).open("rb") as file:
        reply = client.audio.transcriptions.create(model=NANO_NAME, file=file)
    assert reply.text == speech.text
    assert (reply.usage.type, reply.usage.seconds) == ("duration", 3)


@pytest.mark.parametrize(
    "file",
    [
        lambda data: data,
        io.BytesIO,
        lambda data: ("a.wav_part_0.mp3", data),
        lambda data: ("clip.flac", data, "audio/flac"),
        lambda data: ("wrong.txt", data, "text/plain"),
        lambda data: ("Gespräch_1.flac", data),
    ],
    ids=["bytes", "BytesIO", "part name", "content type", "wrong type", "unicode name"],
)
def test_uploads_of_every_kind(client: Any, speech: Sample, file: Any) -> None:
    assert client.audio.transcriptions.create(model=NANO_NAME, file=file(speech.data)).text == speech.text


def test_the_hosted_name_of_the_model(client: Any, speech: Sample) -> None:
    assert client.audio.transcriptions.create(model="whisper-1", file=speech.data).text == speech.text


def test_no_retry_for_a_model_that_offline_cannot_be_had(nano: Server) -> None:
    client, made = counting(nano)
    with client, pytest.raises(openai.InternalServerError) as caught:
        client.audio.transcriptions.create(model="whisper-small", file=encode(tone(1.0)))
    assert (caught.value.status_code, caught.value.code) == (503, "model_unavailable")
    assert len(made) == 1


async def test_the_async_client(async_client: Any, speech: Sample) -> None:
    reply = await async_client.audio.transcriptions.create(model=NANO_NAME, file=speech.data)
    assert reply.text == speech.text


def test_text(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(model=NANO_NAME, file=speech.data, response_format="text")
    assert reply == speech.text + "\n"


@pytest.mark.parametrize(("response_format", "start"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n")])
def test_subtitles(client: Any, speech: Sample, response_format: str, start: str) -> None:
    reply = client.audio.transcriptions.create(
        model=NANO_NAME, file=speech.data, response_format=response_format
    )
    assert reply.startswith(start)
    assert reply.endswith("\n")
    times = CUE_TIMES.findall(reply)
    assert times
    assert all(begin < end for begin, end in times)
    words = [word for line in reply.splitlines() if (word := line.strip()) and "-->" not in line]
    assert " ".join(words).endswith(speech.text)


def test_verbose_json(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(
        model=NANO_NAME, file=speech.data, response_format="verbose_json"
    )
    assert (reply.text, reply.language) == (speech.text, "english")
    assert reply.duration == pytest.approx(speech.duration_s, abs=0.01)
    assert reply.model_extra.pop("language_probability") > 0.5
    assert reply.model_extra == {"task": "transcribe"}
    assert "".join(segment.text for segment in reply.segments).strip() == speech.text
    for segment in reply.segments:
        assert set(segment.to_dict()) == {
            *("id", "seek", "start", "end", "text", "tokens"),
            *("temperature", "avg_logprob", "compression_ratio", "no_speech_prob"),
            "language",
        }
    assert reply.words is None
    assert reply.usage.seconds == 3


def test_words_and_segments(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(
        model=NANO_NAME,
        file=speech.data,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [word.word for word in reply.words] == speech.text.split()
    assert all(0 <= word.start < word.end <= reply.duration for word in reply.words)
    assert all(left.end <= right.start for left, right in zip(reply.words, reply.words[1:], strict=False))
    assert reply.segments


@needs_field("include")
def test_words_alone_leave_out_segments(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(
        model=NANO_NAME, file=speech.data, response_format="verbose_json", timestamp_granularities=["word"]
    )
    assert [word.word for word in reply.words] == speech.text.split()
    assert reply.segments is None


def test_segment_granularity_fits_json(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(
        model=NANO_NAME, file=speech.data, timestamp_granularities=["segment"]
    )
    assert reply.text == speech.text


# --- fields -----------------------------------------------------------------------------------------


def test_language_prompt_and_temperature(client: Any, samples: dict[str, Sample]) -> None:
    sample = samples["en-numerals-036.flac"]
    reply = client.audio.transcriptions.create(
        model=NANO_NAME, file=sample.data, language="en", prompt=sample.prompt, temperature=0
    )
    assert reply.text == sample.text


def test_the_language_is_told_by_its_english_name(client: Any, samples: dict[str, Sample]) -> None:
    sample = samples["fr-plain-009.flac"]
    reply = client.audio.transcriptions.create(
        model=NANO_NAME, file=sample.data, response_format="verbose_json"
    )
    assert (reply.language, reply.text) == ("french", sample.text)


def test_an_empty_prompt_and_unknown_fields(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(
        model=NANO_NAME,
        file=speech.data,
        prompt="",
        stream=False,
        extra_body={"seed": 7, "vad_filter": True, "options": {"deep": {"er": 1}}},
    )
    assert reply.text == speech.text


@needs_field("include")
def test_logprobs(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(model=NANO_NAME, file=speech.data, include=["logprobs"])
    assert b"".join(bytes(map(int, entry.bytes)) for entry in reply.logprobs).decode().strip() == speech.text
    assert all(entry.logprob <= 0 for entry in reply.logprobs)


@needs_field("include")
def test_logprobs_fit_only_into_json(client: Any, speech: Sample) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(
            model=NANO_NAME, file=speech.data, include=["logprobs"], response_format="verbose_json"
        )
    assert caught.value.param.removesuffix("[]") == "include"


@needs_field("keywords")
@pytest.mark.parametrize(
    "hint",
    [{"keywords": ["4 0 2 7 1 8"]}, {"extra_body": {"hotwords": "4 0 2 7 1 8"}}],
    ids=["keywords", "hotwords"],
)
def test_keywords_change_how_it_is_written(
    client: Any, samples: dict[str, Sample], hint: dict[str, Any]
) -> None:
    numerals = samples["en-numerals-036.flac"]
    plain = client.audio.transcriptions.create(model=NANO_NAME, file=numerals.data)
    hinted = client.audio.transcriptions.create(model=NANO_NAME, file=numerals.data, **hint)
    assert hinted.text == numerals.text
    assert plain.text != numerals.text


@needs_field("languages")
def test_languages_to_choose_from(client: Any, speech: Sample) -> None:
    reply = client.audio.transcriptions.create(model=NANO_NAME, file=speech.data, languages=["en", "fr"])
    assert reply.text == speech.text
    assert [language.code for language in reply.languages] == ["en"]


@needs_field("chunking_strategy")
@pytest.mark.parametrize(
    "strategy",
    [
        "auto",
        {"type": "server_vad"},
        {"type": "server_vad", "threshold": 0.4, "silence_duration_ms": 300, "prefix_padding_ms": 200},
    ],
    ids=["auto", "type", "all"],
)
def test_chunking_strategy(client: Any, speech: Sample, strategy: Any) -> None:
    reply = client.audio.transcriptions.create(model=NANO_NAME, file=speech.data, chunking_strategy=strategy)
    assert reply.text == speech.text


@needs_field("known_speaker_names")
def test_diarized_json_of_two_channels(client: Any, samples: dict[str, Sample]) -> None:
    left, right = samples["en-plain-000.flac"], samples["en-plain-001.flac"]
    reply = client.audio.transcriptions.create(
        model=NANO_NAME,
        file=stereo(left, right),
        response_format="diarized_json",
        chunking_strategy="auto",
        known_speaker_names=["agent", "caller"],
    )
    assert type(reply).__name__ == "TranscriptionDiarized"
    assert {segment.speaker for segment in reply.segments} == {"agent", "caller"}
    said = {
        speaker: " ".join(part.text.strip() for part in reply.segments if part.speaker == speaker)
        for speaker in ("agent", "caller")
    }
    assert said == {"agent": left.text, "caller": right.text}
    assert all(isinstance(segment.id, str) for segment in reply.segments)


@needs_field("known_speaker_names")
def test_diarized_json_of_one_channel(client: Any, speech: Sample) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(
            model=NANO_NAME, file=speech.data, response_format="diarized_json", chunking_strategy="auto"
        )
    assert "channel" in caught.value.message


# --- streams ----------------------------------------------------------------------------------------


@needs_stream
@pytest.mark.parametrize("response_format", ["json", "text"])
def test_streamed(client: Any, speech: Sample, response_format: str) -> None:
    events = list(
        client.audio.transcriptions.create(
            model=NANO_NAME, file=speech.data, stream=True, response_format=response_format
        )
    )
    kinds = [event.type for event in events]
    assert kinds[-1] == "transcript.text.done"
    assert set(kinds[:-1]) == {"transcript.text.delta"}
    assert "".join(event.delta for event in events[:-1]) == events[-1].text
    assert events[-1].text == speech.text


@needs_stream
async def test_streamed_to_the_async_client(async_client: Any, speech: Sample) -> None:
    stream = await async_client.audio.transcriptions.create(model=NANO_NAME, file=speech.data, stream=True)
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == speech.text


@needs_stream
def test_errors_before_the_first_event_keep_their_status(client: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(model=NANO_NAME, file=b"no audio", stream=True)
    with pytest.raises(openai.NotFoundError):
        client.audio.transcriptions.create(model="nobody", file=encode(tone(1.0)), stream=True)


@needs_stream
@pytest.mark.parametrize("response_format", ["srt", "vtt"])
def test_formats_that_do_not_stream(client: Any, speech: Sample, response_format: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(
            model=NANO_NAME, file=speech.data, stream=True, response_format=response_format
        )
    assert caught.value.param in {"stream", "response_format"}


# --- translations and chat --------------------------------------------------------------------------


@needs_translations
@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's word on its own method
def test_translation(client: Any, samples: dict[str, Sample]) -> None:
    sample = samples["fr-translate-038.flac"]
    english = "green zero bird evening"
    reply = client.audio.translations.create(model=NANO_NAME, file=sample.data)
    assert reply.text == english
    assert set(reply.to_dict()) == {"text"}
    verbose = client.audio.translations.create(
        model=NANO_NAME, file=sample.data, response_format="verbose_json"
    )
    assert (verbose.language, verbose.text) == ("english", english)
    assert verbose.segments
    assert client.audio.translations.create(
        model=NANO_NAME, file=sample.data, response_format="text"
    ).startswith(english)


def spoken(sample: Sample) -> list[dict[str, Any]]:
    audio = {"data": base64.b64encode(wav_of(sample)).decode(), "format": "wav"}
    return [{"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}]


@needs_chat
def test_chat_completion(client: Any, speech: Sample) -> None:
    reply = client.chat.completions.create(
        model=NANO_NAME,
        messages=spoken(speech),
        temperature=0,
        max_completion_tokens=100,
        user="someone",
        seed=7,
        n=1,
        modalities=["text"],
    )
    choice = reply.choices[0]
    assert (choice.message.content, choice.message.role) == (speech.text, "assistant")
    assert (choice.finish_reason, reply.object) == ("stop", "chat.completion")
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


@needs_chat
def test_streamed_chat_completion(client: Any, speech: Sample) -> None:
    chunks = list(
        client.chat.completions.create(
            model=NANO_NAME,
            messages=spoken(speech),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[-1].choices, chunks[-1].usage is not None) == ([], True)
    assert chunks[-2].choices[0].finish_reason == "stop"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.strip() == speech.text


@needs_chat
def test_chat_without_audio(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NANO_NAME, messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.param == "messages"


# --- models -----------------------------------------------------------------------------------------


def test_models(client: Any) -> None:
    names = [model.id for model in client.models.list()]
    assert NANO_NAME in names
    assert "whisper-1" in names
    for name in names:
        model = client.models.retrieve(name)
        assert (model.id, model.object) == (name, "model")


def test_a_model_name_with_a_slash_reaches_the_lookup(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("openai/whisper-that-is-not-there")
    assert caught.value.code == "model_not_found"


@needs_delete
def test_deleting_a_model_unloads_it(client: Any, speech: Sample) -> None:
    client.audio.transcriptions.create(model=NANO_NAME, file=speech.data)
    reply = client.models.delete(NANO_NAME)
    assert (reply.id, reply.object, reply.deleted) == (NANO_NAME, "model", True)
    # It was unloaded, nothing more: the folder is the operator's.
    assert client.audio.transcriptions.create(model=NANO_NAME, file=speech.data).text == speech.text
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.delete("nobody")
    assert caught.value.code == "model_not_found"


# --- errors -----------------------------------------------------------------------------------------


def described(error: Any) -> tuple[Any, ...]:
    assert error.request_id, "no x-request-id"
    assert error.message
    return error.status_code, error.type, error.param, error.code


def test_an_unknown_model(client: Any, speech: Sample) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(model="whisper-9", file=speech.data)
    assert described(caught.value) == (404, "invalid_request_error", "model", "model_not_found")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("whisper-9")
    assert described(caught.value) == (404, "invalid_request_error", "model", "model_not_found")


async def test_bad_audio(async_client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await async_client.audio.transcriptions.create(model=NANO_NAME, file=b"This is not audio. " * 50)
    assert described(caught.value) == (400, "invalid_request_error", "file", None)


def test_audio_that_is_too_short(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Minimum audio length is 0\.1 seconds") as caught:
        client.audio.transcriptions.create(model=NANO_NAME, file=encode(tone(0.05)))
    assert described(caught.value) == (400, "invalid_request_error", "file", None)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("response_format", {"response_format": "docx"}),
        ("temperature", {"temperature": 2}),
        ("language", {"language": "klingon"}),
        ("timestamp_granularities", {"timestamp_granularities": ["word"]}),
        ("timestamp_granularities", {"timestamp_granularities": ["line"], "response_format": "verbose_json"}),
    ],
)
def test_bad_values_name_their_parameter(
    client: Any, speech: Sample, param: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model=NANO_NAME, file=speech.data, **fields)
    status, kind, named, code = described(caught.value)
    assert (status, kind, named.removesuffix("[]"), code) == (400, "invalid_request_error", param, None)


def test_a_key_that_is_wrong(locked: Server, speech: Sample) -> None:
    client, made = counting(locked)
    with client, pytest.raises(openai.AuthenticationError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=speech.data)
    assert described(caught.value) == (401, "invalid_request_error", None, "invalid_api_key")
    assert made == ["/v1/audio/transcriptions"]


def test_a_key_that_is_right(locked: Server, speech: Sample) -> None:
    client, _ = counting(locked, api_key=KEY)
    with client:
        assert client.audio.transcriptions.create(model="whisper-1", file=speech.data).text


def test_a_file_that_is_too_large(locked: Server) -> None:
    client, made = counting(locked, api_key=KEY)
    with client, pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=bytes(3 << 20))
    assert described(caught.value) == (413, "server_error", None, None)
    assert caught.value.message.count("Maximum content size limit (1048576) exceeded") == 1
    assert len(made) == 1


def test_what_cannot_help_is_tried_once(nano: Server, speech: Sample) -> None:
    client, made = counting(nano)
    with client:
        with pytest.raises(openai.BadRequestError):
            client.audio.transcriptions.create(model=NANO_NAME, file=b"no audio")
        with pytest.raises(openai.NotFoundError):
            client.audio.transcriptions.create(model="whisper-9", file=speech.data)
        with pytest.raises(openai.NotFoundError):
            client.post("/nowhere", cast_to=object)
    assert made == ["/v1/audio/transcriptions", "/v1/audio/transcriptions", "/v1/nowhere"]
