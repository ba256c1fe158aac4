"""Codes, names and locales become codes; what is none of them is refused."""

import pytest

from whisper_server.core.errors import UnknownLanguage
from whisper_server.core.languages import NAMES, language_name, parse_language


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("en", "en"), ("EN", "en"), (" English ", "en"), ("en-US", "en"), ("pt_BR", "pt"), ("haw", "haw"),
        ("castilian", "es"), ("Haitian Creole", "ht"), ("yue", "yue"),
        ("auto", None), ("AUTO", None), ("", None), (None, None), ("  ", None),
    ],
)  # fmt: skip
def test_parse(given: str | None, code: str | None) -> None:
    assert parse_language(given) == code


@pytest.mark.parametrize("given", ["xx", "englisch", "e", "-", "en" * 5000, "<|en|>", "\x00"])
def test_unknown_language_names_the_parameter(given: str) -> None:
    with pytest.raises(UnknownLanguage, match="ISO-639-1") as caught:
        parse_language(given)
    assert caught.value.param == "language"
    assert caught.value.status == 400
    assert len(caught.value.message) < 300


def test_every_code_and_every_name_parses_to_itself() -> None:
    assert len(NAMES) == 100
    for code, name in NAMES.items():
        assert parse_language(code) == code
        assert parse_language(name) == code
        assert language_name(code) == name


@pytest.mark.parametrize(
    ("given", "code"),
    [
        *(
            ("eng", "en"),
            ("deu", "de"),
            ("ger", "de"),
            ("fre", "fr"),
            ("fra", "fr"),
            ("JPN", "ja"),
            ("cmn", "zh"),
        ),
        *(
            ("chi", "zh"),
            ("zho", "zh"),
            ("nob", "no"),
            ("por-BR", "pt"),
            ("cmn", "zh"),
            ("fil", "tl"),
            ("haw", "haw"),
        ),
    ],
)
def test_codes_of_three_letters(given: str, code: str) -> None:
    assert parse_language(given) == code


@pytest.mark.parametrize("given", ["und", "mul", "multi", "null", "none", "undefined", "detect", " AUTO "])
def test_words_for_a_language_that_is_not_known(given: str) -> None:
    assert parse_language(given) is None


@pytest.mark.parametrize(("given", "meant"), [("jp", "'ja', japanese"), ("cn", "'zh'"), ("jp-JP", "'ja'")])
def test_the_code_of_a_country_is_told_the_language(given: str, meant: str) -> None:
    with pytest.raises(UnknownLanguage, match=f"Did you mean {meant}"):
        parse_language(given)
