"""Values of the pipeline <-> JSON, exactly: a float comes back as the same float. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from whisper_server.core.errors import WhisperServerError
from whisper_server.core.types import (
    Decoded,
    ModelSource,
    Segment,
    TokenScore,
    TokenTime,
    TranscribeParams,
    Transcript,
    VadOptions,
    VoiceOptions,
    Word,
)
from whisper_server.services.rendering.subtitles import SubtitleOptions


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job is to do, and how its result is shown unless another way is asked for."""

    params: TranscribeParams
    response_format: str
    subtitles: SubtitleOptions
    shows_words: bool  # in verbose_json
    shows_logprobs: bool  # in json


def request_text(request: JobRequest) -> str:
    """Write a request; its model is left out, whose name means what the catalog says when it runs."""
    found = asdict(request)
    del found["params"]["model"]
    voices = found["params"]["voices"]
    voices["references"] = [base64.b64encode(each).decode() for each in voices["references"]]
    return _dumps(found)


def request_of(text: str, model: ModelSource) -> JobRequest:
    """Read a request."""
    found = json.loads(text)
    params = found.pop("params")
    params["vad"] = VadOptions(**params["vad"])
    voices = params["voices"]
    voices["references"] = tuple(map(base64.b64decode, voices["references"]))
    params["voices"] = VoiceOptions(**voices)
    for name in ("languages", "keywords", "speakers"):
        params[name] = None if params[name] is None else tuple(params[name])
    subtitles = SubtitleOptions(**found.pop("subtitles"))
    return JobRequest(params=TranscribeParams(model=model, **params), subtitles=subtitles, **found)


def segment_text(segment: Segment) -> str:
    """Write a segment."""
    found = asdict(segment)
    for score in found["scores"]:
        score["data"] = base64.b64encode(score["data"]).decode()
    return _dumps(found)


def segment_of(text: str) -> Segment:
    """Read a segment."""
    found = json.loads(text)
    found["tokens"] = tuple(found["tokens"])
    found["words"] = tuple(Word(**each) for each in found["words"])
    found["scores"] = tuple(
        TokenScore(**{**each, "data": base64.b64decode(each["data"])}) for each in found["scores"]
    )
    return Segment(**found)


def decoded_text(decoded: Decoded) -> str:
    """Write what the model said of a window."""
    found = {each.name: getattr(decoded, each.name) for each in fields(decoded)}
    times = [(time.token, time.start_s, time.end_s, time.probability) for time in decoded.token_times]
    return _dumps({**found, "token_times": times, "language_scores": dict(decoded.language_scores)})


def decoded_of(text: str) -> Decoded:
    """Read what the model said of a window."""
    found = json.loads(text)
    found["tokens"] = tuple(found["tokens"])
    found["token_times"] = tuple(TokenTime(*each) for each in found["token_times"])
    return Decoded(**found)


def outcome_text(transcript: Transcript) -> str:
    """Write what a transcript has beside its segments."""
    found = {each.name: getattr(transcript, each.name) for each in fields(transcript)}
    del found["segments"]
    return _dumps(found)


def transcript_of(text: str, segments: tuple[Segment, ...]) -> Transcript:
    """Read a transcript."""
    return Transcript(segments=segments, **json.loads(text))


def error_text(error: WhisperServerError) -> str:
    """Write an error as clients see it."""
    return _dumps({"message": error.message, "type": error.type, "param": error.param, "code": error.code})


def error_of(text: str) -> Mapping[str, str | None]:
    """Read an error."""
    found: dict[str, str | None] = json.loads(text)
    return found


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    return value.item()
