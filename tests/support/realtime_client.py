"""A client of the realtime API that says exactly what a test wants it to."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def session(url: str, path: str = "/v1/realtime", **options: Any) -> Iterator[RealtimeClient]:
    """Open a session with a server at an http URL."""
    with connect(url.replace("http", "ws", 1) + path, **options) as socket:
        yield RealtimeClient(socket)
