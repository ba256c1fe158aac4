"""A text that a client gives becomes lines and cues in time that grows with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.growth import check_linear
from tests.support.odd_texts import HOSTILE
from tests.support.subtitle_files import segment, talk
from whisper_server.core.types import Word
from whisper_server.services.rendering.formats import render_alignment
from whisper_server.services.rendering.line_breaks import pieces
from whisper_server.services.rendering.subtitles import SubtitleOptions

SHAPES = [
    "a", "a ", ".", "a. ", "-", "a-", "- ", "(", '"', "\u6211", "\u3042", "\u30a2", "\u0e01", "\u0e01\u0e31",
    "\u1000\u103a", "\u0301", "a\u200d", "\u200b", "\U0001f1e6", "\U0001f469\u200d", "\u0915\u094d",
    "\u1100", "\r\n", "\u0e01\u6211", "->", "&", "<", "5", "\u30fc", "\u3001", "\uff0c", "\u300c", "\u0e31",
    "\u0e40", "\u0e81", "\u1000", *HOSTILE.values(),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_lines_are_broken_in_time_that_grows_with_the_text(shape: str) -> None:
    def work(size: int) -> Callable[[], object]:
        text = shape * (size // len(shape))
        return lambda: pieces(text, 42, "ja")

    check_linear(work, 1 << 11, 1 << 12)


@pytest.mark.long
@pytest.mark.parametrize("shape", ["a", "a ", "-", "\u6211", "\u0301", "\u200b", "\U0001f469\u200d", "->"])
@pytest.mark.parametrize("timed", [True, False])
def test_cues_are_made_in_time_that_grows_with_the_text(shape: str, timed: bool) -> None:
    options = SubtitleOptions()  # a longer cue may end in more places: as many times as much for every text

    def work(size: int) -> Callable[[], object]:
        text = shape * (size // len(shape))
        words = tuple(Word(word, 0.0, 10.0 * timed, 0.5) for word in text.split())
        whole = talk(segment(0.0, 10.0 * timed, text, words), *[segment(1.0, 1.0, shape)] * (size // 16))
        return lambda: [render_alignment(whole, name, options) for name in ("json", "srt")]

    check_linear(work, 1 << 10, 1 << 12)
