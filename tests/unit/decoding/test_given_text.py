"""Where the words of a text go that nobody heard: beside a pause, at the seam of two windows."""

from __future__ import annotations

from tests.unit.decoding.test_leftover import window
from whisper_server.core.types import Window
from whisper_server.services.decoding.given_text import GivenText, Heard
from whisper_server.services.decoding.segments import Phrase
from whisper_server.services.engines.words import TextTokens


def heard(sound: Window, *phrases: tuple[float, float, str]) -> Heard:
    return Heard(
        sound,
        "en",
        tuple(Phrase(start_s, end_s, ()) for start_s, end_s, _ in phrases),
        tuple(tuple(text.split()) for _, _, text in phrases),
    )


def given(text: str) -> GivenText:
    words = text.split()
    return GivenText(
        [text], [TextTokens(word, ()) for word in words], [0] * len(words), words[:], list(range(len(words)))
    )


def dealt(text: str, here: Heard, then: Heard | None = None) -> list[tuple[float, float, str]]:
    whole = given(text)
    parts = whole.take(here, then)
    return [
        (part.start_s, part.end_s, " ".join(whole.words[number].text for number in part.numbers))
        for part in parts
    ]


LATER = heard(window(), (0.0, 5.0, "and then everybody went home"))


def test_beyond_a_pause_an_unheard_word_goes_to_the_phrase_that_has_time_for_it() -> None:
    sound = window(20.0, (1.0, 2.0), (6.0, 9.0))
    here = heard(sound, (1.0, 2.0, "house right"), (6.0, 9.0, "flower brother"))
    assert dealt("house right mother flower brother", here) == [
        (1.0, 2.0, "house right"),
        (6.0, 9.0, "mother flower brother"),
    ]
    sound = window(20.0, (1.0, 4.0), (7.0, 8.0))
    here = heard(sound, (1.0, 4.0, "house right"), (7.0, 8.0, "flower brother"))
    assert dealt("house right mother flower brother", here) == [
        (1.0, 4.0, "house right mother"),
        (7.0, 8.0, "flower brother"),
    ]


def test_without_a_pause_or_with_a_voice_in_it_attention_tells() -> None:
    for voiced in ((1.0, 9.0), (1.0, 6.5)):
        here = heard(window(20.0, voiced), (1.0, 2.0, "house right"), (6.0, 9.0, "flower brother"))
        assert dealt("house right mother flower brother", here) == [
            (1.0, 9.0, "house right mother flower brother")
        ]


def test_at_the_end_of_a_window_unheard_words_need_as_much_voice_as_they_last() -> None:
    text = "the house is on the right chapter seven and then everybody went home"
    said = (0.0, 4.0, "the house is on the right")
    much = heard(window(20.0, (0.0, 4.0), (8.0, 11.0)), said)
    assert dealt(text, much, LATER) == [(0.0, 20.0, "the house is on the right chapter seven")]
    little = heard(window(20.0, (0.0, 4.0), (8.0, 8.5)), said)
    assert dealt(text, little, LATER) == [said]


def test_a_word_that_is_heard_twice_is_the_first_one() -> None:
    sound = window(20.0, (1.0, 2.0), (4.0, 5.0))
    here = heard(sound, (1.0, 2.0, "house right"), (4.0, 5.0, "right mother"))
    assert dealt("house right mother", here) == [(1.0, 2.0, "house right"), (4.0, 5.0, "mother")]


def test_a_misheard_word_is_the_one_that_begins_as_it_does() -> None:
    sound = window(20.0, (1.0, 4.0))
    here = heard(sound, (1.0, 4.0, "by the grave and the"))
    then = heard(window(), (0.0, 5.0, "when forty winters shall besiege thy brow"))
    text = "by the grave and thee sonnet ii when forty winters shall besiege thy brow"
    assert dealt(text, here, then) == [(1.0, 4.0, "by the grave and thee")]
