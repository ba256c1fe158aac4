"""A session's settings -> what the pipeline takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whisper_server.core.languages import parse_language
from whisper_server.core.types import TranscribeParams
from whisper_server.core.validators import MAX_PROMPT_CHARS, check_keywords, check_languages
from whisper_server.services.model_files.names import tells_languages

if TYPE_CHECKING:
    from whisper_server.services.model_files.catalog import Catalog
    from whisper_server.services.realtime.configuration import SessionConfig


def params_of(config: SessionConfig, catalog: Catalog) -> TranscribeParams:
    """Return the parameters of every turn.

    Raises:
        InvalidRequest: a language is unknown, or keywords are too many or too long.
        ModelNotFound: the name of the model is not configured.
    """
    given = config.transcription
    language = parse_language(given.language)
    languages = check_languages(given.languages or (), language)
    name = given.model or catalog.default
    return TranscribeParams(
        model=catalog.resolve(name),
        language=language,
        languages=languages,
        shows_languages=bool(languages) or tells_languages(name),
        prompt=(given.prompt or "")[-MAX_PROMPT_CHARS:],
        keywords=check_keywords(given.keywords or ()),
        logprobs=config.wants_logprobs,
        priority="interactive",
    )
