"""When an open turn is decoded before its end, and which of the words that come of it are shown; pure.

Must not know of sound or of the session's states: positions come in, what is to be decoded goes out.

Two kinds of decodes. A draft is made for words to be shown while somebody speaks, as often as the machine
can hold; it leaves out what is settled. Where a pause begins, the whole turn is decoded as it will be if it
ends there: then its text is there already. If somebody goes on, a decode was made for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from whisper_server.core.types import SAMPLE_RATE, DecodeOptions, Segment, Transcript
from whisper_server.services.realtime.agreement import Agreement, Phrase
from whisper_server.services.realtime.pace import Pace

SETTLE_S = 15.0  # a draft of more leaves out what has been shown
# A longer one takes what ended before its last seconds as it is, also in the middle of a phrase: a window of
# Whisper's, and more than the longest word. So an open turn never costs more than two windows.
LONG_S, UNSURE_S = 30.0, 3.0
# A word is shown where attention puts its end so long before the end of the sound, agreed on or not: what
# comes after it seldom changes it any more (bench/experiments/realtime.md).
HOLD_S = 0.4
# Of Latin and Chinese script, full-width forms included; Devanagari's danda; Arabic.
SENTENCE_ENDS = (".", "?", "!", "\u3002", "\uff1f", "\uff01", "\u0964", "\u061f")
# Between two words the next decode may begin at a pause, or behind one of these.
CUT_PAUSE_S = 0.3
CUTS = (*SENTENCE_ENDS, ",", ";", ":", "\u3001", "\uff0c", "\u060c")

NORMAL = DecodeOptions()


@dataclass(frozen=True, slots=True)
class OpenTurn:
    """The open turn as far as it goes; positions in the session, in samples."""

    item_id: str
    start: int
    end: int
    voiced_until: int  # behind it certainly nobody speaks
    quiet_end: int | None  # where its sound ends if nobody goes on; None: somebody may be speaking
    is_semantic: bool  # its end hangs on what its last words are
    wants_sentence: bool  # and they have not been decoded for too long

    @property
    def is_long(self) -> bool:
        """Whether all of it takes more than a window."""
        return self.end - self.start > LONG_S * SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Stretch:
    """What of an open turn is to be decoded; positions in the session, in samples."""

    item_id: str
    start: int
    end: int
    start_s: float  # in seconds of the turn
    is_whole: bool = False


class Drafts:
    """The decodes of one open turn after the other."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.agreement = Agreement()
        self.ends_sentence = False  # the words that were decoded last do
        self.decoded_until = 0  # position
        self._running: Stretch | None = None
        self._whole_end = 0

    def begin(self, position: int) -> None:
        """Forget the turn that ended there."""
        self.agreement = Agreement()
        self.decoded_until, self.ends_sentence, self._whole_end = position, False, 0
        self._running = None

    def next(self, turn: OpenTurn) -> Stretch | None:
        """Return what is to be decoded now, in place of what is; None: go on with that."""
        running = self._running
        if running and running.is_whole and running.end != turn.quiet_end:
            running = None  # somebody went on
        if turn.quiet_end is not None and self._is_whole_due(turn, running):
            self._running = Stretch(turn.item_id, turn.start, turn.quiet_end, 0.0, is_whole=True)
        elif running is None and self._is_due(turn):
            start = turn.start + round(self.agreement.settled_s * SAMPLE_RATE)
            self._running = Stretch(turn.item_id, start, turn.end, self.agreement.settled_s)
        else:
            return None
        return self._running

    def heard(self, stretch: Stretch, phrases: Sequence[Phrase] | None, took_s: float) -> str:
        """Take what came of a stretch, None where it failed; return what may be shown now."""
        if stretch is not self._running:
            return ""  # another one took its place, or the turn has ended
        self._running = None
        self.decoded_until = stretch.end  # also where it failed: the next attempt waits for more sound
        self.ends_sentence = phrases[-1].text.rstrip().endswith(SENTENCE_ENDS) if phrases else False
        if stretch.is_whole:
            self._whole_end = stretch.end
            return ""
        self.pace.took(took_s)
        if phrases is None:
            return ""
        sound_s = (stretch.end - stretch.start) / SAMPLE_RATE
        end_s = stretch.start_s + sound_s
        text = self.agreement.add(phrases, end_s - HOLD_S)
        if sound_s > SETTLE_S:
            self.agreement.settle(phrases, end_s - UNSURE_S if sound_s > LONG_S else 0.0)
        return text

    def _is_whole_due(self, turn: OpenTurn, running: Stretch | None) -> bool:
        is_made = turn.quiet_end == self._whole_end or (running is not None and running.is_whole)
        return not (is_made or turn.is_long) and (turn.is_semantic or self.pace.has_time)

    def _is_due(self, turn: OpenTurn) -> bool:
        start = turn.start + round(self.agreement.settled_s * SAMPLE_RATE)
        fresh = turn.end - max(self.decoded_until, start)
        has_news = self.decoded_until < turn.voiced_until + HOLD_S * SAMPLE_RATE
        return turn.wants_sentence or (has_news and self.pace.is_due(fresh))


def phrases_of(transcript: Transcript, start_s: float) -> list[Phrase] | None:
    """Return what was decoded from so many seconds of the turn on, word by word where words have times.

    None where it is not to be believed.
    """
    if any(map(_is_doubtful, transcript.segments)):
        return None
    found: list[Phrase] = []
    for segment in transcript.segments:
        if not segment.words:
            found.append(Phrase(segment.text, start_s + segment.end_s))
        at = 0
        for word, after in zip_longest(segment.words, segment.words[1:]):
            begin = segment.text.find(word.text, at) if after else len(segment.text)
            end = at if begin < 0 else begin + len(word.text)
            text, at = segment.text[at:end], end
            is_pause = after is None or after.start_s - word.end_s > CUT_PAUSE_S
            found.append(Phrase(text, start_s + word.end_s, is_pause or text.rstrip().endswith(CUTS)))
    return found


def _is_doubtful(segment: Segment) -> bool:
    """Tell whether a text loops or is improbable: a normal decode would be tried again."""
    return (
        segment.compression_ratio > NORMAL.compression_ratio_threshold
        or segment.avg_logprob < NORMAL.logprob_threshold
    )
