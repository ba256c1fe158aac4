"""The simplest FastAPI server around a transcribing function; what all Python peers share.

Runs in a peer's own environment as a neighbour of the script, and imports nothing of this project.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, File, Form

Transcribe = Callable[[bytes, "str | None"], str]  # an audio file, a language or none -> text

SAMPLE_RATE = 16_000


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of what every peer takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, help="the weights, in the library's own format")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--beam", type=int, default=0, help="0: the library's default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser


def serve(transcribe: Transcribe, port: int) -> None:
    """Serve until the process is ended. `def` routes run on the framework's threads."""
    app = FastAPI()

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/audio/transcriptions")
    def transcriptions(
        file: Annotated[bytes, File()], language: Annotated[str | None, Form()] = None
    ) -> dict[str, str]:
        return {"text": transcribe(file, language)}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def decoded(data: bytes) -> Any:
    """Decode a file to float32 [n], 16 kHz, mono, with PyAV: there may be no ffmpeg binary here."""
    import av
    import numpy as np

    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(io.BytesIO(data)) as container:
        frames = [
            part.to_ndarray().reshape(-1)
            for frame in [*container.decode(audio=0), None]
            for part in resampler.resample(frame)
        ]
    return np.concatenate(frames).astype(np.float32) / 32768
