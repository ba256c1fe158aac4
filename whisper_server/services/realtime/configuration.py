"""What a session is set to, and how `session.update` changes it.

A field that is left out of an update keeps its value, null turns it off. What OpenAI's API has and this
server has no use for (noise reduction, delays beyond their meaning here, unknown fields) is taken and shown
again: an error event ends most clients' sessions. Must not know of turns or of sound.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from whisper_server.core.errors import InvalidRequest
from whisper_server.services.audio.pcm_converter import MAX_RATE_HZ, MIN_RATE_HZ, Encoding, PcmFormat

# Clients of these find the turns themselves and commit each one: a detection of ours would cut it twice.
COMMITTING_MODELS = frozenset({"gpt-realtime-whisper", "gpt-live-transcribe"})

MAX_PREFIX_MS = 10_000
MAX_SILENCE_MS = 60_000
G711_RATE_HZ = 8_000
_ENCODINGS: dict[str, Encoding] = {"audio/pcm": "pcm16", "audio/pcmu": "mulaw", "audio/pcma": "alaw"}


class _Part(BaseModel):
    """A part of an update; what it does not know it leaves out."""

    model_config = ConfigDict(extra="ignore", frozen=True)


P = TypeVar("P", bound=_Part)


class Format(_Part):
    """How the samples of `input_audio_buffer.append` are written."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Annotated[int, Field(ge=MIN_RATE_HZ, le=MAX_RATE_HZ)] | None = None

    def pcm(self) -> PcmFormat:
        """Return it as the audio room knows it."""
        default_hz = 24_000 if self.type == "audio/pcm" else G711_RATE_HZ
        return PcmFormat(_ENCODINGS[self.type], self.rate or default_hz)


class ServerVad(_Part):
    """A turn ends when nobody has spoken for so long."""

    type: Literal["server_vad"] = "server_vad"
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    prefix_padding_ms: int = Field(default=300, ge=0, le=MAX_PREFIX_MS)
    silence_duration_ms: int = Field(default=500, ge=0, le=MAX_SILENCE_MS)
    idle_timeout_ms: Annotated[int, Field(ge=1_000, le=600_000)] | None = None


class SemanticVad(_Part):
    """A turn ends soon after words that end a sentence, later after others."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: str = "auto"


def _kind_of(detection: object) -> str | None:
    """Return the type that a detection says it has, None for what is none."""
    if isinstance(detection, dict):
        kind = detection.get("type", "server_vad")
        return kind if isinstance(kind, str) else None
    return getattr(detection, "type", None)


TurnDetection = Annotated[
    Annotated[ServerVad, Tag("server_vad")] | Annotated[SemanticVad, Tag("semantic_vad")],
    Discriminator(
        _kind_of,
        custom_error_type="turn_detection",
        custom_error_message="Use null, or an object of type server_vad or semantic_vad",
    ),
]


class NoiseReduction(_Part):
    """What a client's microphone is; nothing here depends on it."""

    type: str | None = None


