"""Live speech of the measurements: what sessions hear, what comes back and when, and the figures of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.figures import percentile, word_errors, words

RATE = 16_000
PIECE_S = 0.05
PAUSE_S = 1.2  # after each recording: more than the silence that ends a turn
SILENCE_MS = 500
TRANSCRIPTION = "conversation.item.input_audio_transcription"

HEADER = [
    "sessions",
    "word shown after, s (median)",
    "(90 %)",
    "within 1 s",
    "text after the turn's end, s (median)",
    "(90 %)",
    "words that differ from the upload's",
    "words shown that the text has not",
    "turns",
]


@dataclass
class Joint:
    """What one session hears, and what an upload of it says."""

    samples: NDArray[np.float32]
    text: str = ""
    word_ends_s: list[float] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / RATE

    def pieces(self) -> list[bytes]:
        """Return the sound as a client appends it: 16-bit samples, PIECE_S each."""
        pcm = (np.clip(self.samples, -1, 1) * 32_767).astype("<i2")
        step = round(PIECE_S * RATE)
        return [pcm[first : first + step].tobytes() for first in range(0, len(pcm), step)]


@dataclass
class Turn:
    """One item: when its words were shown (seconds since the first sample), and its text."""

    end_s: float = 0.0  # of its sound, the silence included
    shown: list[tuple[float, str]] = field(default_factory=list)  # arrival, all text so far
    draft: str = ""  # what was shown when the turn ended
    final: tuple[float, str] = (0.0, "")


class Listener:
    """Takes a session's events as they arrive, until every turn before the clear has its text."""

    def __init__(self) -> None:
        self._turns: dict[str, Turn] = {}
        self._committed: list[str] = []
        self._is_cleared = False
        self._n_final = 0

    @property
    def items(self) -> list[tuple[str, Turn]]:
        """The items of turns that ended, in order."""
        return [(item, self._turns[item]) for item in self._committed]

    @property
    def turns(self) -> list[Turn]:
        """The turns that ended, in order."""
        return [turn for _, turn in self.items]

    @property
    def has_all(self) -> bool:
        """Whether nothing more will come."""
        return self._is_cleared and self._n_final == len(self._committed)

    def take(self, event: dict[str, Any], now_s: float) -> None:
        """Take the next event.

        Raises:
            SystemExit: the session failed.
        """
        kind = event["type"]
        turn = self._turns.setdefault(event.get("item_id", ""), Turn())
        if kind == f"{TRANSCRIPTION}.delta":
            turn.shown.append((now_s, _last(turn) + event["delta"]))
        elif kind == f"{TRANSCRIPTION}.completed":
            turn.final = (now_s, event["transcript"])
            self._n_final += 1
        elif kind == "input_audio_buffer.speech_stopped":
            turn.end_s = event["audio_end_ms"] / 1000
        elif kind == "input_audio_buffer.committed":
            self._committed.append(event["item_id"])
            turn.draft = _last(turn)
        elif kind == "input_audio_buffer.cleared":
            self._is_cleared = True
        elif kind in {"error", f"{TRANSCRIPTION}.failed"}:
            raise SystemExit(f"the session failed: {event}")


def _last(turn: Turn) -> str:
    return turn.shown[-1][1] if turn.shown else ""


def settings() -> dict[str, Any]:
    """Return the `session.update` of every session."""
    sound = {
        "format": {"type": "audio/pcm", "rate": RATE},
        "transcription": {"language": "en"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": SILENCE_MS},
    }
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": sound}}}


def joints(folder: Path, count: int, seconds: float) -> list[Joint]:
    """Return `count` joints of English recordings, each of so many seconds and more.

    Where there are not enough recordings they come again, in other joints.
    """
    from whisper_server.services.audio_processor import AudioProcessor

    entries = {
        entry["transcript"]: entry  # some texts come in several formats
        for entry in json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if entry["language"] == "en" and entry["transcript"] and 3 <= entry["seconds"] <= seconds
    }
    found: list[Joint] = []
    pieces: list[NDArray[np.float32]] = []
    for entry in cycle(entries.values()):
        with AudioProcessor(1 << 30, 36_000.0).open(folder / entry["file"]) as stream:
            pieces += [np.concatenate(list(stream.blocks())), np.zeros(round(PAUSE_S * RATE), np.float32)]
        if sum(map(len, pieces)) >= seconds * RATE:
            found.append(Joint(np.concatenate(pieces)))
            pieces = []
        if len(found) == count:
            break
    return found


def word_latencies_s(joint: Joint, turns: list[Turn]) -> list[float]:
    """Return the seconds from each word's end to its arrival, by how many words of its turn precede it."""
    found, begin_s = [], 0.0
    for turn in turns:
        ends = [end_s for end_s in joint.word_ends_s if begin_s <= end_s <= turn.end_s]
        begin_s = turn.end_s + 1e-9
        arrivals = [*turn.shown, turn.final]
        for number, end_s in enumerate(ends, 1):
            at_s = next((at_s for at_s, text in arrivals if len(text.split()) >= number), turn.final[0])
            found.append(at_s - end_s)
    return found


def n_retracted(turn: Turn) -> int:
    """Return how many of the words that were shown when the turn ended are not in its text."""
    draft, final = words(turn.draft), words(turn.final[1])
    blocks = SequenceMatcher(None, draft, final, autojunk=False).get_matching_blocks()
    return len(draft) - sum(block.size for block in blocks)


def row(n_sessions: int, heard: list[tuple[Joint, list[Turn]]]) -> list[str]:
    """Return a line of the table."""
    latencies = [latency for joint, turns in heard for latency in word_latencies_s(joint, turns)]
    turns = [turn for _, each in heard for turn in each]
    waits = [turn.final[0] - turn.end_s for turn in turns]
    errors = sum(word_errors(joint.text, " ".join(turn.final[1] for turn in each)) for joint, each in heard)
    n_words = sum(len(words(joint.text)) for joint, _ in heard)
    n_shown = sum(len(words(turn.draft)) for turn in turns)
    return [
        str(n_sessions),
        f"{median(latencies):.2f}",
        f"{percentile(latencies, 90):.2f}",
        f"{100 * sum(latency <= 1 for latency in latencies) / len(latencies):.0f} %",
        f"{median(waits):.2f}",
        f"{percentile(waits, 90):.2f}",
        f"{errors} of {n_words}",
        f"{sum(map(n_retracted, turns))} of {n_shown}",
        str(len(turns)),
    ]
