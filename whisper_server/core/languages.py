"""The languages Whisper knows: codes, English names and the other names people use for them."""

from __future__ import annotations

from whisper_server.core.errors import UnknownLanguage
from whisper_server.core.language_codes import OF_THREE_LETTERS

# Code -> English name; the codes are the language tokens of the published multilingual models
# (openai/whisper, tokenizer.py), "yue" being new in large-v3.
NAMES: dict[str, str] = {
    "en": "english", "zh": "chinese", "de": "german", "es": "spanish", "ru": "russian", "ko": "korean",
    "fr": "french", "ja": "japanese", "pt": "portuguese", "tr": "turkish", "pl": "polish", "ca": "catalan",
    "nl": "dutch", "ar": "arabic", "sv": "swedish", "it": "italian", "id": "indonesian", "hi": "hindi",
    "fi": "finnish", "vi": "vietnamese", "he": "hebrew", "uk": "ukrainian", "el": "greek", "ms": "malay",
    "cs": "czech", "ro": "romanian", "da": "danish", "hu": "hungarian", "ta": "tamil", "no": "norwegian",
    "th": "thai", "ur": "urdu", "hr": "croatian", "bg": "bulgarian", "lt": "lithuanian", "la": "latin",
    "mi": "maori", "ml": "malayalam", "cy": "welsh", "sk": "slovak", "te": "telugu", "fa": "persian",
    "lv": "latvian", "bn": "bengali", "sr": "serbian", "az": "azerbaijani", "sl": "slovenian",
    "kn": "kannada", "et": "estonian", "mk": "macedonian", "br": "breton", "eu": "basque",
    "is": "icelandic", "hy": "armenian", "ne": "nepali", "mn": "mongolian", "bs": "bosnian", "kk": "kazakh",
    "sq": "albanian", "sw": "swahili", "gl": "galician", "mr": "marathi", "pa": "punjabi", "si": "sinhala",
    "km": "khmer", "sn": "shona", "yo": "yoruba", "so": "somali", "af": "afrikaans", "oc": "occitan",
    "ka": "georgian", "be": "belarusian", "tg": "tajik", "sd": "sindhi", "gu": "gujarati", "am": "amharic",
    "yi": "yiddish", "lo": "lao", "uz": "uzbek", "fo": "faroese", "ht": "haitian creole", "ps": "pashto",
    "tk": "turkmen", "nn": "nynorsk", "mt": "maltese", "sa": "sanskrit", "lb": "luxembourgish",
    "my": "myanmar", "bo": "tibetan", "tl": "tagalog", "mg": "malagasy", "as": "assamese", "tt": "tatar",
    "haw": "hawaiian", "ln": "lingala", "ha": "hausa", "ba": "bashkir", "jw": "javanese",
    "su": "sundanese", "yue": "cantonese",
}  # fmt: skip

_OTHER_NAMES: dict[str, str] = {
    "burmese": "my", "valencian": "ca", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb",
    "pushto": "ps", "panjabi": "pa", "moldavian": "ro", "moldovan": "ro", "sinhalese": "si",
    "castilian": "es", "mandarin": "zh", "jv": "jw", "nb": "no", "iw": "he", "fil": "tl", "cmn": "zh",
}  # fmt: skip

# What clients write for a language that they do not know: ISO 639-2's "undetermined" and "multiple
# languages", words of menus, and the nothing of several programming languages.
_UNKNOWN = frozenset({"", "auto", "und", "mul", "multi", "null", "none", "undefined", "detect"})

# Codes of countries that are taken for languages -> what is meant; Whisper knows no language by them.
_COUNTRIES: dict[str, str] = {
    "jp": "ja", "cn": "zh", "kr": "ko", "cz": "cs", "dk": "da", "gr": "el", "ua": "uk", "vn": "vi",
    "us": "en", "gb": "en", "rs": "sr", "at": "de", "il": "he", "ir": "fa", "al": "sq",
}  # fmt: skip

_CODES: dict[str, str] = {
    **OF_THREE_LETTERS,
    **_OTHER_NAMES,
    **{name: code for code, name in NAMES.items()},
    **{c: c for c in NAMES},
}


def parse_language(value: str | None) -> str | None:
    """Return the code for a code of ISO 639-1, 639-2 or 639-3, a locale ("en-US") or an English name.

    None for what is absent, "auto", or one of the words that mean the same.

    Raises:
        UnknownLanguage: Whisper has no such language.
    """
    wanted = (value or "").strip().lower()
    if wanted in _UNKNOWN:
        return None
    primary = wanted.replace("_", "-").partition("-")[0]
    code = _CODES.get(wanted) or _CODES.get(primary)
    if code is None:
        meant = _COUNTRIES.get(primary)
        hint = f" Did you mean {meant!r}, {language_name(meant)}?" if meant else ""
        raise UnknownLanguage(
            f"Unknown language {wanted[:40]!r}.{hint} Use an ISO-639-1 code such as 'en', an English name "
            "such as 'english', or 'auto' to detect it."
        )
    return code


def language_name(code: str) -> str:
    """Return the English name in lower case, as OpenAI's responses have it."""
    return NAMES.get(code, code)
