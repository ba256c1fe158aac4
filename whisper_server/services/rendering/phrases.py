"""Text in scripts without spaces -> where BudouX has its phrases start.

BudouX has a model of some 50 kB for each of Japanese, Thai and the two ways to write Chinese. The
characters say which one to use; only Han characters without kana need the language, and then their form.
A model is loaded when the first text needs it, and stays: 1 ms, 0.6 MB at most.
"""

from __future__ import annotations

import re
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from budoux.parser import Parser

# Without the middle dot and the length mark, which Chinese texts have too.
_KANA = re.compile("[\u3041-\u309f\u30a1-\u30fa\u30fd-\u30ff\u31f0-\u31ff\uff66-\uff6f\uff71-\uff9d]")
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_THAI = re.compile("[\u0e01-\u0e5b]")
_EAST_ASIAN = re.compile(f"{_KANA.pattern}|{_HAN.pattern}|[\u30fb\u30fc\uff70]")
# BudouX scores a joint by three characters on each side, and makes phrases longer one character at a time:
# of n characters without a joint it copies n^2 / 2. In blocks the result is the same.
_CONTEXT, _BLOCK = 3, 1000

_lock = Lock()
_parsers: dict[str, Parser] = {}


def east_asian_model(text: str, language: str) -> str:
    """Return the model for a text's kana and Han characters: ja, zh-hans or zh-hant.

    `language` is a code of Whisper's, or empty where it is not known.
    """
    if language == "ja" or _KANA.search(text):
        return "ja"
    han = "".join(_HAN.findall(text))
    # Each of the two encodings has the characters of one way of writing, two bytes for each.
    lost = len(han.encode("gb2312", "ignore")) - len(han.encode("big5", "ignore"))
    is_traditional = lost < 0 or (lost == 0 and language == "yue")
    return "zh-hant" if is_traditional else "zh-hans"


def is_known(char: str) -> bool:
    """Tell whether there is a model for a character's script."""
    return bool(_EAST_ASIAN.match(char) or _THAI.match(char))


def starts(word: str, east_asian: str) -> set[int]:
    """Return where in a word without spaces phrases start, its own start left out.

    Offsets between characters of other scripts mean nothing.
    """
    has_thai, has_east_asian = _THAI.search(word), _EAST_ASIAN.search(word)
    if not has_thai:
        return _starts(word, east_asian) if has_east_asian else set()
    thai = _starts(word, "th")
    if not has_east_asian:
        return thai
    at_thai = {i for i in range(1, len(word)) if _THAI.search(word, i - 1, i + 1)}
    between = {i for i in at_thai if _EAST_ASIAN.search(word, i - 1, i + 1)}
    return (thai & at_thai) | between | (_starts(word, east_asian) - at_thai)


def _starts(word: str, model: str) -> set[int]:
    parser = _parser(model)
    found = set()
    for first in range(0, len(word), _BLOCK):
        end = first + _BLOCK
        position = max(first - _CONTEXT, 0)
        for phrase in parser.parse(word[position : end + _CONTEXT]):
            if first <= position < end:
                found.add(position)
            position += len(phrase)
    found.discard(0)
    return found


def _parser(model: str) -> Parser:
    with _lock:
        if model not in _parsers:
            from budoux import parser  # noqa: PLC0415  (not before a text needs it)

            load = {
                "ja": parser.load_default_japanese_parser,
                "zh-hans": parser.load_default_simplified_chinese_parser,
                "zh-hant": parser.load_default_traditional_chinese_parser,
                "th": parser.load_default_thai_parser,
            }
            _parsers[model] = load[model]()
        return _parsers[model]
