"""The values of the pipeline: Span -> Window -> Decoded -> Segment -> Transcript.

Owns their shapes, units and clocks. File time counts from the start of the container, where the decoder puts
the first sample (of silence where the sound starts later), window time from the first sample of a window; no
field is in both. NumPy is imported for type checkers only, because the server answers /health before it needs
numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    import numpy as np
    from numpy.typing import NDArray

    Samples: TypeAlias = NDArray[np.float32]
    Mel: TypeAlias = NDArray[np.float32]

# The constants of openai/whisper's audio.py, derived from one another.
SAMPLE_RATE = 16_000  # samples per second that every model expects
HOP_SAMPLES = 160  # samples from one mel frame to the next: 10 ms
FFT_SAMPLES = 400  # samples under one mel frame: 25 ms
WINDOW_S = 30.0  # seconds that the encoder sees at once
WINDOW_SAMPLES = int(WINDOW_S * SAMPLE_RATE)  # 480,000
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES  # 3,000
FRAMES_PER_SECOND = SAMPLE_RATE // HOP_SAMPLES  # 100
SECONDS_PER_TIMESTAMP = 0.02  # one timestamp token, one encoder position
VOICE_SAMPLES = 512  # samples under one probability of voice detection
VOICE_FRAME_S = VOICE_SAMPLES / SAMPLE_RATE  # 32 ms
MIN_VOICE_S = 0.3  # seconds of voice from which there may be something to write: about one word

Task = Literal["transcribe", "translate"]
Priority = Literal["interactive", "normal", "background"]  # weights of a fair share of a busy device


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where one model comes from: a folder, or a repository; never both."""

    name: str  # canonical: names of the same model share it, so that it is loaded once
    folder: Path | None = None  # absolute
    repo: str | None = None  # "owner/name"
    revision: str | None = None  # branch, tag or commit; None: the repository's main branch


@dataclass(frozen=True, slots=True)
class VadOptions:
    """When a stretch of audio counts as a voice, and where sound is cut.

    The defaults are for files, where a lost word costs more than a pause.

    Threshold and hysteresis are Silero's; the durations differ. Its 100 ms of silence are for dialogues.
    Here a pause of 2 s splits, and 0.8 s on each side stay: models learned on
    natural pauses, and a sentence squeezed against the next one loses words (bench/experiments/pauses.py
    counts them). Less than 100 ms of speech is a click.
    """

    threshold: float = 0.5
    neg_threshold: float | None = None  # speech goes on down to this; None: threshold - 0.15
    min_speech_ms: float = 100.0
    min_silence_ms: float = 2000.0
    speech_pad_ms: float = 800.0
    keeps_sound: bool = True  # voice says only where to cut; False: what has no voice is left out

    @property
    def end_threshold(self) -> float:
        """The probability under which running speech ends."""
        return max(self.threshold - 0.15, 0.01) if self.neg_threshold is None else self.neg_threshold


@dataclass(frozen=True, slots=True)
class TrackChoice:
    """Which of several audio tracks to hear."""

    number: int | None = None  # counted from 0 over the audio tracks; None: the file decides
    language: str | None = None  # a code; tracks in this language come first where no number is given


@dataclass(frozen=True, slots=True)
class VoiceOptions:
    """What is known of the speakers of a recording who are told apart by voice."""

    references: tuple[bytes, ...] = ()  # a file each, with 2 to 10 s of the voice of the name in its place
    least: int = 1  # speakers
    most: int | None = None  # speakers; None: as many as there are

    @property
    def are_given(self) -> bool:
        """Whether something is known, which makes no sense by channel."""
        return self != VoiceOptions()


@dataclass(frozen=True, slots=True)
class TranscribeParams:
    """What a request asks for, checked."""

    model: ModelSource
    task: Task = "transcribe"
    language: str | None = None  # a code; None: detect it
    languages: tuple[str, ...] = ()  # codes to choose from where none is given; (): all
    shows_languages: bool = False  # the reply says which one was heard
    language_switching: bool | None = None  # whether windows may be of several; None: as the server is set
    prompt: str = ""  # on the first window only
    keywords: tuple[str, ...] = ()  # words to expect, on every window
    temperature: float = (
        0.0  # 0: raised where the text looks wrong (temperature fallback); above 0: used as it is
    )
    seed: int = 0  # another one gives other draws, wherever chance has a say
    word_timestamps: bool = False
    shows_segments: bool = True  # False: the reply has the words only
    logprobs: bool = False  # of every text token
    # Names of the channels, or of `references`; None: speakers are not told apart.
    speakers: tuple[str, ...] | None = None
    voices: VoiceOptions = VoiceOptions()
    audio_track: int | None = None  # counted from 0; None: the file and the language decide
    vad: VadOptions = VadOptions()
    priority: Priority = "normal"  # the request's share of a busy device


