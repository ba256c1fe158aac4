"""Speakers told apart by voice: who said what, who speaks when, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import NANO, NANO_MODEL
from tests.support.asgi_client import events_of
from tests.support.audio_files import encode, tone
from tests.support.http_requests import URL, b64, error_of, form
from tests.support.in_process import OpenClient, client_of
from tests.support.job_requests import result_of, submit, until_end
from tests.support.speaker_networks import (
    ENCODER,
    ENCODER_THRESHOLD,
    RATE,
    filter_bank_encoder,
    loudness_segmentation,
    stairs,
)
from tests.support.stand_in_hub import Hub
from tests.support.two_voices import FIRST, SECOND, clip, low, talk
from whisper_server.api.replies.audio import DiarizedReply, VerboseReply
from whisper_server.api.replies.diarization import DiarizationReply
from whisper_server.cli.transcribe import main
from whisper_server.core.config import Settings
from whisper_server.core.errors import EngineFailure
from whisper_server.core.types import TranscribeParams, VoiceOptions
from whisper_server.services.container import open_services
from whisper_server.services.speakers.diarizer import Diarizer
from whisper_server.services.speakers.loaded import SPEAKERS

DIARIZATION = "/v1/audio/diarization"
DIARIZED = {"response_format": "diarized_json"}
TWO = {"num_speakers": "2"}


@pytest.fixture(scope="module")
def voice_settings(nano_cache: Path) -> Settings:
    """The nano model, a real voice encoder, and voice detection in place of a segmentation."""
    return Settings(
        _env_file=None,
        model=str(NANO),
        cache_dir=nano_cache,
        offline=True,
        threads=1,
        decoder_processes=0,
        speaker_encoder=str(ENCODER),
        speaker_segmentation="none",
        speaker_threshold=ENCODER_THRESHOLD,
    )


@pytest.fixture
async def voices(voice_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(voice_settings) as opened:
        yield opened


def changes(speakers: list[str]) -> list[str]:
    return [speaker for speaker, _ in itertools.groupby(speakers)]


async def test_one_channel_two_voices(voices: httpx.AsyncClient) -> None:
    data = encode(talk())
    plain = (await voices.post(URL, **form(data))).json()
    response = await voices.post(URL, **form(data, **DIARIZED, **TWO))
    assert response.status_code == 200, response.text
    body = response.json()
    assert DiarizedReply.model_validate(body).model_dump() == body
    assert changes([segment["speaker"] for segment in body["segments"]]) == ["A", "B", "A"]
    assert "".join(f" {segment['text']}" for segment in body["segments"]).split() == plain["text"].split()
    starts = [segment["start"] for segment in body["segments"]]
    assert starts == sorted(starts)
    # Both channels carry the same sound: voices tell. And so they do where JSON is sent.
    both = (await voices.post(URL, **form(encode(talk(), channels=2), **DIARIZED, **TWO))).json()
    assert [s["speaker"] for s in both["segments"]] == [s["speaker"] for s in body["segments"]]
    sent = {"audio": b64(data), "num_speakers": 2, **DIARIZED}
    assert (await voices.post(URL, json=sent)).json() == body


async def test_a_stream_tells_who_speaks(voices: httpx.AsyncClient) -> None:
    data = encode(talk())
    plain = (await voices.post(URL, **form(data))).json()
    streamed = await voices.post(URL, **form(data, **DIARIZED, **TWO, stream="true"))
    events = events_of(streamed.text)
    timed = [event for event in events if event["type"] == "transcript.text.segment"]
    assert changes([event["speaker"] for event in timed]) == ["A", "B", "A"]
    assert events[-1]["text"] == plain["text"]


async def test_a_job_tells_who_speaks_as_a_request_does(voice_settings: Settings, tmp_path: Path) -> None:
    data = encode(talk())
    async with client_of(voice_settings.model_copy(update={"cache_dir": tmp_path})) as client:
        at_once = await client.post(URL, **form(data, **DIARIZED, **TWO))
        job = await submit(client, data, **DIARIZED, **TWO)
        assert (await until_end(client, job["id"]))["status"] == "completed"
        assert (await result_of(client, job["id"])).json() == at_once.json()


async def test_other_formats_have_speakers_where_they_are_asked_for(voices: httpx.AsyncClient) -> None:
    data = encode(talk())
    asked = {"diarize": "true", **TWO, "timestamp_granularities[]": ["word", "segment"]}
    body = (await voices.post(URL, **form(data, response_format="verbose_json", **asked))).json()
    assert VerboseReply.model_validate(body)
    assert changes([word["speaker"] for word in body["words"]]) == ["A", "B", "A"]
    assert changes([segment["speaker"] for segment in body["segments"]]) == ["A", "B", "A"]
    assert all(" ".join(s["text"].split()) in body["text"] for s in body["segments"])
    asked = {"diarize": "true", **TWO}
    subtitles = (await voices.post(URL, **form(data, response_format="srt", **asked))).text
    assert [line[:2] for line in subtitles.splitlines() if line[1:3] == ": "] == ["A:", "B:", "A:"]
    text = (await voices.post(URL, **form(data, response_format="text", **asked))).text
    assert [line[:3] for line in text.splitlines()] == ["A: ", "B: ", "A: "]
    without = (await voices.post(URL, **form(data, response_format="verbose_json"))).json()
    assert "speaker" not in without["segments"][0]
    refused = await voices.post(URL, **form(data, response_format="json", diarize="true"))
    assert "diarized_json" in error_of(refused, 400, param="response_format")


async def test_known_voices_have_their_names(voices: httpx.AsyncClient) -> None:
    sample = low(clip(FIRST))[: 9 * RATE]
    reference = f"data:audio/wav;base64,{b64(encode(np.resize(sample, 5 * RATE)))}"
    asked = {"known_speaker_names[]": ["Ada"], "known_speaker_references[]": [reference], **TWO}
    body = (await voices.post(URL, **form(encode(talk()), **DIARIZED, **asked))).json()
    assert changes([segment["speaker"] for segment in body["segments"]]) == ["A", "Ada", "A"]
    sent = {"known_speaker_names": ["Ada"], "known_speaker_references": [reference], "num_speakers": 2}
    turns = (await voices.post(DIARIZATION, json={"audio": b64(encode(talk())), **sent})).json()
    assert turns["speakers"] == ["A", "Ada"]


async def test_who_speaks_when_without_text(voices: httpx.AsyncClient) -> None:
    data = encode(talk())
    body = (await voices.post(DIARIZATION, **form(data, **TWO))).json()
    assert DiarizationReply.model_validate(body).model_dump() == body
    assert body["speakers"] == ["A", "B"]
    second_s = len(clip(FIRST)) / RATE + 0.5  # which begins with a second of silence
    starts_s = [turn["start"] for turn in body["segments"] if turn["speaker"] == "B"]
    assert starts_s[0] == pytest.approx(second_s + 1.0, abs=0.5)
    assert body["duration"] == pytest.approx(len(talk()) / RATE, abs=0.1)
    rttm = await voices.post(DIARIZATION, **form(data, **TWO, response_format="rttm"))
    assert rttm.headers["content-type"].startswith("text/plain")
    lines = [line.split() for line in rttm.text.splitlines()]
    assert [(line[0], float(line[3]), line[7]) for line in lines] == [
        ("SPEAKER", pytest.approx(turn["start"], abs=0.01), turn["speaker"]) for turn in body["segments"]
    ]
    silence = (await voices.post(DIARIZATION, **form(encode(np.zeros(RATE * 3, np.float32))))).json()
    assert (silence["segments"], silence["speakers"], silence["duration"]) == ([], [], 3.0)
    error_of(
        await voices.post(DIARIZATION, **form(data, response_format="srt")), 400, param="response_format"
    )
    error_of(await voices.post(DIARIZATION, **form(b"no audio" * 100)), 400, param="file")


def sample_of(seconds: float) -> str:
    return f"data:audio/wav;base64,{b64(encode(tone(seconds)))}"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"known_speaker_names[]": ["a"], "known_speaker_references[]": [sample_of(1.0)]}, "references"),
        ({"known_speaker_names[]": ["a"], "known_speaker_references[]": [sample_of(11.0)]}, "references"),
        (
            {"known_speaker_names[]": ["a"], "known_speaker_references[]": ["data:x;base64,AAAA"]},
            "references",
        ),
        ({"known_speaker_names[]": ["a"], "known_speaker_references[]": ["so!"]}, "references"),
        ({"known_speaker_references[]": [sample_of(3.0)]}, "references"),
        ({"known_speaker_names[]": ["a"]}, "references"),
        ({"num_speakers": "0"}, "num_speakers"),
        ({"num_speakers": "21"}, "num_speakers"),
        ({"num_speakers": "two"}, "num_speakers"),
        ({"num_speakers": "2", "max_speakers": "3"}, "num_speakers"),
        ({"min_speakers": "3", "max_speakers": "2"}, "min_speakers"),
        ({"max_speakers": "0"}, "max_speakers"),
    ],
)
async def test_what_is_wrong_is_said(voices: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    param = f"known_speaker_{param}" if param == "references" else param
    error_of(await voices.post(URL, **form(encode(tone(2.0)), **DIARIZED, **fields)), 400, param=param)
    error_of(await voices.post(DIARIZATION, **form(encode(tone(2.0)), **fields)), 400, param=param)


async def test_without_networks_the_answer_says_how_to_have_them(open_client: OpenClient) -> None:
    async with open_client(offline=True) as client:
        response = await client.post(URL, **form(encode(tone(2.0)), **DIARIZED))
        message = error_of(response, 400, param="response_format")
        assert "one speaker per channel" in message
        assert "docs/speakers.md" in message
        assert "WHISPER_OFFLINE" in message
        response = await client.post(DIARIZATION, **form(encode(tone(2.0))))
        assert "docs/speakers.md" in error_of(response, 400, param="response_format")


async def test_cancelled_work_leaves_nothing(voice_settings: Settings) -> None:
    params = TranscribeParams(NANO_MODEL, speakers=(), voices=VoiceOptions(least=2, most=2))
    data = encode(np.tile(talk(), 8))
    async with open_services(voice_settings) as services:
        source = await services.transcriber.open(data, params)
        async with contextlib.aclosing(source.segments()) as segments:
            assert (await anext(segments)).speaker == "A"
        assert [state.leases for state in services.models.loaded()] == [0]
        task = asyncio.create_task(services.transcriber.transcribe(data, params))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [state.leases for state in services.models.loaded()] == [0]
        async with services.speakers.lease():
            assert [state.leases for state in services.speakers._networks.loaded()] == [1]


async def test_a_diarizer_that_fails_fails_its_request_alone(
    voice_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = TranscribeParams(NANO_MODEL, speakers=(), voices=VoiceOptions(least=2, most=2))

    def fail(*_: object) -> None:
        raise EngineFailure("it broke")

    async with open_services(voice_settings) as services:
        with monkeypatch.context() as patch:
            patch.setattr(Diarizer, "add", fail)
            with pytest.raises(EngineFailure):
                await services.transcriber.transcribe(encode(np.tile(talk(), 6)), params)
        found = await services.transcriber.transcribe(encode(talk()), params)
        assert {segment.speaker for segment in found.segments} == {"A", "B"}


async def test_channels_are_speakers_in_every_format(client: httpx.AsyncClient) -> None:
    """On the fake engine, without networks; what names say is of the channels, in order."""
    both = np.zeros((2, 8 * RATE), np.float32)
    both[0, : 2 * RATE] = clip(FIRST)[RATE : 3 * RATE]
    both[1, 5 * RATE : 7 * RATE] = clip(SECOND)[: 2 * RATE]
    asked = {"diarize": "true", "known_speaker_names[]": ["Ada"]}
    text = (await client.post(URL, **form(encode(both), response_format="text", **asked))).text
    assert [line.partition(":")[0] for line in text.splitlines()] == ["Ada", "B"]
    body = (await client.post(URL, **form(encode(both), response_format="verbose_json", **asked))).json()
    assert [segment["speaker"] for segment in body["segments"]] == ["Ada", "B"]


def test_the_command_line(
    voice_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in {
        "WHISPER_MODEL": voice_settings.model,
        "WHISPER_CACHE_DIR": str(voice_settings.cache_dir),
        "WHISPER_SPEAKER_ENCODER": voice_settings.speaker_encoder,
        "WHISPER_SPEAKER_SEGMENTATION": "none",
    }.items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "talk.wav").write_bytes(encode(talk()))
    assert main(["talk.wav", "--speakers", "--num-speakers", "2"]) == 0
    out, err = capfd.readouterr()
    assert [line[:3] for line in out.splitlines()] == ["A: ", "B: ", "A: "]
    assert err == ""
    assert main(["talk.wav", "--speakers", "--num-speakers", "30"]) == 2
    for wrong in (["--num-speakers", "2"], ["--speakers", "--format", "json"]):
        with pytest.raises(SystemExit, match="2"):
            main(["talk.wav", *wrong])


# --- the intended networks, by their shapes ---------------------------------------------------------


@pytest.fixture
def hub_settings(tmp_path: Path, stand_in: Hub) -> Settings:
    stand_in.files |= {
        "segmentation.onnx": loudness_segmentation(),
        "encoder.onnx": filter_bank_encoder(),
        "pickled.onnx": b"PK\x03\x04" + bytes(100),
        "voxceleb_resnet34_LM.onnx": filter_bank_encoder(),
    }
    return Settings(
        _env_file=None,
        engine="fake",
        cache_dir=tmp_path,
        decoder_processes=0,
        speaker_encoder="someone/nano:encoder.onnx",
        speaker_segmentation="someone/nano:segmentation.onnx",
    )


async def test_networks_are_downloaded_once_and_work_offline_afterwards(
    hub_settings: Settings, stand_in: Hub
) -> None:
    data = encode(stairs())
    async with client_of(hub_settings) as client:
        body = (await client.post(DIARIZATION, **form(data, num_speakers="3"))).json()
        assert body["speakers"] == ["A", "B", "C"]
        # Where the loudest ends, the mean passes the level of another for a moment.
        turns = [turn for turn in body["segments"] if turn["end"] - turn["start"] > 0.1]
        assert changes([turn["speaker"] for turn in turns]) == ["A", "B", "C", "A"]
        for turn, edge_s in zip(turns, (0, 4, 8, 12), strict=True):
            assert turn["start"] == pytest.approx(edge_s, abs=0.1)
    assert sorted(stand_in.downloaded()) == ["encoder.onnx", "segmentation.onnx"]
    stand_in.refuse = 500
    async with client_of(hub_settings.model_copy(update={"offline": True})) as client:
        assert (await client.post(DIARIZATION, **form(data, num_speakers="3"))).json() == body
        said = (await client.post(URL, **form(data, **DIARIZED, num_speakers="3"))).json()
        assert {segment["speaker"] for segment in said["segments"]} <= {"A", "B", "C"}


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        ("someone/nano:pickled.onnx", "pickled"),
        ("someone/nano:README.md", "no ONNX file"),
        ("someone/nano:segmentation.onnx", "cannot be used"),
        ("someone/nano:missing.onnx", "no file"),
        ("Wespeaker/wespeaker-voxceleb-resnet34-LM:voxceleb_resnet34_LM.onnx", "SHA-256"),
        ("nothing.onnx", "no file"),
    ],
)
async def test_other_files_are_refused(hub_settings: Settings, encoder: str, reason: str) -> None:
    async with client_of(hub_settings.model_copy(update={"speaker_encoder": encoder})) as client:
        response = await client.post(DIARIZATION, **form(encode(tone(2.0))))
        assert reason in error_of(response, 400, param="response_format")


def test_the_name_of_both_networks_is_no_models_name() -> None:
    assert SPEAKERS.repo is None
    assert SPEAKERS.folder is None
