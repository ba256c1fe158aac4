"""Checks of what a request says."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.core.errors import InvalidRequest, PayloadTooLarge
from whisper_server.core.validators import (
    MAX_KEYWORD_CHARS,
    MAX_KEYWORDS,
    check_granularities,
    check_include,
    check_keywords,
    check_languages,
    check_seed,
    check_temperature,
    decode_base64,
    find_audio,
)

MIB = 1 << 20


def outcome_of(check: Callable[[], object]) -> object:
    """Return what the check returned, or the error it raised; anything else fails the test."""
    try:
        return check()
    except InvalidRequest as error:
        return error


@given(
    data=st.binary(min_size=1, max_size=600),
    url_safe=st.booleans(),
    padded=st.booleans(),
    line=st.sampled_from([0, 1, 3, 64, 76]),
    newline=st.sampled_from(["\n", "\r\n", " ", "\t"]),
    prefix=st.sampled_from(
        ["", "data:audio/wav;base64,", "data:;base64,", " DATA:audio/mp4;codecs=opus;BASE64,"]
    ),
)
def test_decode_base64_takes_every_spelling(
    data: bytes, url_safe: bool, padded: bool, line: int, newline: str, prefix: str
) -> None:
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    text = text if padded else text.rstrip("=")
    if line:
        text = newline.join(text[i : i + line] for i in range(0, len(text), line)) + newline
    assert decode_base64(prefix + text, MIB) == data


def test_decode_base64_of_more_than_one_chunk() -> None:
    data = bytes(range(256)) * 12_345
    assert decode_base64(base64.b64encode(data).decode(), 4 * MIB) == data


@given(st.text(max_size=80))
def test_decode_base64_of_anything_is_bytes_or_an_invalid_request(text: str) -> None:
    outcome = outcome_of(lambda: decode_base64(text, MIB))
    if isinstance(outcome, InvalidRequest):
        assert outcome.param == "audio"
        assert "base64" in outcome.message
    else:
        assert isinstance(outcome, bytes)


@pytest.mark.parametrize(
    "text",
    ["!!!!", "QUJD!", "A", "QUJDR", "QU=JD", "QUI=QUI=", "QUJ\u00e9", "hello, world", "data:audio/wav,QUJD"],
)
def test_decode_base64_refuses_what_is_none(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid base64") as caught:
        decode_base64(text, MIB)
    assert caught.value.param == "audio"


def test_decode_base64_padding_between_two_chunks_is_no_padding() -> None:
    chunk = "A" * (MIB - 1) + "="
    with pytest.raises(InvalidRequest):
        decode_base64(chunk + chunk, 4 * MIB)


def test_decode_base64_limits_the_size_exactly_and_before_decoding() -> None:
    assert len(decode_base64(base64.b64encode(bytes(100)).decode(), 100)) == 100
    with pytest.raises(PayloadTooLarge) as caught:
        # Not base64 at its end: the size was looked at first.
        decode_base64(base64.b64encode(bytes(99)).decode() + "AA!!", 100)
    assert caught.value.message.startswith("Maximum content size limit (100) exceeded (102 bytes read)")
    assert "MAX_AUDIO_FILE_SIZE_MB" in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        {"audio": "AUDIO", "model": "whisper-1"},
        {"audio": {"data": "AUDIO"}},
        {"audio_options": {"data": "AUDIO", "format": "m4a"}},
        {"audio": None, "audio_options": {"data": "AUDIO"}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AUDIO"}}]}
            ]
        },
        {"messages": [{"content": [{"type": "input_audio", "inputAudio": {"data": "AUDIO"}}]}]},
        {"messages": [{"content": [{"type": "audio", "data": "AUDIO"}]}]},
        {"messages": [{"content": [{"type": "audio", "audio": {"data": "AUDIO"}}]}]},
        {"messages": [{"content": {"data": "AUDIO"}}]},
        {"messages": [{"content": {"type": "input_audio", "input_audio": {"data": "AUDIO"}}}]},
        {
            "messages": [
                {"content": "hello"},
                {"content": [{"type": "text"}, {"type": "audio", "data": "AUDIO"}]},
            ]
        },
    ],
)
def test_find_audio_wherever_clients_put_it(body: object) -> None:
    assert find_audio(body) == "AUDIO"


def test_find_audio_takes_the_first_place_and_the_newest_message() -> None:
    part = {"type": "audio", "data": "old"}
    newer = {"type": "audio", "data": "new"}
    assert find_audio({"messages": [{"content": [part]}, {"content": [part, newer]}]}) == "new"
    assert find_audio({"messages": [{"content": [newer]}, {"content": "thanks"}]}) == "new"
    assert (
        find_audio({"audio": "here", "audio_options": {"data": "x"}, "messages": [{"content": [part]}]})
        == "here"
    )


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        7,
        "text",
        {"audio": ""},
        {"audio": 5},
        {"messages": [{"content": [{"type": "text", "data": "x"}]}]},
    ],
)
def test_find_audio_shows_the_shape_where_there_is_none(body: object) -> None:
    with pytest.raises(InvalidRequest, match='"audio": "<base64') as caught:
        find_audio(body)
    assert caught.value.param == "audio"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["audio", "audio_options", "messages", "content", "type", "data", "input_audio"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_find_audio_survives_any_json(body: object) -> None:
    outcome = outcome_of(lambda: find_audio(body))
    if isinstance(outcome, InvalidRequest):
        assert outcome.param == "audio"
    else:
        assert isinstance(outcome, str)


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_temperature_within_its_bounds(value: float) -> None:
    assert check_temperature(value) == value


@pytest.mark.parametrize("value", [-0.1, 1.1, 2.0, math.nan, math.inf, -math.inf])
def test_temperature_outside_its_bounds(value: float) -> None:
    with pytest.raises(InvalidRequest, match="0 to 1") as caught:
        check_temperature(value)
    assert caught.value.param == "temperature"


def test_granularities() -> None:
    assert check_granularities([], "json") == ()
    assert check_granularities(["segment"], "json") == ("segment",)
    assert check_granularities(["word", "segment", "word"], "verbose_json") == ("word", "segment")
    for values, response_format in [(["word"], "json"), (["letter"], "verbose_json")]:
        with pytest.raises(InvalidRequest) as caught:
            check_granularities(values, response_format)
        assert caught.value.param == "timestamp_granularities"


def test_languages_to_choose_from() -> None:
    assert check_languages([], "de") == ()
    assert check_languages(["English", "de", "en-US"], None) == ("en", "de")
    assert check_languages(["de", "en"], "en") == ("de", "en")
    assert check_languages(["de", "auto"], "fr") == ()
    for languages, language, param in [(["klingon"], None, "languages"), (["de", "en"], "fr", "language")]:
        with pytest.raises(InvalidRequest) as caught:
            check_languages(languages, language)
        assert caught.value.param == param


def test_keywords() -> None:
    assert check_keywords([" Ada\n Lovelace ", "", "Ada Lovelace", "  "]) == ("Ada Lovelace",)
    assert len(check_keywords(str(i) for i in range(MAX_KEYWORDS))) == MAX_KEYWORDS
    for keywords in ([str(i) for i in range(MAX_KEYWORDS + 1)], ["x" * (MAX_KEYWORD_CHARS + 1)]):
        with pytest.raises(InvalidRequest) as caught:
            check_keywords(keywords)
        assert caught.value.param == "keywords"


def test_include() -> None:
    assert check_include([], "srt") == ()
    assert check_include(["logprobs", "logprobs"], "json") == ("logprobs",)
    for values, response_format in (
        (["logits"], "json"),
        (["logprobs"], "verbose_json"),
        (["x" * 999], "json"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            check_include(values, response_format)
        assert caught.value.param == "include"
        assert len(caught.value.message) < 200


@pytest.mark.parametrize("value", [0, -1, 2**63 - 1, -(2**63)])
def test_a_seed_of_64_bits(value: int) -> None:
    assert check_seed(value) == value


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**40])
def test_a_seed_that_is_too_large(value: int) -> None:
    with pytest.raises(InvalidRequest, match="seed") as caught:
        check_seed(value)
    assert caught.value.param == "seed"
