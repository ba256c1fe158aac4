"""How soon words and turns of live speech have their text, and how right it is: real recordings and weights.

    python -m bench.experiments.realtime RECORDINGS MODEL [--sessions 1 2 4] [--seconds 45]

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
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from bench.figures import percentile, table, word_errors, words

RATE = 16_000
PIECE_S = 0.05
PAUSE_S = 1.2  # after each recording: more than the silence that ends a turn
SILENCE_MS = 500
TIMEOUT_S = 120.0
TRANSCRIPTION = "conversation.item.input_audio_transcription"


@dataclass
class Joint:
    """What one session hears, and what an upload of it says."""

    samples: NDArray[np.float32]
    text: str = ""
    word_ends_s: list[float] = field(default_factory=list)


@dataclass
class Turn:
    """One item: when its words were shown (seconds since the first sample), and its text."""

    end_s: float = 0.0  # of its sound, the silence included
    shown: list[tuple[float, str]] = field(default_factory=list)  # arrival, all text so far
    draft: str = ""  # what was shown when the turn ended
    final: tuple[float, str] | None = None


def joints(folder: Path, count: int, seconds: float) -> list[Joint]:
    """Return `count` joints of different recordings."""
    from whisper_server.services.audio_processor import AudioProcessor

    entries = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    found: list[Joint] = []
    pieces: list[NDArray[np.float32]] = []
    for entry in entries:
        if entry["language"] != "en" or not entry["transcript"] or not 3 <= entry["seconds"] <= seconds:
            continue
        with AudioProcessor(1 << 30, 36_000.0).open(folder / entry["file"]) as stream:
            pieces += [np.concatenate(list(stream.blocks())), np.zeros(round(PAUSE_S * RATE), np.float32)]
        if sum(map(len, pieces)) >= seconds * RATE:
            found.append(Joint(np.concatenate(pieces)))
            pieces = []
        if len(found) == count:
            return found
    raise SystemExit(f"the recordings are enough for {len(found)} of {count} sessions")


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

    turns: dict[str, Turn] = {}
    committed: list[str] = []
    async with connect(url.replace("http", "ws", 1) + "/v1/realtime", max_size=None) as socket:
        detection = {"type": "server_vad", "silence_duration_ms": SILENCE_MS}
        sound = {
            "format": {"type": "audio/pcm", "rate": RATE},
            "transcription": {"language": "en"},
            "turn_detection": detection,
        }
        update = {"type": "session.update", "session": {"type": "transcription", "audio": {"input": sound}}}
        await socket.send(json.dumps(update))
        began = time.monotonic()

        async def speak() -> None:
            pcm = (np.clip(joint.samples, -1, 1) * 32_767).astype("<i2")
            step = round(PIECE_S * RATE)
            for first in range(0, len(pcm), step):
                # A piece can be sent when its last sample has been said.
                await asyncio.sleep(began + (first + step) / RATE - time.monotonic())
                audio = base64.b64encode(pcm[first : first + step].tobytes()).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await socket.send(json.dumps({"type": "input_audio_buffer.clear"}))

        speaking = asyncio.create_task(speak())
        is_over = False
        async with asyncio.timeout(len(joint.samples) / RATE + TIMEOUT_S):
            while not (is_over and all(turns[item].final for item in committed)):
                event: dict[str, Any] = json.loads(await socket.recv())
                now_s, kind = time.monotonic() - began, event["type"]
                turn = turns.setdefault(event.get("item_id", ""), Turn())
                if kind == f"{TRANSCRIPTION}.delta":
                    so_far = turn.shown[-1][1] if turn.shown else ""
                    turn.shown.append((now_s, so_far + event["delta"]))
                elif kind == f"{TRANSCRIPTION}.completed":
                    turn.final = (now_s, event["transcript"])
                elif kind == "input_audio_buffer.speech_stopped":
                    turn.end_s = event["audio_end_ms"] / 1000
                elif kind == "input_audio_buffer.committed":
                    committed.append(event["item_id"])
                    turn.draft = turn.shown[-1][1] if turn.shown else ""
                elif kind == "input_audio_buffer.cleared":
                    is_over = True
                elif kind in {"error", f"{TRANSCRIPTION}.failed"}:
                    raise SystemExit(f"the session failed: {event}")
        await speaking
    return [turns[item] for item in committed]


def word_latencies_s(joint: Joint, turns: list[Turn]) -> list[float]:
    """Return the seconds from each word's end to its arrival, by how many words of its turn precede it."""
    found, begin_s = [], 0.0
    for turn in turns:
        ends = [end_s for end_s in joint.word_ends_s if begin_s <= end_s <= turn.end_s]
        begin_s = turn.end_s + 1e-9
        assert turn.final is not None
        arrivals = [*turn.shown, turn.final]
        for number, end_s in enumerate(ends, 1):
            at_s = next((at_s for at_s, text in arrivals if len(text.split()) >= number), turn.final[0])
            found.append(at_s - end_s)
    return found


def row(n_sessions: int, heard: list[tuple[Joint, list[Turn]]]) -> list[str]:
    """Return a line of the table."""
    latencies = [latency for joint, turns in heard for latency in word_latencies_s(joint, turns)]
    turns = [turn for _, each in heard for turn in each if turn.final]
    pauses = [turn.final[0] - (turn.end_s - SILENCE_MS / 1000) for turn in turns if turn.final]
    shown = [turn for turn in turns if turn.draft]
    wrong = sum(not turn.final[1].startswith(turn.draft) for turn in shown if turn.final)
    errors = sum(
        word_errors(joint.text, " ".join(turn.final[1] for turn in each if turn.final))
        for joint, each in heard
    )
    n_words = sum(len(words(joint.text)) for joint, _ in heard)
    return [
        str(n_sessions),
        f"{median(latencies):.2f}",
        f"{percentile(latencies, 90):.2f}",
        f"{100 * sum(latency <= 1 for latency in latencies) / len(latencies):.0f} %",
        f"{median(pauses):.2f}",
        f"{errors} of {n_words}",
        f"{wrong} of {len(shown)}",
        str(len(turns)),
    ]


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
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=45.0, help="of sound in each session")
    options = parser.parse_args()
    from tests.conftest import servers

    header = [
        "sessions",
        "word shown after, s (median)",
        "(90 %)",
        "within 1 s",
        "text after the speech, s (median)",
        "words that differ from the upload's",
        "drafts that are no beginning of the text",
        "turns",
    ]
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as start:
        server = start(
            WHISPER_ENGINE="auto", WHISPER_MODEL=str(options.model.resolve()), WHISPER_OFFLINE="true"
        )
        rows = [
            asyncio.run(measure(server.url, options.recordings, n_sessions, options.seconds))
            for n_sessions in options.sessions
        ]
    print(table(header, rows))


if __name__ == "__main__":
    main()
