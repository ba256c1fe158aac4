"""Bytes in pieces become characters: none is lost, none is made up, broken ones are left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_server.services.engines import characters

MARK = "\N{REPLACEMENT CHARACTER}"
PIECES = st.lists(
    st.binary(max_size=3)
    | st.sampled_from(["中", "é", "🙂", " a", MARK]).map(str.encode)
    | st.sampled_from(
        [b"\xe4", b"\xb8", b"\xad", b"\xf0\x9f", b"\x99\x82", b"\xef\xbf", b"\xbd", b"\xed\xa0\x80"]
    ),
    max_size=12,
)


@pytest.mark.parametrize(
    ("pieces", "texts"),
    [
        ([b" \xe4\xb8", b"\xad"], [" ", "中"]),
        ([b"\xf0", b"\x9f", b"\x99", b"\x82!"], ["", "", "", "🙂!"]),
        ([b"\xad\xe4", b"\xb8\xad"], ["", "中"]),
        ([b"a\xe4\xb8", b"b"], ["a", "b"]),  # never ended
        ([b"\xef\xbf", b"\xbd"], ["", MARK]),  # the model spells it
        ([b"", b"\xc3", b"", b"\xa9"], ["", "", "", "é"]),
        ([], []),
    ],
)
def test_a_character_counts_for_the_piece_that_ends_it(pieces: list[bytes], texts: list[str]) -> None:
    assert characters.shared_out(pieces) == texts


@given(PIECES)
def test_texts_of_pieces_join_to_the_text_without_made_up_characters(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    text = characters.text_of(whole)
    assert "".join(characters.shared_out(pieces)) == text
    assert text.count(MARK) == whole.count(MARK.encode())
    if MARK not in whole.decode(errors="replace"):
        assert text.encode() == whole


@given(PIECES)
def test_text_may_be_cut_where_a_character_ends_and_nowhere_else(pieces: list[bytes]) -> None:
    whole = characters.text_of(b"".join(pieces))
    for cut, is_end in enumerate(characters.ends_character(pieces), 1):
        left, right = (characters.text_of(b"".join(part)) for part in (pieces[:cut], pieces[cut:]))
        assert (left + right == whole) == is_end
