"""Which language windows are in: sure ones say it, the others follow; several are heard at the start."""

from __future__ import annotations

import pytest

from whisper_server.services.decoding.language import (
    LOOK_AHEAD,
    SURE_PROBABILITY,
    SURE_VOICE_S,
    FileLanguage,
    Heard,
    among,
    pooled,
)

SURE_EN = Heard({"en": 0.98, "de": 0.01}, 20.0)
SURE_DE = Heard({"en": 0.01, "de": 0.98}, 20.0)
MAYBE_DE = Heard({"en": 0.3, "de": 0.5, "fr": 0.2}, 20.0)
SHORT_FR = Heard({"fr": 0.99, "en": 0.01}, 0.8)
NOISE = Heard({"en": 0.4, "ko": 0.2, "de": 0.1}, 0.0)


def told(course: FileLanguage, *windows: Heard) -> list[str]:
    """Return the languages of a file's windows."""
    found: list[str] = []
    held: list[Heard] = []
    for heard in windows:
        held.append(heard)
        if course.hear(heard):
            found += [course.of(each) for each in held]
            held = []
    course.decide()
    return found + [course.of(each) for each in held]


def test_a_window_is_sure_with_enough_voice_and_a_high_probability() -> None:
    least = Heard({"de": SURE_PROBABILITY, "en": 0.0}, SURE_VOICE_S)
    assert least.is_sure
    assert not Heard(least.scores, SURE_VOICE_S - 0.01).is_sure
    assert not Heard({"de": SURE_PROBABILITY - 0.01, "en": 0.0}, SURE_VOICE_S).is_sure


def test_what_is_expected_gives_way_to_a_sure_window_only() -> None:
    assert SURE_DE.choice("en") == "de"
    assert MAYBE_DE.choice("en") == "en"
    assert SHORT_FR.choice("en") == "en"
    assert MAYBE_DE.choice(None) == "de"


def test_a_file_of_two_languages_switches_where_a_window_is_sure() -> None:
    assert told(FileLanguage(), SURE_EN, SURE_EN, SURE_DE, SURE_DE) == ["en", "en", "de", "de"]
    assert told(FileLanguage(), SURE_DE, SURE_EN, SURE_DE) == ["de", "en", "de"]


def test_windows_that_are_not_sure_follow_the_one_before() -> None:
    course = FileLanguage()
    assert told(course, SURE_EN, MAYBE_DE, SHORT_FR, NOISE, SURE_DE, SHORT_FR, NOISE) == [
        *("en", "en", "en", "en"),
        *("de", "de", "de"),
    ]
    assert (course.main, course.probability) == ("en", pytest.approx(0.98))


def test_a_sure_first_window_is_not_held() -> None:
    course = FileLanguage()
    assert course.main is None
    assert course.hear(SURE_DE)
    assert course.main == "de"


def test_unsure_windows_wait_for_a_sure_one_and_follow_it() -> None:
    course = FileLanguage()
    assert not course.hear(NOISE)
    assert not course.hear(SHORT_FR)
    assert course.hear(SURE_DE)
    assert [course.of(each) for each in (NOISE, SHORT_FR, SURE_DE)] == ["de", "de", "de"]


def test_no_more_than_a_few_windows_are_held() -> None:
    course = FileLanguage()
    assert [course.hear(MAYBE_DE) for _ in range(LOOK_AHEAD)] == [False] * (LOOK_AHEAD - 1) + [True]
    assert course.main == "de"


def test_several_windows_are_heard_by_the_seconds_of_their_voice() -> None:
    long_de, short_en = Heard({"de": 0.6, "en": 0.4}, 10.0), Heard({"en": 0.9, "de": 0.1}, 2.0)
    assert pooled([long_de, short_en, NOISE]).best == "de"
    assert pooled([short_en, NOISE]).best == "en"
    together = pooled([long_de, short_en])
    assert together.voice_s == 12.0
    assert together.scores["de"] == pytest.approx((0.6 * 10 + 0.1 * 2) / 12)
    assert pooled([NOISE]).scores == pytest.approx(NOISE.scores)


def test_the_end_of_the_file_decides_what_is_held() -> None:
    assert told(FileLanguage(), MAYBE_DE, NOISE) == ["de", "de"]
    assert told(FileLanguage()) == []


def test_what_has_no_voice_decides_nothing_for_the_file() -> None:
    course = FileLanguage(switches=False)
    assert told(course, *[NOISE] * LOOK_AHEAD) == ["en"] * LOOK_AHEAD
    assert course.main is None
    assert told(course, SURE_DE, SURE_EN) == ["de", "de"]
    assert course.main == "de"


def test_without_switching_the_first_windows_decide_for_the_file() -> None:
    assert told(FileLanguage(switches=False), SURE_EN, SURE_DE, SURE_DE) == ["en", "en", "en"]
    assert told(FileLanguage(switches=False), MAYBE_DE, SHORT_FR, SURE_EN) == ["en", "en", "en"]


def test_a_given_language_is_known_and_certain() -> None:
    course = FileLanguage("fr")
    assert (course.main, course.probability, course.switches, course.is_detected) == ("fr", 1.0, False, False)


def test_candidates_share_the_probability() -> None:
    scores = {"nn": 0.6, "no": 0.3, "sv": 0.1}
    assert among(scores, ["no", "sv", "xx"]) == pytest.approx({"no": 0.75, "sv": 0.25})
    assert among({"no": 0.0}, ["no"]) == {"no": 0.0}
    assert among(scores, ["xx"]) == {}
