"""One speaker per channel: who said what and when, and recordings that cannot tell."""

from __future__ import annotations

import asyncio
import contextlib
import io
import wave
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import NANO_MODEL, SAMPLES, Sample
from tests.support.asgi_client import events_of
from tests.support.audio_files import clips, encode, samples_of, tone, wav_bytes
from tests.support.http_requests import URL, b64, error_of, form
from tests.support.in_process import OpenClient
from whisper_server.api.replies.audio import DiarizedReply
from whisper_server.core.config import Settings
from whisper_server.core.errors import AudioTooLong, InvalidRequest
from whisper_server.core.types import TranscribeParams, Transcript, VadOptions
from whisper_server.services.audio import decoder
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.mp4_guard import check_mp4_tables
from whisper_server.services.container import Services, open_services

RATE = 16_000
BY_CHANNEL = TranscribeParams(NANO_MODEL, speakers=())
DIARIZED = {"response_format": "diarized_json"}
# When the right channel begins. At 3.9 and 4.0 s the nano model takes one of its ten words for another.
ANSWER_S = 4.2


@pytest.fixture
async def services(nano_settings: Settings) -> AsyncIterator[Services]:
    async with open_services(nano_settings) as opened:
        yield opened


def talk(seconds: float, *clips: tuple[float, str]) -> np.ndarray:
    """A channel with clips at these times."""
    channel = np.zeros(int(seconds * RATE), np.float32)
    for start_s, name in clips:
        samples = samples_of((SAMPLES / name).read_bytes())
        first = int(start_s * RATE)
        channel[first : first + len(samples)] = samples
    return channel


def call() -> np.ndarray:
    """Left speaks, right answers, left speaks again; the last two overlap."""
    left = talk(18.0, (0.0, "en-plain-003.flac"), (9.0, "en-plain-000.flac"))
    return np.stack([left, talk(18.0, (ANSWER_S, "en-plain-005.flac"))])


def said_by(transcript: Transcript, speaker: str) -> str:
    return "".join(s.text for s in transcript.segments if s.speaker == speaker).strip()


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac"])
async def test_each_channel_is_a_speaker(services: Services, codec: str) -> None:
    truth = {clip.path.name: clip for clip in clips()}
    a, b, c = (truth[f"en-plain-{name}.flac"] for name in ("003", "005", "000"))
    data = encode(call(), RATE, "wav" if codec == "pcm_s16le" else codec, codec)
    transcript = await services.transcriber.transcribe(data, BY_CHANNEL)
    assert said_by(transcript, "A") == f"{a.text} {c.text}"
    assert said_by(transcript, "B") == b.text
    by_speaker = {name: [s for s in transcript.segments if s.speaker == name] for name in "AB"}
    for speaker, index, start_s, end_s in [
        ("A", 0, a.words[0][1], None),
        ("A", -1, None, 9.0 + c.words[-1][2]),
        ("B", 0, ANSWER_S + b.words[0][1], None),
        ("B", -1, None, ANSWER_S + b.words[-1][2]),
    ]:
        segment = by_speaker[speaker][index]
        # The model may begin a phrase with the padding that voice activity detection leaves before it.
        assert start_s is None or segment.start_s == pytest.approx(start_s, abs=0.8)
        assert end_s is None or segment.end_s == pytest.approx(end_s, abs=0.4)
    starts = [segment.start_s for segment in transcript.segments]
    assert starts == sorted(starts)
    assert transcript.duration_s == pytest.approx(18.0, abs=0.1)
    assert transcript.language == "en"


async def test_a_channel_says_what_it_says_alone_and_in_a_crowd(services: Services) -> None:
    both = call()
    data = encode(both)
    first = await services.transcriber.transcribe(data, BY_CHANNEL)
    for other in await asyncio.gather(*(services.transcriber.transcribe(data, BY_CHANNEL) for _ in range(3))):
        assert other == first
    for speaker, channel in zip("AB", both, strict=True):
        params = TranscribeParams(NANO_MODEL, vad=VadOptions(keeps_sound=False))
        alone = await services.transcriber.transcribe(encode(channel), params)
        mine = [segment for segment in first.segments if segment.speaker == speaker]
        assert [(s.start_s, s.end_s, s.text) for s in alone.segments] == [
            (s.start_s, s.end_s, s.text) for s in mine
        ]


