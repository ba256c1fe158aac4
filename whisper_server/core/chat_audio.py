"""The audio in the messages of a chat, and the text beside it.

Reads what OpenAI's chat API has (`input_audio` parts) and the spellings of older clients. Everything else is
skipped: a conversation may hold anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_AUDIO_TYPES = ("input_audio", "audio")
_AUDIO_KEYS = ("input_audio", "inputAudio", "audio")
_TEXT_TYPES = ("text", "input_text")


@dataclass(frozen=True, slots=True)
class Spoken:
    """The audio of a message, and the text that came with it."""

    data: str  # base64, as it came
    text: str  # of the same message's text parts


def newest_spoken(messages: object) -> Spoken | None:
    """Return the last message's audio, of its last part: a client asks about the newest turn.

    Messages without audio are skipped. None where no message has audio.
    """
    for message in reversed(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, Mapping) else None
        for candidate in _audio_of(content):
            if data := data_of(candidate):
                return Spoken(data, _text_of(content))
    return None


def data_of(value: object) -> str:
    """Return a text, or the `data` of an object; empty where there is neither."""
    if isinstance(value, Mapping):
        value = value.get("data")
    return value if isinstance(value, str) and value.strip() else ""


def _audio_of(content: object) -> Iterator[object]:
    """Yield what may hold audio, the last part first."""
    if isinstance(content, Mapping):
        yield from _audio_of_part(content)
    elif isinstance(content, list):
        for part in reversed(content):
            if isinstance(part, Mapping) and part.get("type") in _AUDIO_TYPES:
                yield from _audio_of_part(part)


def _audio_of_part(part: Mapping[str, Any]) -> Iterator[object]:
    yield from (part.get(key) for key in _AUDIO_KEYS)
    yield part


def _text_of(content: object) -> str:
    texts = [
        part["text"].strip()
        for part in (content if isinstance(content, list) else ())
        if isinstance(part, Mapping) and part.get("type") in _TEXT_TYPES and isinstance(part.get("text"), str)
    ]
    return " ".join(text for text in texts if text)
