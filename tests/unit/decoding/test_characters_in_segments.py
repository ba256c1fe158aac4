"""Half characters reach nobody: of whatever tokens the model writes, segments have all whole ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.real_models import real_model
from whisper_server.core.types import Decoded, Placed, Segment, TokenTime, Transcript, Window
from whisper_server.services.decoding import segments
from whisper_server.services.engines.fake import build_tokenizer
from whisper_server.services.engines.tokenizer import Tokenizer
from whisper_server.services.rendering.deltas import Deltas
from whisper_server.services.rendering.formats import FORMATS, render

MARK = "\N{REPLACEMENT CHARACTER}"
WINDOW = Window(np.zeros((80, 3000), np.float32), 10.0, (Placed(0.0, 0.0, 10.0),))
BYTES = build_tokenizer()  # a token for each byte: every character of several bytes is spread over tokens
NANO = Path(__file__).parents[3] / "models" / "nano-whisper"

# Parts: a timestamp in seconds, or bytes that are written with a token for each of them.
PARTS = st.lists(
    st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0])
    | st.sampled_from([" one", "中", "é", "🙂", "「", "。", " ", MARK]).map(str.encode)
    | st.sampled_from([b"\xe4", b"\xb8", b"\xad", b"\xf0\x9f", b"\x99\x82", b"\xef\xbf", b"\xbd", b"\xff"]),
    max_size=16,
)


@cache
def nano() -> Tokenizer:
    return Tokenizer.from_file(NANO / "tokenizer.json", is_multilingual=True)


@cache
def token_of_byte(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the tokens of single bytes; they are the first 256."""
    return {tokenizer.token_bytes(token): token for token in range(256)}


def written(tokenizer: Tokenizer, *parts: float | bytes) -> list[int]:
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, bytes):
            tokens += [token_of_byte(tokenizer)[bytes([byte])] for byte in part]
        else:
            tokens.append(tokenizer.first_timestamp + round(part / 0.02))
    return tokens


def heard(tokenizer: Tokenizer, tokens: list[int], language: str = "ja") -> list[Segment]:
    text = tokenizer.text_tokens(tokens)
    times = tuple(
        TokenTime(token, 10.0 * i / len(text), 10.0 * (i + 1) / len(text), 0.5)
        for i, token in enumerate(text)
    )
    decoded = Decoded(tuple(tokens), language, 1.0, 0.0, -0.2, 1.0, 0.0, is_silence=False, token_times=times)
    return segments.of(WINDOW, decoded, tokenizer)


def check(tokenizer: Tokenizer, tokens: list[int]) -> None:
    """Check all that is made of these tokens against the bytes that they spell."""
    found = heard(tokenizer, tokens)
    data = b"".join(map(tokenizer.token_bytes, tokenizer.text_tokens(tokens)))
    spelled = data.decode(errors="ignore")
    # White space on its own between two timestamps is no segment.
    assert "".join("".join(each.text for each in found).split()) == "".join(spelled.split())
    for segment in found:
        assert segment.text.strip()
        assert "".join(score.text for score in segment.scores) == segment.text
        assert b"".join(score.data for score in segment.scores).decode(errors="ignore") == segment.text
        assert tokenizer.text(segment.tokens) == segment.text
        assert "".join("".join(word.text.split()) for word in segment.words) == "".join(segment.text.split())
        assert all(word.text for word in segment.words)
        if MARK not in data.decode(errors="replace"):
            assert b"".join(score.data for score in segment.scores) == segment.text.encode()
    check_replies(found, has_mark=MARK in spelled)


def check_replies(found: list[Segment], *, has_mark: bool) -> None:
    """Check what a client gets."""
    transcript = Transcript("transcribe", "ja", 10.0, tuple(found), shows_words=True, shows_logprobs=True)
    deltas = Deltas()
    assert "".join(deltas.add(segment.text) for segment in found) == transcript.text
    if has_mark:
        return
    for name in FORMATS:
        body, _ = render(transcript, name)
        assert MARK not in body
        assert "\\ufffd" not in body.lower()


@pytest.mark.parametrize(
    ("parts", "texts"),
    [
        # A character with a timestamp inside it is said where it begins.
        ((0.0, b" a\xe4\xb8", 2.0, 2.0, b"\xadb", 4.0), [(0.0, 2.0, " a中"), (2.0, 4.0, "b")]),
        ((0.0, b"\xe4", 1.0, b"\xb8", 2.0, b"\xad", 3.0), [(0.0, 1.0, "中")]),
        # Bytes that never become one are left out, and the phrases keep their times.
        ((0.0, b" a\xe4\xb8", 2.0, 2.0, b" b", 4.0), [(0.0, 2.0, " a"), (2.0, 4.0, " b")]),
        ((0.0, b"\xe4\xb8", 2.0, 2.0, b"\xff\xadb", 4.0), [(2.0, 4.0, "b")]),
        ((0.0, b" a\xf0\x9f\x99"), [(0.0, 10.0, " a")]),
        ((0.0, b"\xf0\x9f\x99", 2.0), []),
        # What the model spells is its own.
        ((0.0, MARK.encode(), 2.0), [(0.0, 2.0, MARK)]),
        ((0.0, b"\xef\xbf", 2.0, b"\xbd", 3.0), [(0.0, 2.0, MARK)]),
    ],
)
def test_phrases_are_whole_characters(
    parts: tuple[float | bytes, ...], texts: list[tuple[float, float, str]]
) -> None:
    found = heard(BYTES, written(BYTES, *parts))
    assert [(segment.start_s, segment.end_s, segment.text) for segment in found] == texts


def test_scores_tell_the_bytes_and_give_the_character_to_the_last_of_them() -> None:
    (segment,) = heard(BYTES, written(BYTES, 0.0, b"\xe4", 1.0, b"\xb8\xad", 2.0))
    body = json.loads(
        render(Transcript("transcribe", "ja", 10.0, (segment,), shows_logprobs=True), "json")[0]
    )
    assert [(each["token"], each["bytes"]) for each in body["logprobs"]] == [
        ("", [228]),
        ("", [184]),
        ("中", [173]),
    ]


def test_words_are_whole_characters() -> None:
    (segment,) = heard(BYTES, written(BYTES, 0.0, " 中「文".encode() + b"\xff" + "」🙂".encode(), 2.0))
    assert [word.text for word in segment.words] == ["中", "「文」", "🙂"]


@given(PARTS)
def test_whatever_bytes_the_model_writes(parts: list[float | bytes]) -> None:
    check(BYTES, written(BYTES, *parts))


@given(PARTS, st.lists(st.integers(0, 50256), max_size=6))
def test_whatever_tokens_the_nano_model_writes(parts: list[float | bytes], tokens: list[int]) -> None:
    mixed = written(nano(), *parts)
    check(nano(), [*tokens[:3], *mixed, *tokens[3:]])


@pytest.mark.real
@given(st.lists(st.integers(0, 51864) | st.integers(0, 255), max_size=24))
def test_whatever_tokens_the_real_model_writes(tokens: list[int]) -> None:
    check(base(), tokens)


@cache
def base() -> Tokenizer:
    return Tokenizer.from_file(real_model("base") / "tokenizer.json", is_multilingual=True)
