"""Cues: what they may hold and where they are cut, by example, and to the byte."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.support.subtitle_files import check_times, parse_srt, parse_vtt, segment, talk
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.types import Segment, Word
from whisper_server.services.rendering.formats import render
from whisper_server.services.rendering.graphemes import width
from whisper_server.services.rendering.line_breaks import pieces
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options, cues

GOLDEN = Path(__file__).parents[2] / "golden" / "subtitles"
DEFAULTS = SubtitleOptions()


def spoken(*words: tuple[str, float, float]) -> Segment:
    found = tuple(Word(text, start_s, end_s, 0.9) for text, start_s, end_s in words)
    text = "".join(word.text if word.text == "." else f" {word.text}" for word in found)
    return segment(found[0].start_s, found[-1].end_s, text, found)


def lines(*segments: Segment, options: SubtitleOptions = DEFAULTS) -> list[tuple[str, ...]]:
    return [cue.lines for cue in cues(talk(*segments), options)]


def times(*segments: Segment, duration_s: float = 100.0) -> list[tuple[int, int]]:
    found = cues(talk(*segments, duration_s=duration_s), DEFAULTS)
    return [(cue.start_ms, cue.end_ms) for cue in found]


# --- to the byte ------------------------------------------------------------------------------------

TALKS = {
    "english": talk(
        segment(0.0, 9.5, " When the committee met again on Tuesday, nobody expected that the chairman would"
                " resign; he had, after all, been re-elected only a month before."),
        segment(9.5, 15.0, ' Dr. Miller, who took the notes, wrote down every word. "Gentlemen," he said,'),
        segment(15.0, 21.0, " I am tired & <done>. R&D --> sales ---> me."),
        spoken(("Then", 22.0, 22.3), ("he", 22.3, 22.4), ("left", 22.4, 22.9), (".", 22.9, 24.0),
               ("Nobody", 24.1, 24.6), ("spoke", 24.6, 25.1)),
    ),
    "german": talk(
        segment(0.0, 12.0, " Die Rindfleischetikettierungsüberwachungsaufgabenübertragungsgesetz-Novelle"
                " wurde am 3. Januar von der Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbau"
                "unterbeamtengesellschaft abgelehnt, z. B. in Wien."),
    ),
    "japanese": talk(
        segment(0.0, 14.0, "今日は天気がいいので、公園でコンピューターの本を読みながらコーヒーを飲みました。"
                "それから友達と一緒に映画を見に行って、夜遅くまで「とても楽しかった」と話をしました。"),
        segment(14.0, 16.0, "iPhone 15を使います。"),
    ),
    "chinese": talk(
        segment(0.0, 9.0, "今天天气很好，我们去公园散步吧。我用iPhone打电话给在北京大学读书的朋友，"  # noqa: RUF001
                "1949年10月1日，他说：“我们明天见。”"),  # noqa: RUF001
        segment(9.0, 16.0, "中华人民共和国国务院总理昨天在人民大会堂会见了来访的外国代表团"),
        segment(16.0, 21.0, "我用iPhone打電話給在臺灣大學讀書的朋友，今天天氣很好👍🏽🇹🇼"),  # noqa: RUF001
    ),
    "thai": talk(
        segment(0.0, 9.0, "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะ สวัสดีครับผมชื่อสมชายผมทำงานที่กรุงเทพมหานคร"),
        segment(9.0, 14.0, "เมื่อวันที่15มีนาคม2566ผมใช้iPhoneโทรหาเพื่อนเก่งๆที่ทำงานอยู่ต่างประเทศ"),
    ),
    "one-word": talk(
        spoken(("One", 0.0, 0.4)), spoken(("two", 0.5, 0.9)), spoken(("three.", 1.0, 1.4)),
        spoken(("Four", 3.0, 3.2)), spoken(("five", 3.7, 3.9)), spoken(("six", 9.9, 9.95)),
        duration_s=10.0,
    ),
    "silence": talk(duration_s=4.0),
    "no-words": talk(
        segment(0.0, 30.0, " Where no word has a time of its own, the segment is cut at its clauses, and"
                " each cue gets its share of the time. Nothing of it is shown for longer than seven"
                " seconds. That is what people are able to read without haste, and without waiting."),
        duration_s=30.0,
    ),
    "overlapping": talk(
        segment(0.0, 5.0, " First of all."), segment(4.0, 8.0, " This one starts too early."),
        segment(2.0, 3.0, " This one goes back."), segment(9.0, 9.0, " No time at all."),
        segment(9.5, 12.0, " Past the end."), segment(9.6, 9.9, " Both of them."), duration_s=10.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TALKS)
@pytest.mark.parametrize("response_format", ["srt", "vtt"])
def test_golden(name: str, response_format: str) -> None:
    body, _ = render(TALKS[name], response_format)
    assert body.encode() == (GOLDEN / f"{name}.{response_format}").read_bytes()
    parse = parse_srt if response_format == "srt" else parse_vtt
    check_times(parse(body), TALKS[name].duration_s)


# --- by example -------------------------------------------------------------------------------------


def test_a_cue_is_no_more_than_one_line_where_the_text_fits() -> None:
    assert lines(segment(0, 5, " " + "x" * 20 + " " + "y" * 21)) == [("x" * 20 + " " + "y" * 21,)]


def test_lines_break_at_punctuation_rather_than_in_the_middle() -> None:
    assert lines(segment(0, 5, " Nobody expected it, but the chairman had resigned")) == [
        ("Nobody expected it,", "but the chairman had resigned")
    ]


def test_the_lower_line_is_rather_the_longer() -> None:
    [(upper, lower)] = lines(segment(0, 5, " " + "word " * 11))
    assert len(upper) < len(lower)


def test_no_line_ends_on_an_article() -> None:
    [(upper, _)] = lines(segment(0, 5, " Somebody opened up the envelope that had been lying there"))
    assert upper.split()[-1] not in {"the", "up"}


def test_a_sentence_that_fits_is_not_cut() -> None:
    assert len(lines(segment(0, 6.5, " Hello. How are you today? Come in, and sit down."))) == 1


def test_cues_break_at_the_end_of_sentences_but_not_at_abbreviations() -> None:
    text = " It was late when we met Dr. Miller at the station in Paris. She told us nothing about the trip."
    assert [" ".join(cue) for cue in lines(segment(0, 7, text))] == [
        "It was late when we met Dr. Miller at the station in Paris.",
        "She told us nothing about the trip.",
    ]


def test_a_pause_ends_a_cue_where_words_have_times() -> None:
    parts = spoken(("one", 0.0, 1.0), ("two", 1.1, 2.0), ("three", 2.7, 4.0))
    assert lines(parts) == [("one two",), ("three",)]
    assert times(parts) == [(0, 2000), (2700, 4000)]


def test_the_pause_that_the_aligner_gives_to_punctuation_is_seen() -> None:
    words = tuple(Word(*word, 0.9) for word in (("Yes", 0, 1), (".", 1, 3), ("No", 3, 4)))
    assert times(segment(0, 4, " Yes. No", words)) == [(0, 1000), (3000, 4000)]


def test_words_that_do_not_spell_the_text_are_not_trusted() -> None:
    words = (Word("other", 1.0, 1.5, 0.9),)
    assert times(segment(0, 4, " Yes", words)) == [(0, 4000)]


def test_words_may_be_cut_in_any_way() -> None:
    words = tuple(Word(*word, 0.9) for word in (("I'", 1, 2), ("m", 2, 3), ("here!", 3, 4)))
    assert times(segment(0, 9, " I'm here!", words)) == [(1000, 4000)]


def test_short_neighbours_join_only_across_a_small_gap() -> None:
    assert lines(spoken(("Yes.", 0, 0.5)), spoken(("I", 0.7, 1), ("do.", 1, 2))) == [("Yes. I do.",)]
    assert lines(spoken(("Yes.", 0, 0.5)), spoken(("I", 0.9, 1), ("do.", 1, 2))) == [("Yes.",), ("I do.",)]
    long = segment(0.5, 7.4, " And this one is long enough to stand alone.")
    assert len(lines(spoken(("Yes.", 0, 0.5)), long)) == 2  # together over 7 s


def test_a_brief_cue_stays_into_the_silence_but_never_into_the_next_or_past_the_end() -> None:
    brief = spoken(("Go", 1.0, 1.1))
    assert times(brief) == [(1000, 1833)]
    assert times(brief, duration_s=1.5) == [(1000, 1500)]
    assert times(brief, spoken(("Now", 1.5, 3.0))) == [(1000, 1500), (1500, 3000)]


def test_a_word_of_ten_seconds_is_shown_for_seven() -> None:
    assert times(spoken(("Om", 0.0, 10.0))) == [(0, 7000)]


def test_full_width_characters_count_twice_and_marks_not_at_all() -> None:
    assert width("日本ab") == 6
    assert width("e\N{COMBINING ACUTE ACCENT}") == 1
    assert max(width(line) for cue in lines(segment(0, 9, "本" * 90)) for line in cue) <= 42


def test_japanese_lines_start_with_no_mark_and_end_on_no_bracket() -> None:
    text = "「とても、楽しかった。」っと言って、ケーキを食べた。" * 9
    for piece in pieces(text, 42):
        assert piece.text[0] not in "、。」ーっ"
        assert piece.text[-1] != "「"
    for line in [line for cue in lines(segment(0, 30, text)) for line in cue]:
        assert line[0] not in "、。」ーっ"


def test_korean_breaks_at_spaces_only() -> None:
    text = "안녕하세요 오늘은 날씨가 좋습니다 그래서 공원에 갔습니다"
    assert [piece.text for piece in pieces(text, 42)] == text.split()


def test_a_word_longer_than_a_line_breaks_at_its_hyphens_first() -> None:
    narrow = SubtitleOptions(max_line_chars=10)
    assert lines(segment(0, 5, " Haus-Boot-Fahrt"), options=narrow) == [("Haus-", "Boot-Fahrt")]
    assert lines(segment(0, 5, " " + "x" * 14), options=narrow) == [("x" * 7, "x" * 7)]


def test_options_change_the_limits() -> None:
    text = segment(0, 6, " When the committee met again on Tuesday, nobody was there to open the door.")
    assert lines(text, options=SubtitleOptions(max_line_chars=80)) == [(text.text.strip(),)]
    assert all(len(cue) == 1 for cue in lines(text, options=SubtitleOptions(max_lines=1)))
    assert len(lines(text, options=SubtitleOptions(max_cue_s=2.0))) >= 3


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ((9, 2, 7.0), "max_line_chars"),
        ((201, 2, 7.0), "max_line_chars"),
        ((42, 0, 7.0), "max_lines"),
        ((42, 5, 7.0), "max_lines"),
        ((42, 2, 0.9), "max_cue_seconds"),
        ((42, 2, math.nan), "max_cue_seconds"),
        ((42, 2, math.inf), "max_cue_seconds"),
    ],
)
def test_options_out_of_bounds_are_named(values: tuple[int, int, float], param: str) -> None:
    with pytest.raises(InvalidRequest, match=param) as caught:
        check_options(*values)
    assert caught.value.param == param
