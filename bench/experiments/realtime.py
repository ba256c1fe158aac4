"""How soon words and turns of live speech have their text, and how right it is: real recordings and weights.

    python -m bench.experiments.realtime RECORDINGS MODEL [--sessions 1 2 4 8] [--seconds 45]

RECORDINGS is a folder with an `index.json`: a list of objects with `file`, `language`, `seconds` and
`transcript`. English ones are joined, a pause after each, until they are as long as is asked for; every
session hears another joint, all at the same time and at their own speed, over WebSockets to one server.

A word's time is that of its end in an upload of the same sound. It is compared with the arrival of the first
delta with which all words up to it are shown; where no delta shows it, with that of the final text. The final
text's latency counts from the end of the speech, so the pause that ends a turn is in it. MODEL is a folder.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import tempfile
import time
from pathlib import Path

import httpx

from bench.figures import table
from bench.live import HEADER, PIECE_S, RATE, Joint, Listener, Turn, joints, row, settings

TIMEOUT_S = 120.0


async def upload(client: httpx.AsyncClient, joint: Joint) -> None:
    """Let the server say what it hears when it has all of the sound."""
    from tests.support.audio_files import encode

    reply = await client.post(
        "/v1/audio/transcriptions",
        files={"file": ("joint.flac", encode(joint.samples, RATE, "flac", "flac"))},
        data={"language": "en", "response_format": "verbose_json", "timestamp_granularities[]": "word"},
    )
    said = reply.raise_for_status().json()
    joint.text, joint.word_ends_s = said["text"], [word["end"] for word in said["words"]]


async def live(url: str, joint: Joint) -> list[Turn]:
    """Say a joint at its own speed; return its turns."""
    from websockets.asyncio.client import connect

    listener = Listener()
    async with connect(url.replace("http", "ws", 1) + "/v1/realtime", max_size=None) as socket:
        await socket.send(json.dumps(settings()))
        began = time.monotonic()

        async def speak() -> None:
            for number, piece in enumerate(joint.pieces(), 1):
                # A piece can be sent when its last sample has been said.
                await asyncio.sleep(began + number * PIECE_S - time.monotonic())
                audio = base64.b64encode(piece).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await socket.send(json.dumps({"type": "input_audio_buffer.clear"}))

        speaking = asyncio.create_task(speak())
        async with asyncio.timeout(joint.duration_s + TIMEOUT_S):
            while not listener.has_all:
                event = json.loads(await socket.recv())
                listener.take(event, time.monotonic() - began)
        await speaking
    return listener.turns


async def measure(url: str, recordings: Path, n_sessions: int, seconds: float) -> list[str]:
    """Measure with so many sessions at once."""
    found = joints(recordings, n_sessions, seconds)
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for joint in found:  # loads the model, too
            await upload(client, joint)
    turns = await asyncio.gather(*(live(url, joint) for joint in found))
    return row(n_sessions, list(zip(found, turns, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=45.0, help="of sound in each session")
    options = parser.parse_args()
    from tests.conftest import servers

    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as start:
        server = start(
            WHISPER_ENGINE="auto", WHISPER_MODEL=str(options.model.resolve()), WHISPER_OFFLINE="true"
        )
        rows = [
            asyncio.run(measure(server.url, options.recordings, n_sessions, options.seconds))
            for n_sessions in options.sessions
        ]
    print(table(HEADER, rows))


if __name__ == "__main__":
    main()
