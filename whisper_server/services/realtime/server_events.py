"""The events that a session sends, as OpenAI's realtime API has them; nothing else knows their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from whisper_server.core.errors import WhisperServerError

Event = dict[str, Any]

_TRANSCRIPTION = "conversation.item.input_audio_transcription"


def session(kind: str, session_id: str, expires_at: int, settings: Mapping[str, Any]) -> Event:
    """Return `session.created`, `session.updated` or the older `transcription_session.updated`."""
    shown = {
        "type": "transcription",
        "object": "realtime.transcription_session",
        "id": session_id,
        "expires_at": expires_at,
        **settings,
    }
    return {"type": kind, "session": shown}


def speech_started(item_id: str, audio_start_ms: int) -> Event:
    """Say where a turn begins, in milliseconds of the session's sound."""
    return {"type": "input_audio_buffer.speech_started", "audio_start_ms": audio_start_ms, "item_id": item_id}


def speech_stopped(item_id: str, audio_end_ms: int) -> Event:
    """Say where a turn ends, the silence after it included."""
    return {"type": "input_audio_buffer.speech_stopped", "audio_end_ms": audio_end_ms, "item_id": item_id}


def timeout_triggered(item_id: str, audio_start_ms: int, audio_end_ms: int) -> Event:
    """Say that nobody has spoken for `idle_timeout_ms`."""
    return {
        "type": "input_audio_buffer.timeout_triggered",
        "audio_start_ms": audio_start_ms,
        "audio_end_ms": audio_end_ms,
        "item_id": item_id,
    }


def committed(item_id: str, previous_item_id: str | None) -> list[Event]:
    """Say that a turn is complete, in the three events that clients wait for."""
    item = {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    return [
        {"type": "input_audio_buffer.committed", "previous_item_id": previous_item_id, "item_id": item_id},
        {"type": "conversation.item.added", "previous_item_id": previous_item_id, "item": item},
        {"type": "conversation.item.done", "previous_item_id": previous_item_id, "item": item},
    ]


def cleared() -> Event:
    """Say that the buffer is empty."""
    return {"type": "input_audio_buffer.cleared"}


def delta(item_id: str, text: str, logprobs: list[dict[str, Any]] | None = None) -> Event:
    """Return what is to be added to the text of an item."""
    event = {"type": f"{_TRANSCRIPTION}.delta", "item_id": item_id, "content_index": 0, "delta": text}
    return event if logprobs is None else {**event, "logprobs": logprobs}


def completed(
    item_id: str,
    transcript: str,
    audio_s: float,
    languages: list[str] | None = None,
    logprobs: list[dict[str, Any]] | None = None,
) -> Event:
    """Return the final text of an item."""
    event: Event = {
        "type": f"{_TRANSCRIPTION}.completed",
        "item_id": item_id,
        "content_index": 0,
        "transcript": transcript,
        "usage": {"type": "duration", "seconds": round(audio_s, 3)},
    }
    if languages is not None:
        event["languages"] = [{"code": code} for code in languages]
    if logprobs is not None:
        event["logprobs"] = logprobs
    return event


def failed(item_id: str, error: WhisperServerError) -> Event:
    """Say that an item has no text, and why; the session goes on."""
    return {
        "type": f"{_TRANSCRIPTION}.failed",
        "item_id": item_id,
        "content_index": 0,
        "error": {"type": error.type, "code": error.code, "message": error.message, "param": error.param},
    }


def error(problem: WhisperServerError, event_id: str | None) -> Event:
    """Say what was wrong with an event of the client's; most clients end the session."""
    return {
        "type": "error",
        "error": {
            "type": problem.type,
            "code": problem.code,
            "message": problem.message,
            "param": problem.param,
            "event_id": event_id,
        },
    }
