"""One realtime session as a state machine: events and sound in, events and work out; no I/O, no clock.

Theory of operation. Sound is counted from the session's first sample, and every time in it is such a
position. What has been appended and belongs to no turn yet is the buffer. A buffer is in one of three
states:

    WAITING     turns are detected, and nobody speaks
    SPEAKING    turns are detected, and one has begun: its item has a name
    COLLECTING  turns are not detected: all of the buffer belongs to the next commit

`TRANSITIONS` has all that can happen to it, and what is done then. A turn that is committed becomes work
(`next_turn`): it is decoded in the usual way, one turn after the other, and `completed` or `failed` says
what came of it. While a turn is open it is decoded now and then as far as it goes (`next_partial`): `drafts`
says when, and which words of that are sent as deltas. Where its silence begins all of it is decoded, as it
will be if nobody goes on.

Whoever drives the session calls one method at a time, sends what `take_events` returns after each, and does
the work. Nothing is lost where it is slow: a buffer that reaches `MAX_TURN_S` is committed as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import InvalidRequest, WhisperServerError
from whisper_server.core.types import SAMPLE_RATE, VOICE_SAMPLES, TranscribeParams
from whisper_server.services.realtime import server_events
from whisper_server.services.realtime.agreement import Phrase
from whisper_server.services.realtime.configuration import SemanticVad, ServerVad, SessionConfig
from whisper_server.services.realtime.drafts import Drafts, OpenTurn
from whisper_server.services.realtime.sound_buffer import SoundBuffer
from whisper_server.services.realtime.transitions import TRANSITIONS, Cause, State
from whisper_server.services.realtime.turn_detection import Change, TurnDetector, frames_of
from whisper_server.services.realtime.work import Partial, Turn

if TYPE_CHECKING:
    from whisper_server.core.types import Samples

MAX_TURN_S = 900.0  # of sound in one turn: 58 MB
MIN_COMMIT_S = 0.1  # of the hosted API
# Without a turn the latest sound is kept: a client may commit what the detection did not take for speech.
KEPT_S = 30.0
MIN_VOICE = 0.1  # a probability under which certainly nobody speaks
# Behind the last voice of a detected turn so much is decoded: more than the end of a word, and so little that
# the decode can begin before the silence has ended the turn.
TAIL_FRAMES = frames_of(200)

SEMANTIC_SILENCE_MS = {"high": 2_000, "medium": 4_000, "auto": 4_000, "low": 8_000}  # after half a sentence
SENTENCE_SILENCE_MS = 300  # after a whole one
SEMANTIC_PREFIX_MS = 300
SEMANTIC_THRESHOLD = 0.5


class Session:
    """The state of one session."""

    def __init__(
        self,
        config: SessionConfig,
        params_of: Callable[[SessionConfig], TranscribeParams],
        *,
        new_id: Callable[[str], str],
        expires_at: int,
    ) -> None:
        """Take `params_of`, which checks settings and raises what is wrong with them, and `new_id(prefix)`.

        Raises:
            WhisperServerError: the settings are wrong.
        """
        self._params_of = params_of
        self._new_id = new_id
        self._id, self._expires_at = new_id("sess"), expires_at
        self.config = config
        self._params = params_of(config)
        self._sound = SoundBuffer()
        self._start = 0  # of the buffer: where the last turn ended
        self._frame = 0  # of voice detection, the next one's number
        self._voiced_until = 0  # position up to which somebody may have spoken
        self._idle_since = 0
        self._events: list[server_events.Event] = []
        self._turns: deque[Turn] = deque()
        self._decoding_bytes = 0  # of the turn that is being decoded
        self._item_id = new_id("item")  # of the open turn
        self._last_item_id: str | None = None
        self._drafts = Drafts()
        self._state, self._detector = State.COLLECTING, TurnDetector(1.0, 1)
        self._send(server_events.session("session.created", self._id, expires_at, config.wire()))
        if config.turn_detection is not None:
            self._happen(Cause.DETECT)

    # Events in.

    def receive(self, event: Mapping[str, Any]) -> None:
        """Take an event of the client's; sound comes by `hear`."""
        kind, event_id = event.get("type"), event.get("event_id")
        try:
            if kind == "session.update":
                self._update(self.config.updated(event.get("session")), "session.updated")
            elif kind == "transcription_session.update":
                self._update(self.config.updated_flat(event.get("session")), "transcription_session.updated")
            elif kind == "input_audio_buffer.commit":
                self._check_commit()
                self._happen(Cause.COMMIT)
            elif kind == "input_audio_buffer.clear":
                self._happen(Cause.CLEAR)
            else:
                raise InvalidRequest(
                    f"Invalid value: {str(kind)[:80]!r}. This server transcribes: it takes 'session.update',"
                    " 'input_audio_buffer.append', '.commit' and '.clear'.",
                    param="type",
                    code="invalid_value",
                )
        except WhisperServerError as problem:
            self.reject(problem, event_id if isinstance(event_id, str) else None)

    def reject(self, problem: WhisperServerError, event_id: str | None = None) -> None:
        """Answer an event that could not even be read."""
        self._send(server_events.error(problem, event_id))

    def hear(self, samples: Samples, probabilities: Iterable[float]) -> None:
        """Take samples, float32 [n] at 16 kHz, and the probability of a voice in each frame they complete."""
        self._sound.append(samples)
        for probability in probabilities:
            self._frame += 1
            if probability >= MIN_VOICE:
                self._voiced_until = self._frame * VOICE_SAMPLES
            if self._state is not State.COLLECTING:
                self._detected(self._detector.step(probability))
        self._bound()

    def heard_partial(self, partial: Partial, phrases: Sequence[Phrase] | None, took_s: float) -> None:
        """Take a decode of the open turn: phrases, ends in seconds of the turn; None where it failed."""
        if text := self._drafts.heard(partial.stretch, phrases, took_s):
            self._send(server_events.delta(self._item_id, text))
        self._weigh_sentence()

    def completed(
        self, turn: Turn, transcript: str, languages: list[str] | None, logprobs: list[dict[str, Any]] | None
    ) -> None:
        """Take the text of a turn."""
        self._decoding_bytes = 0
        if rest := turn.agreement.finish(transcript):
            self._send(server_events.delta(turn.item_id, rest))
        self._send(server_events.completed(turn.item_id, transcript, turn.duration_s, languages, logprobs))

    def failed(self, turn: Turn, problem: WhisperServerError) -> None:
        """Note that a turn has no text."""
        self._decoding_bytes = 0
        self._send(server_events.failed(turn.item_id, problem))

    def drain(self) -> None:
        """Commit what is open, where somebody spoke, because the session is about to end."""
        if self._voiced_until > self._turn_start and self._length >= MIN_COMMIT_S * SAMPLE_RATE:
            self._happen(Cause.COMMIT)

    # Events and work out.

    def take_events(self) -> list[server_events.Event]:
        """Return the events to be sent since the last call, in order."""
        events, self._events = self._events, []
        return events

    def next_turn(self) -> Turn | None:
        """Return the next turn to be decoded, once each; one at a time."""
        if not self._turns:
            return None
        turn = self._turns.popleft()
        self._decoding_bytes = turn.samples.nbytes
        return turn

    def next_partial(self) -> Partial | None:
        """Return what of the open turn is to be decoded now, in place of what is; None: go on with that."""
        if not self.is_open or self._turns:
            return None
        turn = OpenTurn(
            self._item_id,
            self._turn_start,
            self._sound.end,
            self._voiced_until,
            self._quiet_end,
            isinstance(self.config.turn_detection, SemanticVad),
            self._wants_sentence,
        )
        if (stretch := self._drafts.next(turn)) is None:
            return None
        return Partial(stretch, self._sound.slice(stretch.start, stretch.end), self._params)

    @property
    def is_open(self) -> bool:
        """Whether somebody speaks, as far as is known: there is a turn that may be decoded before its end."""
        if self._state is State.COLLECTING:
            return self._voiced_until > self._turn_start
        return self._state is State.SPEAKING

    @property
    def n_bytes(self) -> int:
        """Bytes of sound that are held."""
        return self._sound.n_bytes + self._decoding_bytes + sum(turn.samples.nbytes for turn in self._turns)

    # What the transitions do.

    def _happen(self, cause: Cause) -> None:
        self._state, actions = TRANSITIONS[self._state, cause]
        for action in actions:
            getattr(self, action)()

    def _announce_start(self) -> None:
        self._start = max(self._start, self._detector.onset * VOICE_SAMPLES - self._prefix)
        self._send(server_events.speech_started(self._item_id, _ms(self._start)))

    def _announce_stop(self) -> None:
        self._send(server_events.speech_stopped(self._item_id, _ms(self._turn_end)))

    def _announce_timeout(self) -> None:
        event = server_events.timeout_triggered(self._item_id, _ms(self._idle_since), _ms(self._turn_end))
        self._send(event)

    def _commit(self) -> None:
        end, is_quiet = self._turn_end, self.config.turn_detection and self._voiced_until > self._turn_start
        decoded_end = min(end, self._voiced_end) if is_quiet else end
        samples = self._sound.slice(self._turn_start, decoded_end)
        duration_s = (end - self._turn_start) / SAMPLE_RATE
        self._turns.append(Turn(self._item_id, samples, duration_s, self._params, self._drafts.agreement))
        for event in server_events.committed(self._item_id, self._last_item_id):
            self._send(event)
        self._last_item_id = self._item_id
        self._begin_buffer(end)

    def _clear(self) -> None:
        self._begin_buffer(self._sound.end)
        self._send(server_events.cleared())

    def _detect(self) -> None:
        """Look for the next voice, with the numbers that are set now."""
        self._detector = TurnDetector(self._threshold, self._silence_frames, self._frame, self._frame)

    def _redetect(self) -> None:
        """Go on with the open turn, with the numbers that are set now."""
        self._detector.threshold, self._detector.silence_frames = self._threshold, self._silence_frames

    # The buffer.

    @property
    def _turn_start(self) -> int:
        return max(self._start, self._sound.first)

    @property
    def _turn_end(self) -> int:
        """Where the turn would end now: a detected one has whole frames."""
        if self._state is State.COLLECTING:
            return self._sound.end
        return min(self._sound.end, self._frame * VOICE_SAMPLES)

    @property
    def _voiced_end(self) -> int:
        """Where the sound of a detected turn ends if nobody goes on."""
        return self._voiced_until + TAIL_FRAMES * VOICE_SAMPLES

    @property
    def _quiet_end(self) -> int | None:
        is_quiet = self._state is State.SPEAKING and self._voiced_end <= self._turn_end
        return self._voiced_end if is_quiet else None

    @property
    def _length(self) -> int:
        return self._sound.end - self._turn_start

    def _begin_buffer(self, position: int) -> None:
        self._start = self._idle_since = position
        self._sound.drop_before(position)
        self._item_id = self._new_id("item")
        self._drafts.begin(position)

    def _bound(self) -> None:
        """Forget what no turn needs, and end a turn that is too long."""
        if not self.is_open:
            kept = self._sound.end - round(KEPT_S * SAMPLE_RATE)
            self._sound.drop_before(max(self._start, kept))
        elif self._length >= MAX_TURN_S * SAMPLE_RATE:
            self._happen(Cause.FULL)

    def _check_commit(self) -> None:
        if self._length < MIN_COMMIT_S * SAMPLE_RATE:
            raise InvalidRequest(
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, but"
                f" buffer only has {self._length / SAMPLE_RATE * 1000:.2f}ms of audio.",
                code="input_audio_buffer_commit_empty",
            )

    # Turn detection.

    def _detected(self, change: Change | None) -> None:
        if change is Change.STARTED:
            self._happen(Cause.SPEECH_STARTED)
        elif change is Change.STOPPED:
            self._happen(Cause.SPEECH_STOPPED)
        elif self._state is State.SPEAKING:
            self._weigh_sentence()
        elif self._is_idle:
            self._happen(Cause.IDLE)

    @property
    def _is_idle(self) -> bool:
        detection = self.config.turn_detection
        if not (isinstance(detection, ServerVad) and detection.idle_timeout_ms):
            return False
        return self._frame * VOICE_SAMPLES - self._idle_since >= _samples(detection.idle_timeout_ms)

    @property
    def _wants_sentence(self) -> bool:
        """Whether the end of the turn hangs on words that have not been decoded yet."""
        return (
            isinstance(self.config.turn_detection, SemanticVad)
            and self._detector.silent_frames >= frames_of(SENTENCE_SILENCE_MS)
            and not self._is_decoded
        )

    @property
    def _is_decoded(self) -> bool:
        """Whether the words before the silence have been decoded."""
        silence = self._detector.silence_start
        return silence is not None and self._drafts.decoded_until >= silence * VOICE_SAMPLES

    def _weigh_sentence(self) -> None:
        """Let a turn that ends with a sentence end sooner."""
        if not isinstance(self.config.turn_detection, SemanticVad) or self._state is not State.SPEAKING:
            return
        is_sentence = self._is_decoded and self._drafts.ends_sentence
        self._detector.silence_frames = (
            frames_of(SENTENCE_SILENCE_MS) if is_sentence else self._silence_frames
        )
        if self._detector.check() is Change.STOPPED:
            self._happen(Cause.SPEECH_STOPPED)

    @property
    def _threshold(self) -> float:
        detection = self.config.turn_detection
        return detection.threshold if isinstance(detection, ServerVad) else SEMANTIC_THRESHOLD

    @property
    def _silence_frames(self) -> int:
        detection = self.config.turn_detection
        if isinstance(detection, ServerVad):
            return frames_of(detection.silence_duration_ms)
        eagerness = detection.eagerness if detection else "auto"
        return frames_of(SEMANTIC_SILENCE_MS.get(eagerness, SEMANTIC_SILENCE_MS["auto"]))

    @property
    def _prefix(self) -> int:
        detection = self.config.turn_detection
        return _samples(
            detection.prefix_padding_ms if isinstance(detection, ServerVad) else SEMANTIC_PREFIX_MS
        )

    # Settings.

    def _update(self, config: SessionConfig, kind: str) -> None:
        params = self._params_of(config)
        before, self.config, self._params = self.config, config, params
        self._drafts.pace.delay = config.transcription.delay
        if config.turn_detection != before.turn_detection:
            self._happen(Cause.COLLECT if config.turn_detection is None else Cause.DETECT)
        self._send(server_events.session(kind, self._id, self._expires_at, config.wire()))

    def _send(self, event: server_events.Event) -> None:
        self._events.append({"event_id": self._new_id("event"), **event})


def _ms(position: int) -> int:
    return position * 1000 // SAMPLE_RATE


def _samples(duration_ms: float) -> int:
    return round(duration_ms * SAMPLE_RATE / 1000)
