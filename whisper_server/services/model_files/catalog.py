"""What a model name means: a folder, or a repository of the model hub.

Owns the built-in models and the operator's own; other names of them are in `names`. It opens no socket and,
once built, touches no disk: a name from a request is only ever looked up, never turned into a path or an
address.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from whisper_server.core.config import Settings
from whisper_server.core.errors import ConfigError, ModelNotFound
from whisper_server.core.types import ModelSource
from whisper_server.services.model_files.names import HOSTED, spellings

log = logging.getLogger(__name__)

WHISPER_1, WHISPER_1_TARGET = "whisper-1", "whisper-tiny"  # the hosted API's name -> what it means by default

# The repositories that OpenAI publishes the weights under.
BUILT_IN = MappingProxyType(
    {
        "whisper-tiny": "openai/whisper-tiny",
        "whisper-base": "openai/whisper-base",
        "whisper-small": "openai/whisper-small",
        "whisper-medium": "openai/whisper-medium",
        "whisper-large": "openai/whisper-large-v3",
        "whisper-large-v3": "openai/whisper-large-v3",
        "whisper-large-v3-turbo": "openai/whisper-large-v3-turbo",
    }
)

MAX_SHOWN_CHARS = 80  # of a name that a client sent, in messages

_PATH_LIKE = re.compile(r"[./~]|[A-Za-z]:[\\/]|.*\\")
_REPOSITORY = re.compile(
    r"(?P<repo>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[A-Za-z0-9_][\w./-]*))?", re.ASCII
)


class Catalog:
    """The names that this server answers to."""

    def __init__(self, settings: Settings) -> None:
        """Resolve every configured name.

        Raises:
            ConfigError: WHISPER_MODELS holds a target that is neither a folder nor a repository,
                WHISPER_ALIASES one that is no model, or WHISPER_MODEL names nothing.
        """
        targets = _with_aliases(settings, {**BUILT_IN, **settings.operator_models})
        self.default, targets = _with_default(settings, targets)
        if self.default == WHISPER_1 or not settings.has_built_in_aliases:
            targets.setdefault(WHISPER_1, targets[WHISPER_1_TARGET])
        self._sources = _sources_of(targets)
        # Name in lower case -> name in `_sources`.
        self._spellings = spellings(targets, self.default) if settings.has_built_in_aliases else {}
        self._logged: set[str] = set()  # other names in use, at most as many as there are

    def resolve(self, name: str) -> ModelSource:
        """Return what `name` means, by look-up only; the first use of another name of a model is logged.

        Raises:
            ModelNotFound: the name is not known; the message has the nearest one and the models there are.
        """
        known = name if name in self._sources else self._spellings.get(name.lower())
        if known is None:
            raise self._not_found(name)
        source = self._sources[known]
        alias = name if known == name else name.lower()
        if alias != source.name and alias not in self._logged:
            self._logged.add(alias)
            log.info("the model name %s is in use, which means %s here (WHISPER_ALIASES)", alias, source.name)
        return source

    def names(self) -> list[tuple[str, ModelSource]]:
        """Return every name of a model with its source, the operator's aliases included."""
        return list(self._sources.items())

    def aliases(self) -> list[tuple[str, ModelSource]]:
        """Return the names of hosted models that mean the default model, with its source."""
        if not self._spellings:
            return []
        return [(name, self._sources[self.default]) for name in HOSTED if name not in self._sources]

    def _not_found(self, name: str) -> ModelNotFound:
        shown = repr(name[:MAX_SHOWN_CHARS]) + ("..." if len(name) > MAX_SHOWN_CHARS else "")
        wanted = name[:MAX_SHOWN_CHARS].lower()
        near = difflib.get_close_matches(wanted, [*self._sources, *self._spellings], n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return ModelNotFound(
            f"The model {shown} does not exist.{hint} This server knows {', '.join(self._sources)}."
        )


def _with_aliases(settings: Settings, targets: Mapping[str, str]) -> dict[str, str]:
    """Return the targets with the operator's aliases, each as another name of the same target."""
    found = dict(targets)
    for alias, name in settings.operator_aliases.items():
        known = _known(name, found, settings) or (WHISPER_1_TARGET if name == WHISPER_1 else None)
        if known is None:
            raise ConfigError(
                f"WHISPER_ALIASES: {alias}={name[:MAX_SHOWN_CHARS]!r} is none of {', '.join(targets)}"
            )
        if alias in settings.operator_models:
            raise ConfigError(f"WHISPER_ALIASES: {alias!r} is a model of WHISPER_MODELS already")
        found[alias] = found[known]
    return found


def _known(name: str, targets: Mapping[str, str], settings: Settings) -> str | None:
    """Return the name that the operator means: as it is, or by another spelling."""
    if name in targets or not settings.has_built_in_aliases:
        return name if name in targets else None
    return spellings(targets, "").get(name.lower()) or None  # no default yet that a hosted name could mean


def _with_default(settings: Settings, targets: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the default name, and the targets with the folder that WHISPER_MODEL may be."""
    model = settings.model
    if model in targets or model == WHISPER_1:
        return model, targets
    if not _is_folder(model):
        if known := _known(model, targets, settings):
            return known, targets
        raise ConfigError(
            f"WHISPER_MODEL: {model[:MAX_SHOWN_CHARS]!r} is neither a model folder nor one of "
            + ", ".join([WHISPER_1, *targets])
        )
    name = _absolute("WHISPER_MODEL", model).name
    if not name or name in settings.operator_models:
        raise ConfigError(
            f"WHISPER_MODEL: the folder's name {name!r} is taken or empty; name it in WHISPER_MODELS"
        )
    return name, {**targets, name: model}


def _sources_of(targets: dict[str, str]) -> dict[str, ModelSource]:
    """Turn name -> target into name -> source; the first name of a target becomes its canonical one."""
    canonical: dict[tuple[Path | None, str | None, str | None], ModelSource] = {}
    sources = {}
    for name, target in targets.items():
        source = _source(name, target)
        key = (source.folder and source.folder.resolve(), source.repo, source.revision)
        sources[name] = canonical.setdefault(key, source)
    return sources


def _source(name: str, target: str) -> ModelSource:
    if _PATH_LIKE.match(target) or _is_folder(target):
        folder = _absolute("WHISPER_MODELS", target)
        if not _is_folder(str(folder)):
            raise ConfigError(f"WHISPER_MODELS: {name}: there is no folder {target[:MAX_SHOWN_CHARS]!r}")
        return ModelSource(name, folder=folder)
    match = _REPOSITORY.fullmatch(target)
    if match is None or ".." in target:
        raise ConfigError(
            f"WHISPER_MODELS: {name}={target[:MAX_SHOWN_CHARS]!r} is neither a folder nor of the form"
            " owner/name or owner/name@revision"
        )
    return ModelSource(name, repo=match["repo"], revision=match["revision"])


def _is_folder(text: str) -> bool:
    try:
        return bool(text) and Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # too long, no home folder, NUL
        return False


def _absolute(variable: str, text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ConfigError(f"{variable}: {text[:MAX_SHOWN_CHARS]!r} needs a home folder: {error}") from error
