"""A client of the realtime API that says exactly what a test wants it to."""

from __future__ import annotations

import base64
import io
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np
from websockets.sync.client import ClientConnection, connect

from whisper_server.core.types import SAMPLE_RATE, ModelSource, TranscribeParams
from whisper_server.services.audio.pcm_converter import PcmFormat
from whisper_server.services.realtime.configuration import SessionConfig
from whisper_server.services.realtime.session import Session
from whisper_server.services.realtime.sound_input import SoundInput

TIMEOUT_S = 60


def pcm16(audio: bytes, rate_hz: int = 24_000) -> bytes:
    """Return a file as mono 16-bit samples of this rate."""
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
    with av.open(io.BytesIO(audio)) as container:
        frames = [each for frame in container.decode(audio=0) for each in resampler.resample(frame)]
    frames += resampler.resample(None)
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype("<i2").tobytes()


class RealtimeClient:
    """An open session; every event that came in is in `seen`."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[dict[str, Any]] = []

    def send(self, kind: str, **fields: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **fields}))

    def update(self, **audio_input: Any) -> None:
        self.send("session.update", session={"type": "transcription", "audio": {"input": audio_input}})
        self.until("session.updated")

    def append(self, data: bytes, piece_bytes: int = 4_800) -> None:
        for first in range(0, len(data), piece_bytes):
            piece = base64.b64encode(data[first : first + piece_bytes]).decode()
            self.send("input_audio_buffer.append", audio=piece)

    def until(self, ending: str) -> dict[str, Any]:
        """Return the next event whose type ends so."""
        while True:
            event: dict[str, Any] = json.loads(self.socket.recv(TIMEOUT_S))
            self.seen.append(event)
            if event["type"].endswith(ending):
                return event
            assert not event["type"].endswith(".failed"), event

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.seen]


def heard(client: RealtimeClient, pcm: bytes, rate_hz: int, **audio_input: Any) -> list[str]:
    """Say 16-bit samples that end with silence, in a new session; return the texts of its turns."""
    client.update(format={"type": "audio/pcm", "rate": rate_hz}, **audio_input)
    client.append(pcm)
    client.send("input_audio_buffer.clear")
    client.until("input_audio_buffer.cleared")
    n_turns = client.kinds().count("input_audio_buffer.committed")
    while sum(kind.endswith(".completed") for kind in client.kinds()) < n_turns:
        client.until(".completed")
    return [event["transcript"] for event in client.seen if event["type"].endswith(".completed")]


def turns_of(pcm: bytes) -> list[bytes]:
    """Return what is decoded of such samples at 16 kHz, turn by turn, as the state machine cuts them."""
    numbers, sound = itertools.count(), SoundInput()
    session = Session(
        SessionConfig(),
        lambda _: TranscribeParams(ModelSource("any")),
        new_id=lambda prefix: f"{prefix}_{next(numbers)}",
        expires_at=0,
    )
    session.hear(*sound.hear(base64.b64encode(pcm), PcmFormat("pcm16", SAMPLE_RATE)))
    turns = iter(session.next_turn, None)
    return [(turn.samples * 32_768).astype("<i2").tobytes() for turn in turns if turn]


@contextmanager
def session(url: str, path: str = "/v1/realtime", **options: Any) -> Iterator[RealtimeClient]:
    """Open a session with a server at an http URL."""
    # The application may still be on its way in.
    with connect(url.replace("http", "ws", 1) + path, open_timeout=TIMEOUT_S, **options) as socket:
        yield RealtimeClient(socket)
