"""What a reader takes for one character stays whole, and takes two columns at most."""

from __future__ import annotations

from time import thread_time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.odd_texts import FAMILY, HOSTILE, ODD, SCOTLAND
from whisper_server.services.rendering.graphemes import clusters, width

# --- what belongs together ---------------------------------------------------------------------------

WHOLE = {
    "flag": ("🇩🇪", 2),
    "skin tone": ("👍🏽", 2),
    "family": (FAMILY, 2),
    "heart on fire": ("❤️‍🔥", 2),
    "keycap": ("1️⃣", 2),
    "heart": ("❤️", 2),
    "flag of tags": (SCOTLAND, 2),
    "two marks": ("e\u0301\u0323", 1),
    "kana with a mark": ("カ\u3099", 2),
    "jamo": ("\u1112\u1161\u11ab", 2),
    "Devanagari conjunct": ("क्षि", 2),
    "Bengali conjunct": ("ক্ষ", 2),
    "Khmer subscript": ("ស្ត", 2),
    "Myanmar stack": ("\u1000\u1039\u1000", 2),
    "Thai vowel and tone": ("ที่", 1),
    "Thai sara am": ("กำ", 2),
}


@pytest.mark.parametrize(("text", "columns"), WHOLE.values(), ids=WHOLE)
def test_one_cluster(text: str, columns: int) -> None:
    assert clusters(text) == [text]
    assert width(text) == columns
    assert clusters(f"a{text}本") == ["a", text, "本"]


def test_flags_are_counted_from_the_left() -> None:
    assert clusters("🇩🇪🇫🇷") == ["🇩🇪", "🇫🇷"]
    assert clusters("🇩🇪🇫") == ["🇩🇪", "🇫"]
    assert width("🇩🇪🇫🇷🇯🇵") == 6


def test_what_is_not_emoji_stays_narrow() -> None:
    assert width("1a#\u00a9") == 4
    assert width("\ufe0f") == 0
    assert width("a\ufe0f") == 1


@settings(deadline=None)
@given(st.text(st.sampled_from(ODD), max_size=30) | st.text(max_size=30))
def test_clusters_are_those_of_unicode(text: str) -> None:
    found = clusters(text)
    assert found == regex.findall(r"\X", text)
    assert width(text) == sum(map(width, found))
    assert all(width(cluster) <= 2 for cluster in found)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_take_time_in_proportion(text: str) -> None:
    long = text * (100_000 // len(text))
    since = thread_time()
    assert "".join(clusters(long)) == long
    width(long)
    assert thread_time() - since < 2.0  # 0.1 s; with the square of the length it is 20
