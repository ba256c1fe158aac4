"""Transcript -> (body, media type); pure. A new response format is a function and a line in `FORMATS`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.languages import language_name
from whisper_server.core.types import Segment, Transcript

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"  # what the hosted API sends for text, srt and vtt


def render(transcript: Transcript, response_format: str) -> tuple[str, str]:
    """Return the body and its media type; text formats end in a line break.

    Raises:
        InvalidRequest: no such format.
    """
    return FORMATS[check_format(response_format)](transcript)


def check_format(response_format: str, names: Collection[str] = ()) -> str:
    """Return the format's name, or raise `InvalidRequest` with the names there are (`names`, else all)."""
    names = names or FORMATS
    if response_format not in names:
        raise InvalidRequest(
            f"Unknown response_format {response_format[:40]!r}. Use one of: {', '.join(names)}.",
            param="response_format",
        )
    return response_format


def _json(transcript: Transcript) -> tuple[str, str]:
    if transcript.task == "translate":
        return _dumps({"text": transcript.text}), JSON_TYPE
    return _dumps({"text": transcript.text, "usage": _usage(transcript)}), JSON_TYPE


def _verbose_json(transcript: Transcript) -> tuple[str, str]:
    body: dict[str, Any] = {
        "task": transcript.task,
        # Silence has no language; clients expect a name, and the hosted API says english.
        "language": language_name(_language_of_text(transcript)),
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
        "segments": [segment_object(i, segment) for i, segment in enumerate(transcript.segments)],
    }
    words = [word for segment in transcript.segments for word in segment.words]
    if words:
        body["words"] = [
            {"word": word.text, "start": round(word.start_s, 2), "end": round(word.end_s, 2)}
            for word in words
        ]
    if transcript.task == "transcribe":
        body["usage"] = _usage(transcript)
    return _dumps(body), JSON_TYPE


def _language_of_text(transcript: Transcript) -> str:
    """Return the code of what the text is written in; translations are English."""
    return (transcript.task == "transcribe" and transcript.language) or "en"


def segment_object(index: int, segment: Segment) -> dict[str, Any]:
    """Return one segment of verbose_json; clients check that all ten fields are there."""
    return {
        "id": index,
        "seek": segment.seek_frames,
        "start": round(segment.start_s, 2),
        "end": round(segment.end_s, 2),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _text(transcript: Transcript) -> tuple[str, str]:
    return transcript.text + "\n", TEXT_TYPE


def _srt(transcript: Transcript) -> tuple[str, str]:
    cues = [
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_cue_text(cue)}\n"
        for number, cue in enumerate(transcript.segments, 1)
    ]
    return _cues(cues), TEXT_TYPE


def _vtt(transcript: Transcript) -> tuple[str, str]:
    cues = [
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_cue_text(cue)}\n"
        for cue in transcript.segments
    ]
    return "WEBVTT\n\n" + _cues(cues), TEXT_TYPE


def _cues(cues: Sequence[str]) -> str:
    return "".join(cue + "\n" for cue in cues)


def _cue_text(segment: Segment) -> str:
    """Return the text of a cue: one line, and never the arrow that would end its time line."""
    return " ".join(segment.text.split()).replace("-->", "->")


def _clock(seconds: float, separator: str) -> str:
    """Return hours:minutes:seconds and milliseconds."""
    total_ms = round(seconds * 1000)
    minutes, ms = divmod(total_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{ms // 1000:02d}{separator}{ms % 1000:03d}"


def _usage(transcript: Transcript) -> dict[str, Any]:
    """Return the audio's length as the hosted API bills it: whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(transcript.duration_s)}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


FORMATS: dict[str, Callable[[Transcript], tuple[str, str]]] = {
    "json": _json,
    "text": _text,
    "srt": _srt,
    "verbose_json": _verbose_json,
    "vtt": _vtt,
}
TRANSLATED_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")  # those of translations
