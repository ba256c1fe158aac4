"""Regular expressions over what clients send, or what models say: none takes more than linear time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import pytest

from tests.support.growth import check_linear
from whisper_server.api.middleware import host_check
from whisper_server.api.requests import form
from whisper_server.core import validators
from whisper_server.core.errors import WhisperServerError
from whisper_server.services.audio import mp4_guard
from whisper_server.services.engines import tokenizer
from whisper_server.services.model_files import catalog
from whisper_server.services.rendering import formats, line_breaks

USES: dict[str, Callable[[str], object]] = {
    "a Host header": host_check._NETLOC.fullmatch,
    "a field's name": form.split_name,
    "a data URL": lambda text: validators.decode_base64(text, 1),
    "special tokens in a prompt": lambda text: tokenizer._SPECIAL.sub(" ", text),
    "arrows in subtitles": lambda text: formats._ARROW.sub("->", text),
    "words with hyphens": lambda text: list(line_breaks._at_hyphens(text)),
    "tables of an MP4": lambda text: list(mp4_guard.TABLES.finditer(text.encode())),
    "a repository": catalog._REPOSITORY.fullmatch,
}
REPEATED = [
    "-",
    "a",
    "[",
    "a[",
    "]",
    ":",
    "0",
    "<|",
    "<|a",
    "|",
    "a/",
    "st",
    "data:",
    ";base64",
    ".",
    "=",
    "->",
]


@pytest.mark.long
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(("first", "last"), [("", ""), ("data:", "\n"), ("[", "!")])
def test_time_grows_with_the_size(use: str, first: str, last: str) -> None:
    for repeated in (" ", *REPEATED):
        check_linear(partial(work, use, first, repeated, last), 1 << 12, 1 << 16)


def work(use: str, first: str, repeated: str, last: str, size: int) -> Callable[[], None]:
    whole = first + repeated * (size // len(repeated)) + last

    def run() -> None:
        with contextlib.suppress(WhisperServerError):
            USES[use](whole)

    return run


def test_arrows_are_shortened() -> None:
    assert formats._ARROW.sub("->", "a --> b ------> c -> d -- > -->>-->") == "a -> b -> c -> d -- > ->>->"
