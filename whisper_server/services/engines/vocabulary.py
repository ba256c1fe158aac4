"""What tokens are written as: the vocabulary of one tokenizer.json, and the bytes that a token stands for.

This is all that a transcript needs. The way back, from the text of a prompt to tokens, is the tokenizers
library's: most of its memory is for that, so it is loaded for the first prompt only (`tokenizer.py`).
"""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whisper_server.core.errors import ModelUnavailable

MAX_TOKENS = 1 << 20  # twenty times Whisper's; a file that numbers its tokens higher is not its


def _bytes_by_character() -> dict[str, int]:
    """Return what each character of the vocabulary stands for, as GPT-2's `bytes_to_unicode` has it.

    Printable Latin-1 stands for itself; the other bytes, in order, for the characters from 256 on.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _bytes_by_character()


class Vocabulary:
    """The tokens of one model, by number; immutable.

    They are one string and the places where each begins, which is smaller than 50,000 strings.
    """

    def __init__(self, numbers: Mapping[str, int]) -> None:
        """Take what each token is written as, and its number.

        Raises:
            ValueError: a number is no number of a token.
        """
        if not all(isinstance(number, int) and 0 <= number < MAX_TOKENS for number in numbers.values()):
            raise ValueError("the numbers of tokens must be small integers")
        written = [""] * (max(numbers.values(), default=-1) + 1)
        for token, number in numbers.items():
            written[number] = token
        self._written = "".join(written)
        self._starts = array("I", itertools.accumulate(map(len, written), initial=0))
        self._specials = {token: number for token, number in numbers.items() if token.startswith("<|")}

    @classmethod
    def from_file(cls, path: Path) -> Vocabulary:
        """Read a `tokenizer.json`; raises `ModelUnavailable` where it cannot be read."""
        try:
            return cls.of(json.loads(path.read_bytes()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ModelUnavailable(f"The {path.name} of {path.parent.name!r} cannot be read.") from error

    @classmethod
    def of(cls, document: Any) -> Vocabulary:
        """Take what is in a `tokenizer.json`.

        Raises:
            ValueError: a number is no number of a token.
            LookupError, TypeError, AttributeError: it is another kind of document.
        """
        numbers: dict[str, int] = dict(document["model"]["vocab"])
        numbers.update((added["content"], added["id"]) for added in document.get("added_tokens") or ())
        return cls(numbers)

    def number(self, special: str) -> int | None:
        """Return the number of a special token, as `<|en|>`; None where there is none."""
        return self._specials.get(special)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes of one token, maybe a part of a character; none for an unknown one."""
        if not 0 <= token < len(self._starts) - 1:
            return b""
        written = self._written[self._starts[token] : self._starts[token + 1]]
        try:
            return bytes([_BYTE_OF[character] for character in written])
        except KeyError:
            return written.encode()  # added to the vocabulary as plain text
