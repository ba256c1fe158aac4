"""The codes of three letters that media files, and tools that are made for them, name languages by."""

from __future__ import annotations

# Code of Whisper -> its codes in ISO 639-2 (https://www.loc.gov/standards/iso639-2), the terminological one
# and the bibliographic one where they differ, and the individual languages of ISO 639-3 that files name
# instead of the group ("cmn", "nob", "zsm"). Codes of three letters stand for themselves.
_ISO_639_2: dict[str, str] = {
    "en": "eng", "zh": "zho chi cmn", "de": "deu ger", "es": "spa", "ru": "rus", "ko": "kor",
    "fr": "fra fre", "ja": "jpn", "pt": "por", "tr": "tur", "pl": "pol", "ca": "cat", "nl": "nld dut",
    "ar": "ara arb", "sv": "swe", "it": "ita", "id": "ind", "hi": "hin", "fi": "fin", "vi": "vie",
    "he": "heb", "uk": "ukr", "el": "ell gre", "ms": "msa may zsm", "cs": "ces cze", "ro": "ron rum",
    "da": "dan", "hu": "hun", "ta": "tam", "no": "nor nob", "th": "tha", "ur": "urd", "hr": "hrv scr",
    "bg": "bul", "lt": "lit", "la": "lat", "mi": "mri mao", "ml": "mal", "cy": "cym wel",
    "sk": "slk slo", "te": "tel", "fa": "fas per pes", "lv": "lav lvs", "bn": "ben", "sr": "srp scc",
    "az": "aze azj", "sl": "slv", "kn": "kan", "et": "est ekk", "mk": "mkd mac", "br": "bre",
    "eu": "eus baq", "is": "isl ice", "hy": "hye arm", "ne": "nep npi", "mn": "mon khk", "bs": "bos",
    "kk": "kaz", "sq": "sqi alb als", "sw": "swa swh", "gl": "glg", "mr": "mar", "pa": "pan", "si": "sin",
    "km": "khm", "sn": "sna", "yo": "yor", "so": "som", "af": "afr", "oc": "oci", "ka": "kat geo",
    "be": "bel", "tg": "tgk", "sd": "snd", "gu": "guj", "am": "amh", "yi": "yid ydd", "lo": "lao",
    "uz": "uzb uzn", "fo": "fao", "ht": "hat", "ps": "pus pbt", "tk": "tuk", "nn": "nno", "mt": "mlt",
    "sa": "san", "lb": "ltz", "my": "mya bur", "bo": "bod tib", "tl": "tgl fil", "mg": "mlg plt",
    "as": "asm", "tt": "tat", "ln": "lin", "ha": "hau", "ba": "bak", "jw": "jav", "su": "sun",
}  # fmt: skip

OF_THREE_LETTERS: dict[str, str] = {
    **{tag: code for code, tags in _ISO_639_2.items() for tag in tags.split()},
    "haw": "haw",
    "yue": "yue",
}
