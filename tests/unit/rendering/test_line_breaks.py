"""Where lines may end: phrases of Japanese, Chinese and Thai stay whole, and clusters of any script."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from budoux import parser as budoux_parser
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.support.odd_texts import ODD
from whisper_server.services.rendering import phrases
from whisper_server.services.rendering.graphemes import clusters, width
from whisper_server.services.rendering.line_breaks import INSIDE_PHRASE, INSIDE_WORD, TORN_PHRASE, pieces


def cut(text: str, max_width: int = 42, language: str = "") -> str:
    return "|".join(piece.text for piece in pieces(text, max_width, language))


# --- by example --------------------------------------------------------------------------------------

PHRASES = {
    "ja": "今日は|天気が|いいので、|公園で|コンピューターの|本を|読みながら|コーヒーを|飲みました。",
    "ja-mixed": "iPhone15を|使って|YouTubeの|動画を|見る。",
    "ja-quote": "夜|遅くまで|「とても|楽しかった」|と|話を|しました。",
    "ja-loan-words": "コミュニケーションセンターに|おける|マネージメント",
    "ja-numbers": "2026年11月29日に|12,345円を|払った",
    "ja-full-width": "１０：|３０に|来てください。",  # noqa: RUF001
    "zh-hans": "今天|天气|很|好，|我们|去|公园|散步吧。",  # noqa: RUF001
    "zh-hans-mixed": "我|用|iPhone|打|电话|给|在|北京|大学|读书的|朋友，",  # noqa: RUF001
    "zh-hant": "今天|天氣|很|好，|我們|去|公園|散步吧。",  # noqa: RUF001
    "th": "วัน|นี้|อากาศ|ดี|มาก|เรา|ไป|เดิน|เล่น|ที่|สวน|สาธารณะ|กัน|เถอะ",
    "th-numbers": "วัน|ที่|15|มี|นาคม|2566",
    "th-and-ja": "วัน|นี้|อากาศ|ดี|今日は|天気が|いい",
    "lo": "ສະ|ບາ|ຍ|ດີ",
    "my": "မြန်|မာ|နိုင်|ငံ",
    "km": "ភា|សា|ខ្មែ|រ",
    "ko": "안녕하세요|오늘은|날씨가",
}


@pytest.mark.parametrize("name", PHRASES)
def test_lines_end_with_phrases(name: str) -> None:
    wanted = PHRASES[name]
    joint = " " if name == "ko" else ""
    found = pieces(wanted.replace("|", joint), 42)
    assert "|".join(piece.text for piece in found) == wanted
    assert all(piece.strain <= INSIDE_PHRASE for piece in found)


def test_a_phrase_is_torn_only_where_it_is_longer_than_a_line() -> None:
    assert cut("コンピューターの本", 16) == "コンピューターの|本"
    torn = pieces("飲みました。", 10)
    assert cut("飲みました。", 10) == "飲|み|ま|し|た。"
    assert [piece.strain for piece in torn[:-1]] == [TORN_PHRASE] * 4


def test_the_characters_choose_the_model_and_the_language_where_they_do_not_tell() -> None:
    assert phrases.east_asian_model("今日は", "") == "ja"
    assert phrases.east_asian_model("今日は", "zh") == "ja"
    assert phrases.east_asian_model("東京都庁", "ja") == "ja"
    assert phrases.east_asian_model("我们的・ー", "") == "zh-hans"
    assert phrases.east_asian_model("我們的", "zh") == "zh-hant"
    assert phrases.east_asian_model("我们的", "yue") == "zh-hans"
    assert phrases.east_asian_model("我的", "zh") == "zh-hans"
    assert phrases.east_asian_model("我的", "yue") == "zh-hant"


def test_hyphens_keep_their_marks() -> None:
    assert cut("aaaa-\u0301bbbbbb", 10) == "aaaa-\u0301|bbbbbb"


# --- for any text ------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.text(st.sampled_from(ODD + "今日は天気が好我们วันนี้อากาศ15AB「」。"), max_size=80),
    st.lists(st.sampled_from([*"".join(PHRASES.values()), "🇩🇪", "👍🏽"]), max_size=80).map("".join),
)


@settings(deadline=None, max_examples=300)
@given(TEXTS, st.integers(2, 50), st.sampled_from(["", "ja", "zh", "yue", "th"]))
def test_pieces_are_the_text_cut_between_clusters_to_fit(text: str, max_width: int, language: str) -> None:
    found = pieces(text, max_width, language)
    words = text.split()
    assert "".join(piece.text for piece in found) == "".join(words)
    assert sum(piece.has_space for piece in found) in {len(words), len(words) - 1}
    expected = {0}
    position = 0
    for word in words:
        for cluster in clusters(word):
            position += len(cluster)
            expected.add(position)
    position = 0
    for piece in found:
        position += len(piece.text)
        assert position in expected
        assert piece.width == width(piece.text) <= max_width
        assert 0.0 <= piece.strain <= INSIDE_WORD


@settings(deadline=None)
@given(st.text(st.sampled_from("今日は天気がいいので、AB1วันี้アー"), max_size=60), st.sampled_from([1, 7, 20]))
def test_blocks_change_nothing(text: str, block: int) -> None:
    parser = budoux_parser.load_default_japanese_parser()
    wanted, position = set(), 0
    for phrase in parser.parse(text):
        wanted.add(position)
        position += len(phrase)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phrases, "_BLOCK", block)
        assert phrases._starts(text, "ja") == wanted - {0}


# --- loading -----------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_and_not_before_a_text_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    real = budoux_parser.load_default_japanese_parser

    def load() -> budoux_parser.Parser:
        loads.append(threading.get_ident())
        return real()

    monkeypatch.setattr(budoux_parser, "load_default_japanese_parser", load)
    monkeypatch.setattr(phrases, "_parsers", {})
    pieces("no such script, 안녕하세요 ສະບາຍ", 42)
    assert not phrases._parsers
    threads = [threading.Thread(target=pieces, args=("今日は", 42)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1
    assert set(phrases._parsers) == {"ja"}


def test_the_import_does_not_load_budoux() -> None:
    program = "import sys, whisper_server.services.rendering.formats; assert 'budoux' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
