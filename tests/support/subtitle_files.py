"""Transcripts for tests, and a small reader of SRT and WebVTT: strict where players differ."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from whisper_server.core.types import Segment, Transcript, Word

CLOCK = r"(\d\d+):([0-5]\d):([0-5]\d)%s(\d{3})"


@dataclass(frozen=True)
class Shown:
    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def segment(start_s: float, end_s: float, text: str, words: tuple[Word, ...] = ()) -> Segment:
    return Segment(start_s, end_s, text, (), 0.0, -0.25, 1.1, 0.01, "en", 0, words)


def talk(*segments: Segment, duration_s: float = 100.0) -> Transcript:
    return Transcript("transcribe", "en", duration_s, segments)


def parse_srt(body: str) -> list[Shown]:
    found = []
    for number, block in enumerate(blocks_of(body), 1):
        assert block[0] == str(number)
        assert not any("-->" in line for line in block[2:])
        found.append(shown(block[1], block[2:], ","))
    return found


def parse_vtt(body: str) -> list[Shown]:
    header, _, rest = body.partition("\n\n")
    assert header == "WEBVTT"
    found = []
    for block in blocks_of(rest):
        text = "".join(block[1:])
        assert not re.search(r"[<>]|&(?!amp;|lt;|gt;)", text), text
        found.append(shown(block[0], [html.unescape(line) for line in block[1:]], "."))
    return found


def blocks_of(body: str) -> list[list[str]]:
    assert body == "" or body.endswith("\n\n")
    # Line breaks as a player sees them; str.splitlines knows more of them.
    return [block.split("\n") for block in body.split("\n\n")[:-1]]


def shown(times: str, lines: list[str], separator: str) -> Shown:
    clock = CLOCK % re.escape(separator)
    found = re.fullmatch(f"{clock} --> {clock}", times)
    assert found, times
    h1, m1, s1, ms1, h2, m2, s2, ms2 = map(int, found.groups())
    assert lines
    assert all(line.strip() for line in lines)
    return Shown(
        ((h1 * 60 + m1) * 60 + s1) * 1000 + ms1, ((h2 * 60 + m2) * 60 + s2) * 1000 + ms2, tuple(lines)
    )


def check_times(cues: list[Shown], duration_s: float, max_ms: int = 7000) -> None:
    """Check that cues run forward, never overlap, are never too long and stay inside the file."""
    now_ms = 0
    for cue in cues:
        assert now_ms <= cue.start_ms < cue.end_ms <= cue.start_ms + max_ms
        now_ms = cue.end_ms
    assert now_ms <= duration_s * 1000
