"""JSON bodies: what is refused unparsed, and that no body costs more than its size allows."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.growth import check_linear
from tests.support.peak_memory import bounded_growth
from whisper_server.api.requests.json_text import LONG_BYTES, MAX_VALUES, outline, parse_json
from whisper_server.api.requests.upload import _upload_of
from whisper_server.core.errors import InvalidRequest
from whisper_server.core.validators import MAX_TEXT_CHARS

MANY = 1 << 62
TOO_MANY = f"more than {MAX_VALUES} values"

# Each makes a body of about so many bytes.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "many commas, then a text of escaped quotes that never ends": lambda n: (
        b"," * 10_001 + b'"' + b'\\"' * (n // 2)
    ),
    "a text of escaped quotes that never ends": lambda n: b'["' + b'\\"' * (n // 2),
    "a text of escaped quotes": lambda n: b'{"audio": "' + b'\\"' * (n // 2) + b'"}',
    "a text of commas behind escapes": lambda n: b'{"audio": "' + b"\\n," * (n // 3) + b'"}',
    "a text of escaped characters": lambda n: b'{"audio": "' + b"\\u00e9" * (n // 6) + b'"}',
    "lone surrogates": lambda n: b'{"audio": "' + b"\\ud800" * (n // 6) + b'"}',
    "backslashes": lambda n: b'["' + b"\\" * n,
    "an odd number of backslashes": lambda n: b'["' + b"\\" * (n | 1) + b'"]',
    "quotes": lambda n: b'"' * n,
    "many short texts": lambda n: b"[" + b'"ab" ' * (n // 5),
    "brackets in a text": lambda n: b'["' + b"[{" * (n // 2) + b'"]',
    "commas": lambda n: b"," * n,
    "brackets": lambda n: b"[" * n,
    "commas between escapes": lambda n: b'\\",' * (n // 3),
    "white space": lambda n: b" " * n,
    "digits": lambda n: b"[" + b"1" * n + b"]",
    "a fraction": lambda n: b"[0." + b"0" * n + b"1]",
    "an exponent": lambda n: b"[1e-" + b"9" * n + b"]",
    "UTF-16": lambda n: ('["' + '\\"' * (n // 4) + '"]').encode("utf-16"),
    "UTF-32": lambda n: ('["' + "," * (n // 4) + '"]').encode("utf-32"),
}


def n_marks(body: bytes, limit: int, chunk_bytes: int = 1 << 16) -> int:
    return outline(body, limit, chunk_bytes).n_marks


def parsed(body: bytes) -> object:
    with contextlib.suppress(InvalidRequest):
        return parse_json(body)
    return None


@pytest.mark.parametrize("shape", SHAPES)
def test_processor_time_grows_with_the_size(shape: str) -> None:
    def work(size: int) -> Callable[[], object]:
        body = SHAPES[shape](size)
        return lambda: parsed(body)

    check_linear(work, 1 << 14, 1 << 22)


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_a_small_multiple_of_the_body(shape: str) -> None:
    body = SHAPES[shape](16_000_000)
    with bounded_growth(3.5 * 16):  # the text, its value, a copy of either
        parsed(body)


@pytest.mark.parametrize("shape", SHAPES)
def test_counting_takes_a_megabyte_or_two(shape: str) -> None:
    body = SHAPES[shape](16_000_000)
    with bounded_growth(8):
        n_marks(body, MANY)


def reference(body: bytes) -> tuple[int, int]:
    """Count marks one byte at a time; return also the length up to a backslash that no JSON can have."""
    found, is_text, is_escaped = 0, False, False
    for position, byte in enumerate(body):
        if is_escaped:
            is_escaped = False
        elif byte == ord("\\"):
            if not is_text:
                return found, position
            is_escaped = True
        elif byte == ord('"'):
            is_text = not is_text
        elif not is_text and byte in b",[{":
            found += 1
    return found, len(body)


@given(st.text('\\"\\",[{a ', max_size=40).map(str.encode), st.integers(1, 12))
@example(b'\\\\",', 3)
@example(b'"\\\\\\",",', 2)
def test_marks_are_counted_outside_texts_only(body: bytes, chunk_bytes: int) -> None:
    expected, end = reference(body)
    assert n_marks(body[:end], MANY, chunk_bytes) == expected
    assert n_marks(body[:end], MANY) == expected
    assert n_marks(body, MANY, chunk_bytes) >= expected


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.text('\\",[{', max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text('\\",[{a', max_size=4), inner),
    max_leaves=20,
)


def size_of(value: Any) -> int:
    """Return how many values there are, names left out."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(size_of(item) for item in items)


