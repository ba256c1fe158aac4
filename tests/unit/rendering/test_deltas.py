"""Deltas of a text: joined they are the text, whatever its white space."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.types import Segment, Transcript
from whisper_server.services.rendering.deltas import Deltas


def text_of(texts: list[str]) -> str:
    segments = tuple(Segment(0, 1, text, (), 0, 0, 0, 0, "en", 0) for text in texts)
    return Transcript("transcribe", "en", 1.0, segments).text


def test_each_segment_adds_what_it_says() -> None:
    deltas = Deltas()
    assert [deltas.add(text) for text in (" Hi  there.", " ", "\u3000Yes \n", " no ")] == [
        "Hi  there.",
        "",
        " \u3000Yes",
        " \n no",
    ]


@given(st.lists(st.text(alphabet=" \n\u3000\u00a0ab", max_size=5), max_size=6))
def test_joined_deltas_are_the_text(texts: list[str]) -> None:
    deltas = Deltas()
    assert "".join([deltas.add(text) for text in texts]) == text_of(texts)