@dataclass(frozen=True, slots=True)
class Track:
    """An audio track, as the header describes it."""

    index: int  # counted from 0 over the audio tracks, as ffmpeg's `0:a:0` does
    codec: str  # libav's decoder: "aac"; "" where there is none for it
    language: str  # the tag as it is written: "eng", "de", "en-US"; "" where there is none
    is_default: bool  # of several tracks the file may call more than one so
    channels: int  # 0 where it cannot be decoded
    sample_rate_hz: int  # 0 where it cannot be decoded
    start_s: float  # after the container's start: a claim, until the first frame is decoded


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a container says of itself and of the track that is heard, before any sample is read."""

    format: str  # what the bytes are: "m4a", "mp3", "wav", "webm", ...; never from the name
    container: str  # libav's demuxer: "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str  # libav's decoder: "aac"
    sample_rate_hz: int  # of the source, not of the 16 kHz that models get
    channels: int  # of the source
    size_bytes: int | None  # None where the source has no known size
    header_duration_s: float | None  # a claim of the header: never trusted, None where absent
    tracks: tuple[Track, ...] = ()  # all audio tracks
    track: int = 0  # the one that is heard, a place in `tracks`


@dataclass(frozen=True, slots=True)
class AudioLevels:
    """How loud and how long the source is, measured before normalisation."""

    duration_s: float
    peak_dbfs: float  # -inf for digital silence
    rms_dbfs: float


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of sound with its samples; spans of one file never overlap and run forward."""

    start_s: float  # file time of samples[0]
    samples: Samples  # float32 [n], 16 kHz mono, 0 < n <= WINDOW_SAMPLES
    voice: tuple[float, ...] = ()  # probability per VOICE_SAMPLES; (): voice was not looked for

    @property
    def end_s(self) -> float:
        """File time just after the last sample."""
        return self.start_s + len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a span lies in a window: what turns window time back into file time."""

    window_start_s: float  # window time
    file_start_s: float  # file time of the same sample
    duration_s: float


@dataclass(frozen=True, slots=True)
class Window:
    """At most 30 s of one file's sound, ready for the encoder."""

    mel: Mel  # float32 [n_mels, WINDOW_FRAMES], 10 ms per frame; silence after duration_s
    duration_s: float  # real audio in the window, 0 < duration_s <= 30
    places: tuple[Placed, ...]  # one per span, in order; silence between spans is left out
    voice: tuple[float, ...] = ()  # probability of a voice per VOICE_FRAME_S; (): it was not looked for

    @property
    def start_s(self) -> float:
        """File time of the window's first sample."""
        return self.places[0].file_start_s

    @property
    def n_frames(self) -> int:
        """Mel frames that hold real audio."""
        return min(WINDOW_FRAMES, max(1, round(self.duration_s * FRAMES_PER_SECOND)))

    def file_time(self, window_time_s: float, *, is_end: bool = False) -> float:
        """Turn window time into file time, exactly.

        A time on the seam of two spans is the end of the left one for `is_end`, else the start of
        the right one. Times outside the window are clamped to it.
        """
        place = self.places[0]
        for candidate in self.places[1:]:
            starts_later = candidate.window_start_s - window_time_s
            if starts_later > 0 or (is_end and starts_later > -1e-6):
                break
            place = candidate
        offset_s = min(max(window_time_s - place.window_start_s, 0.0), place.duration_s)
        return place.file_start_s + offset_s


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What windows must have in common to be decoded in one batch; what may differ is in `WindowJob`.

    The defaults are those of "Robust Speech Recognition via Large-Scale Weak Supervision"
    (Radford et al., 2022), section 4.5 (long-form transcription).
    """

    beam_size: int = 5
    temperatures: tuple[float, ...] = (
        0.0,
        0.2,
        0.4,
        0.6,
        0.8,
        1.0,
    )  # (): nothing is decoded, see `WindowJob`
    compression_ratio_threshold: float = 2.4
    logprob_threshold: float = -1.0
    no_speech_threshold: float = 0.6
    is_draft: bool = False  # another decode of the same sound follows: one attempt, without timestamps


@dataclass(frozen=True, slots=True)
class WindowJob:
    """One window to be decoded, and its own options."""

    window: Window
    language: str | None  # a code such as "en"; None: detect it on this window
    prompt: str = ""  # text that comes before the window, "" for none
    candidates: tuple[str, ...] = ()  # codes to choose from where the language is detected; (): all
    keywords: str = ""  # words to expect, put before the prompt; "" for none
    task: Task = "transcribe"
    word_timestamps: bool = False  # tell when each token was spoken
    seed: int = 0  # of the request: with the sound, it decides every draw
    switches: bool = False  # another language than `language` is taken where this window is sure of it
    tokens: tuple[int, ...] = ()  # text and timestamps that are taken as said, where nothing is decoded


@dataclass(frozen=True, slots=True)
class TokenTime:
    """When one text token was spoken, in window time."""

    token: int
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the model said of one window."""

    tokens: tuple[int, ...]  # text and timestamp tokens, no prompt and no end token
    language: str  # code, given or detected
    language_probability: float  # 1.0 where the language was given
    temperature: float  # of the attempt that was kept
    avg_logprob: float
    compression_ratio: float  # of the text, as zlib sees it
    no_speech_prob: float
    is_silence: bool  # the no-speech rule holds: the text is not to be shown
    token_times: tuple[TokenTime, ...] = ()  # with word_timestamps: one per text token, in order
    language_scores: Mapping[str, float] = field(default_factory=dict)  # where detected: code -> probability


