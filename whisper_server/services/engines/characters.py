"""UTF-8 that comes in pieces -> text; pure.

A token of Whisper is any run of bytes: a character may be spread over several of them, and a timestamp may
come between two. Bytes that never become a character, as where the model stops in the middle of one, are
left out: they say nothing, and a client would see U+FFFD for each. A U+FFFD that the model spells is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def text_of(data: bytes) -> str:
    """Return the characters of these bytes."""
    return data.decode("utf-8", "ignore")


def shared_out(pieces: Sequence[bytes]) -> list[str]:
    """Return what each piece adds to the text: a character counts for the piece that ends it.

    Joined, that is the text of the joined pieces.
    """
    ends = list(accumulate(map(len, pieces)))
    texts = [""] * len(pieces)
    piece = 0
    for character, _, end in _characters(b"".join(pieces)):
        while ends[piece] < end:
            piece += 1
        texts[piece] += character
    return texts


def ends_character(pieces: Sequence[bytes]) -> list[bool]:
    """Tell for each piece whether no character goes on in the next one."""
    inside = {place for _, start, end in _characters(b"".join(pieces)) for place in range(start + 1, end)}
    return [place not in inside for place in accumulate(map(len, pieces))]


def _characters(data: bytes) -> list[tuple[str, int, int]]:
    """Return each character and its place, (start, end) in bytes."""
    found: list[tuple[str, int, int]] = []
    end = 0
    for character in data.decode("utf-8", "surrogateescape"):
        start, is_broken = end, "\ud800" <= character <= "\udfff"  # a byte that is no part of a character
        end += 1 if is_broken else len(character.encode())
        if not is_broken:
            found.append((character, start, end))
    return found
