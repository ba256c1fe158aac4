"""A text that is to be timed is a client's: all that is done with it takes time that grows with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.support.growth import check_linear
from tests.support.peak_memory import bounded_growth
from whisper_server.core.types import Placed, Window
from whisper_server.core.validators import check_text
from whisper_server.services.decoding import segments, text_match
from whisper_server.services.decoding.given_text import GivenText, Heard
from whisper_server.services.engines.tokenizer import Tokenizer

NANO = Path(__file__).parents[3] / "models" / "nano-whisper"
WINDOW = Window(np.zeros((80, 3000), np.float32), 30.0, (Placed(0.0, 0.0, 30.0),))
SHAPES = [
    "a", "ab ", ".", '"a', "a. ", "a\n", "- ", "(", "\u6211", "\u0e01\u0e31", "\u0301", "a\u200d",
    "\U0001f600", "<|a", "\u0130", ".\u201d", "\u3002", "?)", "\N{LINE SEPARATOR}a",
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Tokenizer.from_file(NANO / "tokenizer.json", is_multilingual=True)
    found.encode("a")  # loads what splits text
    return found


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_a_text_is_split_in_time_that_grows_with_it(shape: str, tokenizer: Tokenizer) -> None:
    def work(size: int) -> Callable[[], object]:
        text = shape * (size // len(shape))
        return lambda: GivenText.of(text, tokenizer)

    check_linear(work, 1 << 11, 1 << 13)


@pytest.mark.long
@pytest.mark.parametrize("shape", SHAPES)
def test_the_words_of_a_text_take_time_that_grows_with_it(shape: str) -> None:
    def work(size: int) -> Callable[[], object]:
        text = shape * (size // len(shape)) + "a"
        return lambda: text_match.units_of(check_text(text))

    check_linear(work, 1 << 14, 1 << 17)


@pytest.mark.long
@pytest.mark.parametrize("shape", ["a", "ab ", "\u6211", "a\n"])
def test_a_text_takes_a_bounded_multiple_of_its_size(shape: str, tokenizer: Tokenizer) -> None:
    text = shape * ((1 << 16) // len(shape))
    with bounded_growth(50):
        GivenText.of(text, tokenizer)


@pytest.mark.long
def test_a_text_is_dealt_out_in_time_that_grows_with_it(tokenizer: Tokenizer) -> None:
    phrases = (segments.Phrase(0.0, 1.0, ()),) * 20

    def work(n_windows: int) -> Callable[[], object]:
        spoken = [tuple(f"word{window}x{place}" for place in range(20)) for window in range(n_windows)]
        heard = [Heard(WINDOW, "en", phrases, tuple((unit,) for unit in units)) for units in spoken]
        given = GivenText.of(" ".join(unit for units in spoken for unit in units), tokenizer)

        def deal_out() -> None:
            given._at = 0
            for here, then in zip(heard, [*heard[1:], None], strict=True):
                assert given.take(here, then)
            assert given.share_heard == 1.0
            assert given.segments("en")

        return deal_out

    check_linear(work, 1 << 5, 1 << 7)
