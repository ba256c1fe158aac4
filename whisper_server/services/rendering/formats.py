"""Transcript -> (body, media type); pure. A new response format is a function and a line in `FORMATS`."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby
from typing import Any

from whisper_server.core.errors import InvalidRequest
from whisper_server.core.languages import language_name
from whisper_server.core.types import Segment, Transcript, Turn, seconds_by_language
from whisper_server.services.rendering.subtitles import Cue, SubtitleOptions, cues

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"  # what the hosted API sends for text, srt and vtt

_ARROW = re.compile(r"(?<!-)-{2,}>")  # tried once for each run of dashes, not at every dash
_SUBTITLES = SubtitleOptions()


def render(
    transcript: Transcript, response_format: str, subtitles: SubtitleOptions = _SUBTITLES
) -> tuple[str, str]:
    """Return the body and its media type; text formats end in a line break.

    `subtitles` counts for `SUBTITLE_FORMATS` only. Long files take a while: keep it off the event loop.

    Raises:
        InvalidRequest: no such format.
    """
    if response_format in SUBTITLE_FORMATS:
        return SUBTITLE_FORMATS[response_format](transcript, subtitles)
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
    body: dict[str, Any] = {"text": transcript.text, "usage": _usage(transcript.duration_s)}
    if transcript.shows_languages:
        body["languages"] = [{"code": code} for code in seconds_by_language(transcript.segments)]
    if transcript.shows_logprobs:
        body["logprobs"] = logprob_objects(transcript.segments)
    return _dumps(body), JSON_TYPE


def logprob_objects(segments: Iterable[Segment]) -> list[dict[str, Any]]:
    """Return what `include[]=logprobs` asks for: every text token in order."""
    return [
        {"token": score.text, "logprob": score.logprob, "bytes": list(score.data)}
        for segment in segments
        for score in segment.scores
    ]


def _verbose_json(transcript: Transcript) -> tuple[str, str]:
    body: dict[str, Any] = {
        "task": transcript.task,
        # Silence has no language; clients expect a name, and the hosted API says english.
        "language": language_name(_language_of_text(transcript)),
        "duration": round(transcript.duration_s, 3),
        "text": transcript.text,
    }
    if transcript.task == "transcribe" and transcript.language:
        body["language_probability"] = round(transcript.language_probability, 3)
    if transcript.shows_segments:
        body["segments"] = [segment_object(i, segment) for i, segment in enumerate(transcript.segments)]
    if transcript.shows_words:
        body["words"] = [word for segment in transcript.segments for word in word_objects(segment)]
    if transcript.task == "transcribe":
        body["usage"] = _usage(transcript.duration_s)
    return _dumps(body), JSON_TYPE


def _language_of_text(transcript: Transcript) -> str:
    """Return the code of what the text is written in; translations are English."""
    return (transcript.task == "transcribe" and transcript.language) or "en"


def segment_object(index: int, segment: Segment) -> dict[str, Any]:
    """Return one segment of verbose_json: ten fields, which clients check, and its language."""
    return {
        "id": index,
        **_speaker(segment),
        "seek": segment.seek_frames,
        "start": round(segment.start_s, 2),
        "end": round(segment.end_s, 2),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
        "language": segment.language,
    }


def word_objects(segment: Segment) -> list[dict[str, Any]]:
    """Return the words of one segment, as verbose_json has them."""
    return [
        {
            "word": word.text,
            "start": round(word.start_s, 2),
            "end": round(word.end_s, 2),
            **_speaker(segment),
        }
        for word in segment.words
    ]


def _speaker(segment: Segment) -> dict[str, str]:
    """Return who speaks, where that was asked for."""
    return {"speaker": segment.speaker} if segment.speaker else {}


def timed_segment(number: int, segment: Segment) -> dict[str, Any]:
    """Return one segment of diarized_json, which is also the event of a stream; counted from 1."""
    return {
        "type": "transcript.text.segment",
        "id": f"seg_{number:03d}",
        "start": round(segment.start_s, 2),
        "end": round(segment.end_s, 2),
        "text": segment.text.strip(),
        "speaker": segment.speaker,
        "language": segment.language,
    }


def _diarized_json(transcript: Transcript) -> tuple[str, str]:
    """One line of text per turn, and a segment for each phrase; clients check that ids are texts."""
    body = {
        "task": transcript.task,
        "duration": round(transcript.duration_s, 3),
        "text": _by_turn(transcript),
        "segments": [timed_segment(number, segment) for number, segment in enumerate(transcript.segments, 1)],
        "usage": _usage(transcript.duration_s),
    }
    return _dumps(body), JSON_TYPE


def _by_turn(transcript: Transcript) -> str:
    """Return a line per turn, which begins with who speaks."""
    turns = groupby(transcript.segments, key=lambda segment: segment.speaker)
    return "\n".join(f"{speaker}: {''.join(each.text for each in turn).strip()}" for speaker, turn in turns)


def render_turns(turns: Sequence[Turn], duration_s: float, response_format: str) -> tuple[str, str]:
    """Return the body and its media type of who speaks when, without text; raises as `render`."""
    if check_format(response_format, DIARIZATION_FORMATS) == "rttm":
        return "".join(map(_rttm_line, turns)), TEXT_TYPE
    body = {
        "duration": round(duration_s, 3),
        "speakers": list(dict.fromkeys(turn.speaker for turn in turns)),
        "segments": [
            {"start": round(turn.start_s, 2), "end": round(turn.end_s, 2), "speaker": turn.speaker}
            for turn in turns
        ],
        "usage": _usage(duration_s),
    }
    return _dumps(body), JSON_TYPE


def _rttm_line(turn: Turn) -> str:
    """Return a turn as NIST's format has it, whose fields have no spaces in them."""
    speaker = "_".join(turn.speaker.split())
    length_s = turn.end_s - turn.start_s
    return f"SPEAKER audio 1 {turn.start_s:.3f} {length_s:.3f} <NA> <NA> {speaker} <NA> <NA>\n"


