"""Short-lived keys: who may open a session, until when, and what it begins with."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.growth import check_linear
from whisper_server.api import ephemeral_keys
from whisper_server.api.ephemeral_keys import is_valid, new_key, session_of, socket_key
from whisper_server.core.errors import InvalidRequest

API_KEY = b"secret"
NOW_S = 1_800_000_000.5


def test_a_key_is_good_until_it_expires() -> None:
    key, expires_at = new_key(API_KEY, NOW_S, 60)
    assert expires_at == 1_800_000_060
    assert is_valid(key, API_KEY, NOW_S)
    assert is_valid(key, API_KEY, expires_at)
    assert not is_valid(key, API_KEY, expires_at + 1)
    assert not is_valid(key, b"another", NOW_S)


def test_a_key_brings_its_session() -> None:
    session = {"audio": {"input": {"transcription": {"prompt": "Gr\u00fc\u00dfe"}}}}
    key, expires_at = new_key(API_KEY, NOW_S, 60, session)
    assert session_of(key, API_KEY, NOW_S) == session
    assert session_of(key, API_KEY, expires_at + 1) is None
    assert session_of(key, b"another", NOW_S) is None
    assert session_of(new_key(API_KEY, NOW_S)[0], API_KEY, NOW_S) is None


def test_what_was_signed_cannot_be_changed() -> None:
    key, _ = new_key(API_KEY, NOW_S, 60, {"include": []})
    expiry, nonce, session, signature = key.removeprefix("ek_").split(".")
    longer = f"{int(expiry, 16) + 9999:x}"
    other = base64.urlsafe_b64encode(b'{"include":["a"]}').decode().rstrip("=")
    for claim in (f"{longer}.{nonce}.{session}", f"{expiry}.{nonce}.{other}", f"{expiry}.{nonce}"):
        assert not is_valid(f"ek_{claim}.{signature}", API_KEY, NOW_S)


def test_a_key_fits_into_a_header() -> None:
    room = ephemeral_keys.MAX_SESSION_BYTES - len('{"a":""}')
    assert len(new_key(API_KEY, NOW_S, 60, {"a": "b" * room})[0]) < 6000
    with pytest.raises(InvalidRequest, match="4096"):
        new_key(API_KEY, NOW_S, 60, {"a": "b" * (room + 1)})


@given(st.lists(st.text(max_size=20), max_size=5))
def test_whatever_is_signed_with_no_key_is_read_without_an_error(parts: list[str]) -> None:
    """A server without a key signs with none, and anybody can."""
    claim = ".".join(parts)
    key = f"ek_{claim}.{ephemeral_keys._signature(b'', claim)}"
    assert session_of(key, b"", NOW_S) is None or is_valid(key, b"", NOW_S)


@pytest.mark.parametrize("text", ["[" * 3000, "1" * 5000, "\ud800", "{", "nan"])
def test_sessions_that_anybody_signed(text: str) -> None:
    written = base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()
    claim = f"ffffffffff.0.{written}"
    assert session_of(f"ek_{claim}.{ephemeral_keys._signature(b'', claim)}", b"", NOW_S) is None


def test_long_keys_are_read_in_time_that_grows_with_them() -> None:
    for part in ("a", ".", "a.", "="):
        check_linear(lambda n, part=part: lambda: session_of(f"ek_{part * n}", b"", NOW_S), 1 << 14, 1 << 18)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("authorization", "Bearer  ek_1 ", "ek_1"),
        ("authorization", "Basic ek_1", ""),
        ("authorization", "", ""),
        ("sec-websocket-protocol", "realtime, openai-insecure-api-key.ek_1", "ek_1"),
        ("sec-websocket-protocol", "realtime", ""),
    ],
)
def test_where_a_key_is(name: str, value: str, key: str) -> None:
    assert socket_key({"headers": [(name.encode(), value.encode())]}) == key