class TranscriptionPart(_Part):
    """What is said of the text."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    keywords: list[str] | None = None
    prompt: str | None = None
    delay: str | None = None


class _Input(_Part):
    format: Format | None = None
    transcription: TranscriptionPart | None = None
    turn_detection: TurnDetection | None = None
    noise_reduction: NoiseReduction | None = None


class _Audio(_Part):
    input: _Input = Field(default_factory=_Input)


class _Session(_Part):
    audio: _Audio = Field(default_factory=_Audio)
    include: list[str] | None = None


class _FlatSession(_Part):
    """The session of `transcription_session.update`, before the API was declared stable."""

    input_audio_format: Literal["pcm16", "g711_ulaw", "g711_alaw"] = "pcm16"
    input_audio_transcription: TranscriptionPart | None = None
    input_audio_noise_reduction: NoiseReduction | None = None
    turn_detection: TurnDetection | None = None
    include: list[str] | None = None


_FLAT_FORMATS: dict[str, Literal["audio/pcm", "audio/pcmu", "audio/pcma"]] = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """The effective settings of one session."""

    format: Format = field(default_factory=lambda: Format(rate=24_000))
    transcription: TranscriptionPart = field(default_factory=TranscriptionPart)
    given_detection: ServerVad | SemanticVad | None = None
    is_detection_given: bool = False
    noise_reduction: NoiseReduction | None = None
    include: tuple[str, ...] = ()

    @property
    def turn_detection(self) -> ServerVad | SemanticVad | None:
        """How turns are found; None: the client commits them."""
        if self.is_detection_given:
            return self.given_detection
        return None if self.transcription.model in COMMITTING_MODELS else ServerVad()

    @property
    def wants_logprobs(self) -> bool:
        """Whether the client asked for the probability of every token."""
        return "item.input_audio_transcription.logprobs" in self.include

    def updated(self, session: object) -> SessionConfig:
        """Return what `session.update` with this session makes of it.

        Raises:
            InvalidRequest: a value has the wrong type or is out of its range; it is named.
        """
        given = _validated(_Session, session)
        update = given.audio.input
        changed = self._with_detection(update)
        if "format" in update.model_fields_set:
            changed = replace(changed, format=_with_rate(update.format or Format()))
        if "transcription" in update.model_fields_set:
            changed = replace(changed, transcription=_merged(self.transcription, update.transcription))
        if "noise_reduction" in update.model_fields_set:
            changed = replace(changed, noise_reduction=update.noise_reduction)
        if "include" in given.model_fields_set:
            changed = replace(changed, include=tuple(given.include or ()))
        return changed

    def updated_flat(self, session: object) -> SessionConfig:
        """Return what the older `transcription_session.update` makes of it; raises as `updated`."""
        given = _validated(_FlatSession, session)
        changed = self._with_detection(given)
        if "input_audio_format" in given.model_fields_set:
            changed = replace(
                changed, format=_with_rate(Format(type=_FLAT_FORMATS[given.input_audio_format]))
            )
        if "input_audio_transcription" in given.model_fields_set:
            merged = _merged(self.transcription, given.input_audio_transcription)
            changed = replace(changed, transcription=merged)
        if "input_audio_noise_reduction" in given.model_fields_set:
            changed = replace(changed, noise_reduction=given.input_audio_noise_reduction)
        if "include" in given.model_fields_set:
            changed = replace(changed, include=tuple(given.include or ()))
        return changed

    def wire(self) -> dict[str, Any]:
        """Return `audio` and `include` as `session.created` and `session.updated` show them."""
        detection = self.turn_detection
        shown = {
            "format": self.format.model_dump(exclude_none=True),
            "transcription": self.transcription.model_dump(exclude_none=True) or None,
            "noise_reduction": self.noise_reduction and self.noise_reduction.model_dump(exclude_none=True),
            "turn_detection": detection and detection.model_dump(exclude_none=True),
        }
        return {"audio": {"input": shown}, "include": list(self.include) or None}

    def _with_detection(self, given: _Input | _FlatSession) -> SessionConfig:
        if "turn_detection" not in given.model_fields_set:
            return self
        return replace(self, given_detection=given.turn_detection, is_detection_given=True)


def _with_rate(given: Format) -> Format:
    """Return a format that says its rate."""
    return Format(type=given.type, rate=given.pcm().rate_hz)


def _merged(current: TranscriptionPart, given: TranscriptionPart | None) -> TranscriptionPart:
    """Return the current values with those that were given; null turns all of them off, but the model."""
    if given is None:
        return TranscriptionPart(model=current.model)
    return current.model_copy(update=given.model_dump(include=given.model_fields_set))


def _validated(kind: type[P], session: object) -> P:
    try:
        return kind.model_validate(session)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # The tags of the two detections are no field of the client's.
        where = [str(part) for part in first["loc"] if part not in {"server_vad", "semantic_vad"}]
        param = ".".join(["session", *where])
        raise InvalidRequest(f"Invalid value for '{param}': {first['msg']}.", param=param) from error