@given(JSON, st.integers(1, 12), st.booleans())
def test_there_are_about_as_many_marks_as_values(value: Any, chunk_bytes: int, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = n_marks(body, MANY, chunk_bytes)
    assert size_of(value) - 1 <= found <= 2 * size_of(value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"])
@pytest.mark.parametrize(
    "text",
    ['"\\""', '"\\\\"', '"\\\\\\""', '"a"', '"\u2c22\u225c"', '"\u5c22"', '"' + "\\\\" * 40_000 + '"', '"é"'],
)
def test_too_many_values_behind_any_text(text: str, encoding: str) -> None:
    body = f"[{text}, {'0, ' * 2 * MAX_VALUES}0]".encode(encoding)
    with pytest.raises(InvalidRequest, match=TOO_MANY):
        parse_json(body)
    few = f'[{text}, "{"[{," * 2 * MAX_VALUES}"]'
    assert whole(few.encode(encoding)) == json.loads(few)


def test_an_encoding_within_an_encoding_is_no_way_in() -> None:
    inner = f'["\\"", {"0, " * 2 * MAX_VALUES}0]'.encode("utf-16-le").decode("latin-1")
    with pytest.raises(InvalidRequest):
        parse_json(inner.encode("utf-16"))
    with pytest.raises(InvalidRequest):
        parse_json(inner.encode("utf-32-le"))


# --- long texts ---


def whole(body: bytes) -> Any:
    """Return the value with its long texts in it."""
    parsed = parse_json(body)
    return parsed._whole(parsed.value, "x")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("piece", ["a", "\\", '"', '\\"', "é", "\n", "😀", "a/", "{[,", "\ud800"])
def test_long_texts_are_what_they_are_when_short(piece: str, ascii_only: bool, encoding: str) -> None:
    for length in (LONG_BYTES // 6, LONG_BYTES, LONG_BYTES + 1):
        text = (piece * length)[:length]
        value = {"a": text, "b": [text[::-1], {"c": "short", text[:-1]: 1}], "d": text + "!", "e": 5}
        body = json.dumps(value, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
        expected = json.loads(json.dumps(value).replace("\\ud800", "?"))
        assert whole(body) == expected


def test_a_long_text_is_left_where_it_is() -> None:
    parsed = parse_json(
        b'{"audio": "' + b"QUJD" * 100_000 + b'", "model": "m", "x": ["' + b"y" * 99_999 + b'"]}'
    )
    assert parsed.content(parsed.value["audio"]) == b"QUJD" * 100_000
    assert parsed.content(parsed.value["model"]) == "m"
    assert parsed.fields({"model", "prompt"}) == {"model": "m"}
    assert len(repr(parsed.value)) < 200


def test_a_name_of_a_long_text_cannot_be_guessed() -> None:
    body = b'{"audio": "' + b"A" * 100_000 + b'", "model": "%s"}'
    first, second = (parse_json(body % b"m").value["audio"] for _ in range(2))
    assert first != second
    assert parse_json(body % first.encode()).fields({"model"}) == {"model": first}


@pytest.mark.parametrize(
    "inside", [b"\n", b"\x00", b"\x1f", b"\xff", b"\xc3", b"\xe2\x82", b"\xc0\x80", b"\xf5\x80\x80\x80"]
)
@pytest.mark.parametrize("place", [0, 1, LONG_BYTES - 1, LONG_BYTES, 100_000, 200_000])
def test_what_no_short_text_may_have_no_long_one_may_have(inside: bytes, place: int) -> None:
    text = b"a" * place + inside + b"a" * (200_000 - place)
    for body in (b'{"audio": "%b"}' % text, b'{"x": ["%b"]}' % text):
        with pytest.raises(InvalidRequest, match="not valid JSON"):
            parse_json(body)


def test_characters_across_the_border_of_a_chunk() -> None:
    for shift in range(8):
        text = "a" * (LONG_BYTES - shift) + "é€😀" * 50_000
        assert whole(json.dumps([text], ensure_ascii=False).encode()) == [text]


def test_escapes_in_a_long_text_are_checked_when_it_is_asked_for() -> None:
    parsed = parse_json(b'{"audio": "' + b"A" * 100_000 + b'\\x"}')
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        parsed.content(parsed.value["audio"])


def test_a_field_may_be_long_but_not_endless() -> None:
    assert parse_json(b'{"prompt": "%b"}' % (b"p" * 100_000)).fields({"prompt"}) == {"prompt": "p" * 100_000}
    with pytest.raises(InvalidRequest, match="longer than 1048576 bytes") as caught:
        parse_json(b'{"prompt": ["%b"]}' % (b"p" * 1_100_000)).fields({"prompt"})
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("character", ["a", "ก", "🎵"])
def test_a_text_that_is_to_be_timed_may_be_written_in_any_way(character: str) -> None:
    text = character * MAX_TEXT_CHARS
    for is_ascii in (True, False):
        body = json.dumps({"text": text}, ensure_ascii=is_ascii).encode()
        assert parse_json(body).fields({"text"}) == {"text": text}


def test_a_field_that_is_too_long_is_named_and_not_the_audio() -> None:
    body = bytearray(b'{"audio": "AAAA", "prompt": "%b"}' % (b"p" * 1_100_000))
    with pytest.raises(InvalidRequest, match="longer than") as caught:
        _upload_of(body, 1000, takes_url=False)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("text", ['"' * 100_000, '""' * 50_000, "[" + '"a" ' * 50_000])
def test_more_texts_than_values_are_no_json(text: str) -> None:
    with pytest.raises(InvalidRequest, match=TOO_MANY):
        parse_json(text.encode())


@pytest.mark.parametrize("position", [(1 << 16) - 3, (1 << 16) - 2, (1 << 16) - 1, 1 << 16])
@pytest.mark.parametrize("n_backslashes", range(1, 6))
def test_escapes_across_the_border_of_a_chunk(position: int, n_backslashes: int) -> None:
    start = '["' + "a" * (position - 2) + "\\" * n_backslashes
    end = '"' if n_backslashes % 2 == 0 else '""'
    with pytest.raises(InvalidRequest, match=TOO_MANY):
        parse_json(f"{start}{end}{', 0' * 2 * MAX_VALUES}]".encode())
    few = f'{start}{end[1:]}{",[{" * MAX_VALUES}"]'
    assert len(parse_json(few.encode()).value) == 1


@pytest.mark.parametrize("body", [b"", b" \r\n\t"])
def test_nothing_is_an_empty_object(body: bytes) -> None:
    assert parse_json(body).value == {}


@pytest.mark.parametrize("body", [b"[" * 9_000, b'{"a":' * 9_000, b"[" + b"1" * 5_000 + b"]", b"\xff", b'["'])
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        parse_json(body)
