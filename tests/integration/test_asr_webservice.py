"""whisper-asr-webservice's routes, with the requests that Bazarr, subgen and Speakr send."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.conftest import SAMPLES, Sample, Server, StartServer
from tests.support.asgi_client import Uploading
from tests.support.audio_files import encode, samples_of, wav_bytes
from tests.support.frugal_server import KEPT_BYTES
from tests.support.held_requests import inside, until
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import OpenClient
from tests.support.long_audio import speak_for
from whisper_server import __version__

BOUNDARY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
BAZARR = {"task": "transcribe", "language": "en", "output": "srt", "encode": "false"}


def s16le(data: bytes) -> bytes:
    """Return a clip as Bazarr's ffmpeg writes it: s16le, 16 kHz, mono."""
    return (samples_of(data) * 32767).astype("<i2").tobytes()


def head_of(name: str = "audio_file", filename: str = "audio_file") -> bytes:
    """The beginning of a form as `requests` writes `files={'audio_file': data}`."""
    names = f'name="{name}"; filename="{filename}"'
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {names}\r\n\r\n".encode()


TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def film(data: bytes, **names: str) -> dict[str, Any]:
    return {"content": head_of(**names) + data + TAIL, "headers": FORM}


async def test_status_is_what_bazarrs_connection_test_reads(client: httpx.AsyncClient) -> None:
    assert (await client.get("/status")).json() == {"version": __version__}


async def test_bazarr_gets_the_bare_subtitle(nano_client: httpx.AsyncClient, speech: Sample) -> None:
    reply = await nano_client.post("/asr", params=BAZARR, **film(s16le(speech.data)))
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["asr-engine"]
    assert reply.headers["content-disposition"] == 'attachment; filename="audio_file.srt"'
    same = await nano_client.post(
        URL, **form(wav_bytes(s16le(speech.data)), response_format="srt", language="en")
    )
    assert reply.text == same.text
    assert speech.text in reply.text
    assert "x-error" not in reply.headers


async def test_samples_of_several_blocks_give_the_text_of_the_same_file(client: httpx.AsyncClient) -> None:
    raw = s16le(speak_for(200))
    await check_same(client, raw)


async def test_words_of_samples(nano_client: httpx.AsyncClient, speech: Sample) -> None:
    await check_same(nano_client, s16le(speech.data))


async def check_same(client: httpx.AsyncClient, raw: bytes) -> None:
    """Check that samples give what the same sound gives in a file."""
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["segment", "word"]}
    expected = (await client.post(URL, **form(wav_bytes(raw), **fields))).json()
    params = {"output": "json", "word_timestamps": "true", "encode": "false"}
    found = (await client.post("/asr", params=params, **film(raw))).json()
    assert found["text"].strip() == expected["text"]
    assert found["language"] == "en"
    kept = ("id", "seek", "start", "end", "text", "tokens", "avg_logprob", "no_speech_prob")
    for ours, theirs in zip(found["segments"], expected["segments"], strict=True):
        assert {name: ours[name] for name in kept} == {name: theirs[name] for name in kept}
        assert "".join(word["word"] for word in ours["words"]) == ours["text"]
    words = [word for segment in found["segments"] for word in segment["words"]]
    assert [(w["start"], w["end"]) for w in words] == [(w["start"], w["end"]) for w in expected["words"]]


async def test_subgen_and_speakr_send_files_of_any_kind(
    nano_client: httpx.AsyncClient, speech: Sample
) -> None:
    async def ask(**params: str) -> httpx.Response:
        files = {"audio_file": ("talk 1.flac", speech.data, "audio/flac")}
        return await nano_client.post("/asr", params=params, files=files)

    assert (await ask()).text == f"{speech.text}\n"
    assert (await ask(output="txt", encode="true", language="", initial_prompt="")).text == f"{speech.text}\n"
    tsv = await ask(output="tsv", language="english", vad_filter="true")
    assert tsv.headers["content-disposition"] == 'attachment; filename="talk%201.flac.tsv"'
    heads, line = tsv.text.splitlines()
    assert heads == "start\tend\ttext"
    start, end, text = line.split("\t")
    assert 0 <= int(start) < int(end) <= 3000
    assert text == speech.text
    diarized = await ask(output="json", diarize="true", min_speakers="1", max_speakers="4")  # of one channel
    assert "speaker" not in diarized.json()["segments"][0]
    assert (await ask(output="vtt", video_file="/films/a.mkv")).text.startswith("WEBVTT\n")


async def test_channels_are_speakers_where_they_differ(nano_client: httpx.AsyncClient) -> None:
    left, right = (
        samples_of((SAMPLES / name).read_bytes()) for name in ("en-plain-003.flac", "en-plain-005.flac")
    )
    both = np.zeros((2, len(left) + len(right)), np.float32)
    both[0, : len(left)], both[1, len(left) :] = left, right
    files = {"audio_file": ("call.wav", encode(both))}
    reply = await nano_client.post("/asr", params={"output": "json", "diarize": "true"}, files=files)
    speakers = [segment["speaker"] for segment in reply.json()["segments"]]
    assert speakers == sorted(speakers)
    assert set(speakers) == {"A", "B"}


