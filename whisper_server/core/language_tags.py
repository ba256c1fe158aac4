"""The language tags of media files -> the codes that requests use.

Files write ISO 639-2 ("ger" or "deu"), ISO 639-1 ("de") or a BCP 47 tag ("de-AT"). The codes of three letters
are in `language_codes`; what Whisper calls its languages is in `languages`.
"""

from __future__ import annotations

from whisper_server.core.language_codes import OF_THREE_LETTERS
from whisper_server.core.languages import NAMES, parse_language


def language_of_tag(tag: str) -> str | None:
    """Return the code of a file's language tag; None for none, "und" and languages Whisper does not know."""
    primary = tag.strip().lower().replace("_", "-").partition("-")[0]
    if len(primary) == 3:
        return OF_THREE_LETTERS.get(primary)
    if len(primary) != 2:
        return None
    return parse_language(primary) if primary in NAMES or primary in {"jv", "nb", "iw"} else None
