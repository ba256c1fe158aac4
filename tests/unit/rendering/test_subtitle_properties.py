"""Cues for any input: legal times, legal lines, all of the text in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.subtitle_files import Shown, check_times, parse_srt, parse_vtt, segment, talk
from whisper_server.core.types import Transcript, Word
from whisper_server.services.rendering.formats import render
from whisper_server.services.rendering.graphemes import width
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options, cues

SECONDS = st.floats(0, 60, allow_nan=False)
WORDS = ["the", "committee", "met,", "again.", "x" * 60, "日本語、テスト。", "-->", "&<b>", "สวัสดี", "♪"]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=120),
    st.lists(st.sampled_from(WORDS), max_size=60).map(lambda words: " " + " ".join(words)),
)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    """Segments in any order, with true, wrong or no words, in a file that may be shorter than they say."""
    segments = []
    for _ in range(draw(st.integers(0, 5))):
        text = draw(TEXTS)
        words = tuple(Word(w, draw(SECONDS), draw(SECONDS), 0.5) for w in text.split()[:30])
        chosen = words if draw(st.booleans()) else ()
        segments.append(segment(draw(SECONDS), draw(SECONDS), text, chosen))
    return talk(*segments, duration_s=draw(st.floats(2, 60)))


OPTIONS = st.builds(check_options, st.integers(10, 60), st.integers(1, 4), st.floats(1, 20, allow_nan=False))


def same_text(transcript: Transcript, shown: list[Shown]) -> bool:
    """Compare without white space and without what is left of an arrow."""

    def bare(text: str) -> str:
        return "".join(text.split()).replace("-", "").replace(">", "")

    joined = "".join(line for cue in shown for line in cue.lines)
    return bare(joined) == bare("".join(s.text for s in transcript.segments))


@settings(deadline=None, max_examples=150)
@given(transcripts(), OPTIONS)
def test_whatever_the_input_cues_are_legal_and_complete(
    transcript: Transcript, options: SubtitleOptions
) -> None:
    found = parse_srt(render(transcript, "srt", options)[0])
    assert same_text(transcript, found)
    enough_s = max(transcript.duration_s, len(found) / 1000)
    check_times(found, enough_s, round(options.max_cue_s * 1000))
    for cue in found:
        assert len(cue.lines) <= options.max_lines
        assert all(width(line) <= options.max_line_chars for line in cue.lines)
    in_vtt = parse_vtt(render(transcript, "vtt", options)[0])
    assert [(c.start_ms, c.end_ms) for c in in_vtt] == [(c.start_ms, c.end_ms) for c in found]


@settings(deadline=None)
@given(st.lists(st.from_regex("[a-z,.]{1,30}", fullmatch=True), min_size=1, max_size=80), OPTIONS)
def test_words_are_never_cut_where_they_fit_on_a_line(words: list[str], options: SubtitleOptions) -> None:
    found = cues(talk(segment(0, 30, " " + " ".join(words))), options)
    shown = [word for cue in found for line in cue.lines for word in line.split()]
    if all(len(word) <= options.max_line_chars for word in words):
        assert shown == words
    assert "".join(shown) == "".join(words)