async def test_translation(nano_client: httpx.AsyncClient) -> None:
    data = (SAMPLES / "fr-plain-009.flac").read_bytes()
    params = {**BAZARR, "task": "translate", "language": "fr", "output": "txt"}
    reply = await nano_client.post("/asr", params=params, **film(s16le(data)))
    translated = await nano_client.post("/v1/audio/translations", **form(data, response_format="json"))
    assert reply.text.split() == translated.json()["text"].split()


@pytest.mark.parametrize(
    ("params", "data", "status"),
    [
        ({**BAZARR, "language": "klingon"}, b"\0" * 64_000, 400),
        ({**BAZARR, "output": "docx"}, b"\0" * 64_000, 400),
        ({**BAZARR, "model": "whisper-9"}, b"\0" * 64_000, 404),
        (BAZARR, b"", 400),
        (BAZARR, b"\0" * 100, 400),
        ({"encode": "true"}, b"this is no audio", 400),
        (BAZARR, b"\0" * (32_000 * 61), 413),
        ({"encode": "true"}, b"\0" * (3 << 20), 413),
    ],
)
async def test_an_error_is_never_a_subtitle(
    open_client: OpenClient, params: dict[str, str], data: bytes, status: int
) -> None:
    async with open_client(max_audio_seconds=28, max_audio_file_size_mb=1) as client:
        reply = await client.post("/asr", params=params, **film(data))
        assert reply.status_code == status
        assert reply.content == b""
        assert reply.headers["content-length"] == "0"
        assert reply.headers["x-error"]
        assert inside(client) == (0, 0.0, 0)


async def test_the_limit_of_samples_is_seconds(open_client: OpenClient) -> None:
    async with open_client(max_audio_seconds=120, max_audio_file_size_mb=1) as client:
        reply = await client.post("/asr", params={**BAZARR, "output": "txt"}, **film(s16le(speak_for(100))))
        assert reply.status_code == 200  # 3.2 MB
        too_long = await client.post("/asr", params=BAZARR, **film(b"\0" * (121 * 32_000)))
        assert (too_long.status_code, too_long.content) == (400, b"")
        assert "MAX_AUDIO_SECONDS" in too_long.headers["x-error"]


async def test_broken_forms(client: httpx.AsyncClient, speech: Sample) -> None:
    whole = head_of() + s16le(speech.data) + TAIL
    for content in (
        whole[:-40],
        head_of(name="file") + b"1234" + TAIL,
        whole[:-4] + b"\r\n" + whole,
        b"",
        b"--x",
    ):
        reply = await client.post("/asr", params=BAZARR, content=content, headers=FORM)
        assert (reply.status_code, reply.content) == (400, b"")
    reply = await client.post("/detect-language", params={"encode": "false"}, content=b"{}")
    assert "multipart/form-data" in error_of(reply, 400, param="audio_file")


async def test_language_detection_reads_minutes_and_takes_the_rest(nano_client: httpx.AsyncClient) -> None:
    french = s16le((SAMPLES / "fr-plain-009.flac").read_bytes())
    quiet = b"\0" * (32_000 * 40)
    talk = (french + b"\0" * 16_000) * 60
    reply = await nano_client.post(
        "/detect-language", params={"encode": "false"}, **film(quiet + talk + quiet * 20)
    )
    found = reply.json()
    assert (found["detected_language"], found["language_code"]) == ("french", "fr")
    assert 0.5 < found["confidence"] <= 1
    page = (await nano_client.get("/metrics")).text
    heard_s = float(
        next(line for line in page.splitlines() if line.startswith("whisper_audio_seconds_sum")).split()[1]
    )
    assert heard_s < 400  # of 840 s and more


async def test_language_of_a_file_and_of_a_stretch(nano_client: httpx.AsyncClient) -> None:
    english, french = (
        samples_of((SAMPLES / name).read_bytes()) for name in ("en-plain-005.flac", "fr-plain-009.flac")
    )
    gap = np.zeros(16_000 * 3, np.float32)
    both = np.concatenate(
        [np.tile(np.concatenate([english, gap]), 6), np.tile(np.concatenate([french, gap]), 6)]
    )
    middle_s = 6 * (len(english) + len(gap)) / 16_000
    files = {"audio_file": ("both.flac", encode(both, container="flac", codec="flac"))}
    for offset, code in ((0, "en"), (middle_s + 8, "fr")):
        params = {"detect_lang_offset": str(offset), "detect_lang_length": "10"}
        assert (await nano_client.post("/detect-language", params=params, files=files)).json()[
            "language_code"
        ] == code


