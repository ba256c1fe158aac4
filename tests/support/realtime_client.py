"""A client of the realtime API that says exactly what a test wants it to."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from websockets.sync.client import ClientConnection, connect

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


@dataclass(frozen=True, slots=True)
class HeardTurn:
    """One turn of a session that detects them: where it is in the session's sound, and its text."""

    start_ms: int
    end_ms: int  # with the silence that ended it
    text: str

    def cut(self, pcm: bytes, rate_hz: int) -> bytes:
        """Return its samples out of those of the session."""
        first, last = (2 * (ms * rate_hz // 1000) for ms in (self.start_ms, self.end_ms))
        return pcm[first:last]


def heard_turns(client: RealtimeClient, pcm: bytes, rate_hz: int, **audio_input: Any) -> list[HeardTurn]:
    """Say 16-bit samples that end with silence, in a new session; return its turns."""
    client.update(format={"type": "audio/pcm", "rate": rate_hz}, **audio_input)
    client.append(pcm)
    client.send("input_audio_buffer.clear")
    client.until("input_audio_buffer.cleared")
    n_turns = client.kinds().count("input_audio_buffer.committed")
    while sum(kind.endswith(".completed") for kind in client.kinds()) < n_turns:
        client.until(".completed")
    starts, ends, texts = (
        [event[field] for event in client.seen if event["type"].endswith(kind)]
        for kind, field in (
            (".speech_started", "audio_start_ms"),
            (".speech_stopped", "audio_end_ms"),
            (".completed", "transcript"),
        )
    )
    return [HeardTurn(*turn) for turn in zip(starts, ends, texts, strict=True)]


@contextmanager
def session(url: str, path: str = "/v1/realtime", **options: Any) -> Iterator[RealtimeClient]:
    """Open a session with a server at an http URL."""
    with connect(url.replace("http", "ws", 1) + path, **options) as socket:
        yield RealtimeClient(socket)