async def test_what_a_microphone_picks_up_of_another_speaker_is_left_out(
    services: Services, samples: dict[str, Sample]
) -> None:
    both = call()
    both[1] += 0.02 * both[0]
    transcript = await services.transcriber.transcribe(encode(both), BY_CHANNEL)
    # Where both speak, the nano model mishears a word or two; it must not hear those of the other channel.
    said = said_by(transcript, "B").split()
    assert said[:5] == samples["en-plain-005.flac"].text.split()[:5]
    assert not {"mother", "house", "flower", "brother", "left"} & set(said)


@pytest.mark.long
async def test_long_recordings_leave_early_and_free_everything(services: Services) -> None:
    data = encode(np.tile(call(), 6), RATE, "flac", "flac")
    conversation = await services.transcriber.open(data, BY_CHANNEL)
    async with contextlib.aclosing(conversation.segments()) as segments:
        assert (await anext(segments)).speaker == "A"
    assert [state.leases for state in services.models.loaded()] == [0]
    task = asyncio.create_task(services.transcriber.transcribe(data, BY_CHANNEL))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [state.leases for state in services.models.loaded()] == [0]


async def test_limits_hold(nano_settings: Settings) -> None:
    short = nano_settings.model_copy(update={"max_audio_seconds": 2})
    async with open_services(short) as services:
        with pytest.raises(AudioTooLong):
            await services.transcriber.open(encode(call()), BY_CHANNEL)
        with pytest.raises(InvalidRequest, match="names are those"):
            await services.transcriber.open(
                encode(call()), TranscribeParams(NANO_MODEL, speakers=("a", "b", "c"))
            )