def render_alignment(
    transcript: Transcript, response_format: str, subtitles: SubtitleOptions = _SUBTITLES
) -> tuple[str, str]:
    """Return the body and its media type of a text with its times; raises as `render`."""
    if check_format(response_format, ALIGNMENT_FORMATS) != "json":
        return render(transcript, response_format, subtitles)
    body = {
        "text": transcript.text,
        "segments": [
            {
                "id": number,
                "start": round(segment.start_s, 2),
                "end": round(segment.end_s, 2),
                "text": segment.text.strip(),
                "words": [
                    {
                        "word": word.text,
                        "start": round(word.start_s, 2),
                        "end": round(word.end_s, 2),
                        "probability": round(word.probability, 4),
                    }
                    for word in segment.words
                ],
            }
            for number, segment in enumerate(transcript.segments)
        ],
        "usage": _usage(transcript.duration_s),
    }
    return _dumps(body), JSON_TYPE


def _text(transcript: Transcript) -> tuple[str, str]:
    has_speakers = any(segment.speaker for segment in transcript.segments)
    return (_by_turn(transcript) if has_speakers else transcript.text) + "\n", TEXT_TYPE


def _srt(transcript: Transcript, options: SubtitleOptions = _SUBTITLES) -> tuple[str, str]:
    blocks = [
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{_srt_text(cue)}\n\n"
        for number, cue in enumerate(cues(transcript, options), 1)
    ]
    return "".join(blocks), TEXT_TYPE


def _vtt(transcript: Transcript, options: SubtitleOptions = _SUBTITLES) -> tuple[str, str]:
    blocks = [
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{_vtt_text(cue)}\n\n"
        for cue in cues(transcript, options)
    ]
    return "WEBVTT\n\n" + "".join(blocks), TEXT_TYPE


def _srt_text(cue: Cue) -> str:
    """Return the lines without the arrow that players take for a time line; SRT cannot escape it."""
    return "\n".join(_ARROW.sub("->", line) for line in cue.lines)


def _vtt_text(cue: Cue) -> str:
    """Return the lines with what WebVTT reads as markup escaped; that takes care of the arrow too."""
    return html.escape("\n".join(cue.lines), quote=False)


def _clock(total_ms: int, separator: str) -> str:
    """Return hours:minutes:seconds and milliseconds."""
    minutes, ms = divmod(total_ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{ms // 1000:02d}{separator}{ms % 1000:03d}"


def _usage(duration_s: float) -> dict[str, Any]:
    """Return the audio's length as the hosted API bills it: whole seconds, rounded up."""
    return {"type": "duration", "seconds": math.ceil(duration_s)}


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


# What has cues: takes options, and wants the times of words.
SUBTITLE_FORMATS: dict[str, Callable[[Transcript, SubtitleOptions], tuple[str, str]]] = {
    "srt": _srt,
    "vtt": _vtt,
}
FORMATS: dict[str, Callable[[Transcript], tuple[str, str]]] = {
    "json": _json,
    "text": _text,
    "srt": _srt,
    "verbose_json": _verbose_json,
    "vtt": _vtt,
    "diarized_json": _diarized_json,
}
TIMED_FORMATS = ("verbose_json", "diarized_json")  # whose streams tell when each segment is spoken
ALIGNMENT_FORMATS = ("json", "verbose_json", "srt", "vtt")  # those of a text with its times
DIARIZATION_FORMATS = ("json", "rttm")  # of who speaks when, without text
TRANSLATED_FORMATS = ("json", "text", "srt", "verbose_json", "vtt")  # those of translations
