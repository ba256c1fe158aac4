"""What a model name means: a folder, or a repository of the model hub.

Owns the built-in names and the operator's own. It opens no socket and, once built, touches no disk:
a name from a request is only ever looked up, never turned into a path or an address.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import MappingProxyType

from whisper_server.core.config import Settings
from whisper_server.core.errors import ConfigError, ModelNotFound
from whisper_server.core.types import ModelSource

ALIASES = MappingProxyType({"whisper-1": "whisper-tiny"})  # the hosted API's name -> what it means here

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
            ConfigError: WHISPER_MODELS holds a target that is neither a folder nor a repository, or
                WHISPER_MODEL names nothing.
        """
        targets = {**BUILT_IN, **settings.operator_models}
        self.default, targets = _with_default(settings, targets)
        for alias, name in ALIASES.items():
            targets.setdefault(alias, targets[name])
        self._sources = _sources_of(targets)

    def resolve(self, name: str) -> ModelSource:
        """Return what `name` means, by look-up only.

        Raises:
            ModelNotFound: the name is not configured; the message lists the names there are.
        """
        source = self._sources.get(name)
        if source is None:
            shown = repr(name[:MAX_SHOWN_CHARS]) + ("..." if len(name) > MAX_SHOWN_CHARS else "")
            raise ModelNotFound(
                f"The model {shown} does not exist; this server knows {', '.join(self._sources)}."
            )
        return source

    def names(self) -> list[tuple[str, ModelSource]]:
        """Return every name with its source, aliases included."""
        return list(self._sources.items())


def _with_default(settings: Settings, targets: dict[str, str]) -> tuple[str, dict[str, str]]:
    """Return the default name, and the targets with the folder that WHISPER_MODEL may be."""
    model = settings.model
    if model in targets or model in ALIASES:
        return model, targets
    if not _is_folder(model):
        known = ", ".join([*ALIASES, *targets])
        raise ConfigError(
            f"WHISPER_MODEL: {model[:MAX_SHOWN_CHARS]!r} is neither a model folder nor one of {known}"
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