@dataclass(frozen=True, slots=True)
class Word:
    """One word in file time."""

    text: str  # without spaces around it
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """One text token of a segment, and its probability."""

    text: str  # a character that is spread over several tokens counts for the last of them
    data: bytes  # joined over the tokens of a segment: its text in UTF-8
    logprob: float  # given the tokens before it, without prompt and timestamps; at most 0


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase in file time, between two timestamp tokens."""

    start_s: float
    end_s: float
    text: str  # as the model wrote it: leading space kept
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    language: str  # code of what is spoken, also where the text is a translation
    seek_frames: int  # file time of the window's start, in frames of 10 ms
    words: tuple[Word, ...] = ()
    scores: tuple[TokenScore, ...] = ()  # with word times: one per text token, in order
    speaker: str = ""  # who says it, where speakers are told apart
    language_probability: float = 1.0  # by the sound of its window; 1.0 where the language was given


@dataclass(frozen=True, slots=True)
class Turn:
    """A stretch in which one speaker speaks, in file time; turns of two speakers may overlap."""

    start_s: float
    end_s: float
    speaker: str


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole file, ready to be rendered."""

    task: Task
    language: str  # code; of the request, or that of most of the speech; "" where nobody speaks
    duration_s: float  # of the file
    segments: tuple[Segment, ...] = field(default=())
    language_probability: float = 1.0  # 1.0 where the language was given
    # In json: the request named the languages to choose from, or always wants it.
    shows_languages: bool = False
    shows_segments: bool = True  # in verbose_json
    shows_words: bool = False  # in verbose_json
    shows_logprobs: bool = False  # in json

    @property
    def text(self) -> str:
        """The segments joined, without the space that the first one starts with."""
        return "".join(segment.text for segment in self.segments).strip()


def seconds_by_language(segments: Sequence[Segment]) -> dict[str, float]:
    """Return how many seconds are spoken in each language, code -> seconds, most first."""
    found: dict[str, float] = {}
    for each in segments:
        found[each.language] = found.get(each.language, 0.0) + each.end_s - each.start_s
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def main_language(segments: Sequence[Segment]) -> tuple[str, float]:
    """Return the language in which most is spoken, and its mean probability; ("", 0.0) where nothing is."""
    code = next(iter(seconds_by_language(segments)), "")
    mine = [
        (each.end_s - each.start_s, each.language_probability) for each in segments if each.language == code
    ]
    total_s = sum(seconds for seconds, _ in mine)
    if not total_s:
        return code, mine[0][1] if mine else 0.0
    return code, sum(seconds * probability for seconds, probability in mine) / total_s