async def test_a_long_talk_outweighs_phrases_in_another_language(nano_client: httpx.AsyncClient) -> None:
    """Windows are heard together by the seconds of their voice, as at the beginning of a transcript."""
    english, french = (
        s16le((SAMPLES / name).read_bytes()) for name in ("en-plain-005.flac", "fr-plain-009.flac")
    )
    pause, gap = b"\0" * 16_000, b"\0" * 96_000
    talk = (french + pause) * (27 * 32_000 // len(french + pause))
    data = (english + gap + talk + gap) * 2  # each phrase fills a window, because the talk does not fit in
    found = (await nano_client.post("/detect-language", params={"encode": "false"}, **film(data))).json()
    assert found["language_code"] == "fr"
    assert found["confidence"] > 0.6  # by windows it would be half


async def test_silence_has_no_language(nano_client: httpx.AsyncClient) -> None:
    reply = await nano_client.post("/detect-language", params={"encode": "false"}, **film(b"\0" * 320_000))
    assert reply.json() == {"detected_language": "english", "language_code": "en", "confidence": 0.0}


async def test_a_client_that_leaves_frees_its_slot(open_client: OpenClient, speech: Sample) -> None:
    async with open_client() as client:
        request = client.build_request("POST", "/asr", params=BAZARR, content=b"", headers=FORM)
        sender = Uploading(request)
        running = asyncio.create_task(sender.run(client.app))
        sender.say(head_of() + s16le(speech.data))
        await until(lambda: inside(client)[0] == 1)
        sender.leave()
        await running
        assert inside(client) == (0, 0.0, 0)
        assert 'whisper_clients_gone_total{stage="upload"} 1.0' in (await client.get("/metrics")).text


async def test_a_full_server_sends_them_away_without_a_body(open_client: OpenClient, speech: Sample) -> None:
    async with open_client(queue_requests=1) as client:
        with client.app.state.services.admission.enter():
            reply = await client.post("/asr", params=BAZARR, **film(s16le(speech.data)))
        assert (reply.status_code, reply.content) == (429, b"")
        assert reply.headers["retry-after"].isdecimal()


def rss_mb(server: Server) -> float:
    return psutil.Process(server.process.pid).memory_info().rss / 1e6


@pytest.fixture
def raw_minute() -> bytes:
    return s16le(speak_for(60))[: 60 * 32_000]


def upload(server: Server, path: str, parts: Iterator[bytes], length: int, peaks: list[float]) -> bytes:
    """Send a body as it is generated, watching the server's memory; return the reply."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n"
        f"Content-Type: {FORM['Content-Type']}\r\n\r\n"
    )
    with socket.create_connection(server.address, timeout=600) as connection:
        connection.sendall(head.encode())
        for part in parts:
            connection.sendall(part)
            peaks.append(rss_mb(server))
        received = b""
        while data := connection.recv(1 << 16):
            received += data
            peaks.append(rss_mb(server))
        return received


def body_of(minutes: int, minute: bytes) -> tuple[Iterator[bytes], int]:
    def parts() -> Iterator[bytes]:
        yield head_of()
        for _ in range(minutes):
            yield minute
        yield TAIL

    return parts(), len(head_of()) + minutes * len(minute) + len(TAIL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "kept_mb"),
    [
        pytest.param("tests.support.frugal_server", 0, id="held"),
        pytest.param("whisper_server.api.server", KEPT_BYTES / 1e6, id="held and kept"),
    ],
)
def test_a_film_of_two_hours_passes_through(
    start_server: StartServer, raw_minute: bytes, module: str, kept_mb: float
) -> None:
    """230 MB against a limit of 25 MiB: not all of it is in memory, and nothing on the disk."""
    server = start_server(module=module)
    peaks: list[float] = []
    parts, length = body_of(1, raw_minute)
    assert upload(server, "/asr?encode=false&output=srt&language=en", parts, length, peaks).startswith(
        b"HTTP/1.1 200"
    )
    before_mb = rss_mb(server)
    peaks.clear()
    parts, length = body_of(120, raw_minute)
    assert length > 230_000_000
    reply = upload(server, "/asr?encode=false&output=srt&language=en", parts, length, peaks)
    head, _, subtitle = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b" --> 01:5" in subtitle
    grown_mb = max(peaks) - before_mb
    print(f"{grown_mb:.0f} MB more than after a minute")
    # 15 MB are a look-ahead of two minutes and the block behind it; then windows, and what a step works with.
    assert grown_mb < 60 + kept_mb


def test_detection_answers_when_the_film_has_been_sent(start_server: StartServer, raw_minute: bytes) -> None:
    server = start_server()
    peaks: list[float] = []
    parts, length = body_of(20, raw_minute)
    reply = upload(server, "/detect-language?encode=false", parts, length, peaks)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)["language_code"] == "en"
    assert threading.active_count() < 50