async def test_tables_of_an_mp4_are_checked_once(
    nano_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for each channel and each look at the file."""
    checked: list[BoundedFile] = []

    def check(file: BoundedFile) -> None:
        checked.append(file)
        check_mp4_tables(file)

    data = encode(call(), RATE, "ipod", "aac")
    monkeypatch.setattr(decoder, "check_mp4_tables", check)
    settings = nano_settings.model_copy(update={"decoder_processes": 0})
    async with open_services(settings) as opened:
        found = await opened.transcriber.transcribe(data, BY_CHANNEL)
    assert {segment.speaker for segment in found.segments} == {"A", "B"}
    assert len(checked) == 1


# --- over HTTP, on the fake engine ------------------------------------------------------------------


async def test_the_reply(client: httpx.AsyncClient) -> None:
    names = {"known_speaker_names[]": ["Ada"]}
    body = (await client.post(URL, **form(encode(call()), **DIARIZED, **names))).json()
    assert set(body) == {"task", "duration", "text", "segments", "usage"}
    assert (body["task"], body["duration"]) == ("transcribe", 18.0)
    assert body["usage"] == {"type": "duration", "seconds": 18}
    assert [s["id"] for s in body["segments"]] == ["seg_001", "seg_002"]
    assert [s["speaker"] for s in body["segments"]] == ["Ada", "B"]
    assert body["text"] == "\n".join(f"{s['speaker']}: {s['text']}" for s in body["segments"])
    for segment in body["segments"]:
        assert set(segment) == {"type", "id", "start", "end", "text", "speaker", "language"}
        assert segment["type"] == "transcript.text.segment"
        assert 0 <= segment["start"] < segment["end"] <= 18.0
    request = {"audio": b64(encode(call())), "known_speaker_names": ["Ada"], **DIARIZED}
    assert (await client.post(URL, json=request)).json() == body


async def test_a_stream_has_the_segments_of_the_reply(client: httpx.AsyncClient) -> None:
    asked = form(encode(call()), **DIARIZED, **{"known_speaker_names[]": ["Ada"]})
    body = (await client.post(URL, **asked)).json()
    asked["data"]["stream"] = "true"
    streamed = await client.post(URL, **asked)
    assert streamed.status_code == 200, streamed.text
    events = events_of(streamed.text)
    timed = [event for event in events if event["type"] == "transcript.text.segment"]
    deltas = [event for event in events if event["type"] == "transcript.text.delta"]
    told = ("start", "end", "text", "speaker", "language")
    assert [[event[key] for key in told] for event in timed] == [
        [segment[key] for key in told] for segment in body["segments"]
    ]
    assert [event["segment_id"] for event in deltas] == [event["id"] for event in timed]
    assert events[-1]["type"] == "transcript.text.done"
    assert events[-1]["text"] == "".join(event["delta"] for event in deltas)
    assert events[-1]["text"] == " ".join(event["text"] for event in timed)  # speakers are in the segments


async def test_keywords_and_prompt_reach_every_channel(client: httpx.AsyncClient) -> None:
    fields = {"keywords[]": ["Ada"], "prompt": "Tea"}
    body = (await client.post(URL, **form(encode(call()), **DIARIZED, **fields))).json()
    assert [s["text"].endswith(" after Ada Tea") for s in body["segments"]] == [True, True]


async def test_the_reply_is_what_the_document_says(client: httpx.AsyncClient) -> None:
    body = (await client.post(URL, **form(encode(call()), **DIARIZED))).json()
    assert DiarizedReply.model_validate(body).model_dump() == body


async def test_silence_in_all_channels_is_an_empty_text(client: httpx.AsyncClient) -> None:
    body = (await client.post(URL, **form(wav_bytes(bytes(64_000), channels=2), **DIARIZED))).json()
    assert (body["text"], body["segments"], body["duration"]) == ("", [], 1.0)


async def test_one_silent_channel(client: httpx.AsyncClient) -> None:
    both = call()
    both[0] = 0
    body = (await client.post(URL, **form(encode(both), **DIARIZED))).json()
    assert {s["speaker"] for s in body["segments"]} == {"B"}


@pytest.mark.parametrize(
    "data",
    [
        encode(tone(1.0)),
        encode(tone(1.0), channels=2),
        encode(np.concatenate([tone(1.0), tone(1.0, hz=700)]), 48_000, "mp3", "mp3", 2),
        wav_bytes(bytes(9 * 2 * RATE), channels=9),
    ],
    ids=["mono", "dual mono", "lossy dual mono", "nine channels"],
)
async def test_recordings_without_a_channel_per_speaker(open_client: OpenClient, data: bytes) -> None:
    async with open_client(offline=True) as client:
        response = await client.post(URL, **form(data, **DIARIZED))
    assert "one speaker per channel" in error_of(response, 400, param="response_format")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"known_speaker_names[]": ["a", "b", "c"]}, "known_speaker_names"),
        ({"known_speaker_names[]": list("abcde")}, "known_speaker_names"),
        ({"known_speaker_names": ["x" * 101]}, "known_speaker_names"),
        ({"known_speaker_references[]": ["data:audio/wav;base64,AAAA"]}, "known_speaker_references"),
        (
            {"known_speaker_references[]": ["data:audio/wav;base64," + "A" * 100_000]},
            "known_speaker_references",
        ),
    ],
)
async def test_wrong_speakers(client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    message = error_of(await client.post(URL, **form(encode(call()), **DIARIZED, **fields)), 400, param=param)
    assert "longer than 65536" not in message


async def test_audio_that_is_none_names_the_file(client: httpx.AsyncClient) -> None:
    error_of(await client.post(URL, **form(b"no audio" * 100, **DIARIZED)), 400, param="file")


@pytest.mark.parametrize("n_channels", [7, 8])
async def test_as_many_channels_as_there_may_be(client: httpx.AsyncClient, n_channels: int) -> None:
    # Seven and eight: PyAV's planar frames have room for eight pointers, and reading on crashed the process.
    rng = np.random.default_rng(5)
    planes = rng.integers(-9000, 9000, (16_000, n_channels), dtype=np.int16)
    response = await client.post(URL, **form(wav(planes), response_format="diarized_json"))
    assert response.status_code == 200, response.text


def wav(frames: np.ndarray, rate: int = 16_000) -> bytes:
    """A WAV file of int16 [n, n_channels]; libav's encoders name no layout of seven channels."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(frames.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(frames.tobytes())
    return out.getvalue()


async def test_unloading_meanwhile_does_not_disturb_it(services: Services) -> None:
    left, right = talk(40.0, (1.0, "en-plain-003.flac")), talk(40.0, (35.0, "en-plain-000.flac"))
    transcription = await services.transcriber.open(encode(np.stack([left, right])), BY_CHANNEL)
    said = []
    async with contextlib.aclosing(transcription.segments()) as segments:
        async for segment in segments:
            services.models.unload(NANO_MODEL)
            said.append((segment.speaker, segment.text.strip()))
            services.models.unload(NANO_MODEL)
    assert said == [("A", "mother house flower brother"), ("B", "house left tree")]
