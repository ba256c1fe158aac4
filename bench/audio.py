"""The audio of the serving benchmark, made of the robust samples of the nano model; WAV, 16 kHz, mono.

Every clip has one language and a known text. Samples are put together with a pause between them, and
silence at the end brings a clip to its length. No pause is so long that voice detection would cut it.
"""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
SAMPLES = Path(__file__).parent.parent / "models" / "nano-whisper" / "samples"
PAUSE_S = 0.8  # between samples; the model ends a segment there, voice detection does not
LONG_PAUSE_S = 1.6  # of the long file: the nano model loses words where speech is dense
LONG_LANGUAGE = "de"  # the one that it hears best in a long file
MIX_SIZE = 24
MIX_SHORTEST_S, MIX_LONGEST_S = 3.0, 15.0


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and what is said in it."""

    name: str
    text: str
    language: str
    duration_s: float
    data: bytes  # a WAV file


@dataclass(frozen=True, slots=True)
class _Sample:
    text: str
    language: str
    samples: NDArray[np.int16]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE


@cache
def _robust() -> tuple[_Sample, ...]:
    """Return the samples that 8-bit weights hear right, in the order of the list."""
    entries = json.loads((SAMPLES / "clips.json").read_text(encoding="utf-8"))
    return tuple(
        _Sample(entry["text"], entry["language"], _read(SAMPLES / entry["file"]))
        for entry in entries
        if entry["robust"] and entry["kind"] == "plain"
    )


def _read(path: Path) -> NDArray[np.int16]:
    import av

    with av.open(str(path)) as file:
        parts = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    return np.concatenate(parts).astype(np.int16)


def samples_of(path: Path) -> NDArray[np.float32]:
    """Return a file's sound, float32 [n], 16 kHz mono, as the server decodes it."""
    from whisper_server.services.audio_processor import AudioProcessor

    with AudioProcessor(max_bytes=1 << 30, max_seconds=3600).open(path.read_bytes()) as stream:
        return np.concatenate(list(stream.blocks()))


def short() -> Clip:
    """One clip of 5 s."""
    return _joined("short", [s for s in _robust() if s.text == "mother house flower brother"], 5.0)


def window() -> Clip:
    """One clip of 30 s: a whole window."""
    return _joined("window", _filling(30.0, "fr", first=3), 30.0)


def long(minutes: float = 10.0) -> Clip:
    """One file of ten minutes."""
    return _joined(
        "long",
        _filling(minutes * 60, LONG_LANGUAGE, first=0, pause_s=LONG_PAUSE_S),
        minutes * 60,
        LONG_PAUSE_S,
    )


def mix() -> list[Clip]:
    """Clips of 3 to 15 s, evenly spread, in four languages by turns; shuffled, always in the same way."""
    clips: list[Clip] = []
    for index, duration_s in enumerate(np.linspace(MIX_SHORTEST_S, MIX_LONGEST_S, MIX_SIZE)):
        language = ("en", "fr", "de", "es")[index % 4]
        parts = _filling(float(duration_s), language, first=index // 4)
        clips.append(_joined(f"mix-{index:02}", parts, float(duration_s)))
    return [clips[index] for index in np.random.default_rng(0).permutation(len(clips))]


def _filling(duration_s: float, language: str, first: int, pause_s: float = PAUSE_S) -> list[_Sample]:
    """Return samples of the language that fit into the time, from number `first` on, round and round.

    The model may be confused by a word that comes back at once: clips of the mix have none.
    """
    known = [sample for sample in _robust() if sample.language == language]
    left_s, chosen = duration_s, list[_Sample]()
    while fitting := [s for s in known if s.duration_s <= left_s and s not in chosen[1 - len(known) :]]:
        fresh = [s for s in fitting if not (chosen and set(s.text.split()) & set(chosen[-1].text.split()))]
        if not fresh and duration_s <= MIX_LONGEST_S:
            break
        choice = fresh or fitting
        if left_s < MIX_LONGEST_S:  # the last ones: fill what is left as well as may be
            choice = sorted(choice, key=lambda s: -s.duration_s)[:2]
        chosen.append(choice[(first + len(chosen)) % len(choice)])
        left_s -= chosen[-1].duration_s + pause_s
    return chosen


def _joined(name: str, parts: Sequence[_Sample], duration_s: float, pause_s: float = PAUSE_S) -> Clip:
    samples = np.zeros(round(duration_s * RATE), np.int16)
    at = 0
    for part in parts:
        fitting = part.samples[: len(samples) - at]
        samples[at : at + len(fitting)] = fitting
        at += len(fitting) + round(pause_s * RATE)
    text = " ".join(part.text for part in parts)
    return Clip(name, text, parts[0].language, duration_s, _wav(samples))


def _wav(samples: NDArray[np.int16]) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.tobytes())
    return out.getvalue()


def all_clips(minutes: float = 10.0) -> list[Clip]:
    """Every clip of the benchmark, by part."""
    return [short(), window(), long(minutes), *mix()]
