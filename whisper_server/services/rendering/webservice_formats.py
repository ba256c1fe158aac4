"""Transcript -> the outputs of whisper-asr-webservice, those of openai/whisper's writers; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from whisper_server.core.types import Segment, Transcript
from whisper_server.services.rendering.formats import SUBTITLE_FORMATS, segment_object
from whisper_server.services.rendering.subtitles import SubtitleOptions


def webservice_output(transcript: Transcript, output: str, subtitles: SubtitleOptions) -> str:
    """Return the body of an output: txt, srt, vtt, tsv or json. Keep it off the event loop."""
    if output in SUBTITLE_FORMATS:
        return SUBTITLE_FORMATS[output](transcript, subtitles)[0]
    return {"txt": _txt, "tsv": _tsv, "json": _json}[output](transcript)


def _txt(transcript: Transcript) -> str:
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def _tsv(transcript: Transcript) -> str:
    """Write a line per segment: start and end in whole milliseconds, and the text."""
    lines = [
        f"{round(1000 * segment.start_s)}\t{round(1000 * segment.end_s)}\t{_cell(segment.text)}\n"
        for segment in transcript.segments
    ]
    return "start\tend\ttext\n" + "".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.replace("\t", " ").splitlines()).strip()


def _json(transcript: Transcript) -> str:
    body = {
        "text": "".join(segment.text for segment in transcript.segments),
        "segments": [_segment(number, each, transcript) for number, each in enumerate(transcript.segments)],
        "language": transcript.language or "en",  # of silence, as openai/whisper has it
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def _segment(number: int, segment: Segment, transcript: Transcript) -> dict[str, Any]:
    found = segment_object(number, segment)
    if transcript.shows_words:
        found["words"] = list(_words(segment))
    if segment.speaker:
        found["speaker"] = segment.speaker
    return found


def _words(segment: Segment) -> Iterator[dict[str, Any]]:
    """Yield the words as openai/whisper does, with the spaces before them: joined they are the text."""
    at = 0
    for word in segment.words:
        found = segment.text.find(word.text, at)
        end = found + len(word.text) if found >= 0 else at
        yield {
            "word": segment.text[at:end] if found >= 0 else word.text,
            "start": round(word.start_s, 2),
            "end": round(word.end_s, 2),
            "probability": word.probability,
        }
        at = end
