"""Settings: every value that an operator can set, from the environment, `.env` and flags (flags win).

This module and the groups that it joins own names, defaults, bounds and the sentence that explains each; the
settings table of the docs and the flags of the scripts are made from the class. There is no module-level
instance: an entry point reads the settings once and passes them on.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

from whisper_server.core.errors import ConfigError
from whisper_server.core.settings.clients import ClientSettings
from whisper_server.core.settings.jobs import JobSettings
from whisper_server.core.settings.models import ModelSettings
from whisper_server.core.settings.renamed import RENAMED, Renamed, old_values

log = logging.getLogger(__name__)

MAX_REASON_CHARS = 300  # of what is wrong with a value; it may show the value
_SECRETS = frozenset({"WHISPER_API_KEY", "WHISPER_CALLBACK_SECRET", "WHISPER_JOB_STORE"})  # never shown
MAX_HOST_BYTES = 253  # of a name in the DNS; addresses are shorter


class ProcessSettings(BaseModel):
    """Where the server listens, what it logs, and when it ends."""

    host: str = Field("127.0.0.1", alias="WHISPER_SERVER_HOST", description="Address to listen on.")
    port: int = Field(
        8089,
        alias="WHISPER_SERVER_PORT",
        ge=0,
        le=65535,
        description="Port to listen on; 0 takes a free one.",
    )
    wyoming_port: int = Field(
        0,
        alias="WHISPER_WYOMING_PORT",
        ge=0,
        le=65535,
        description="Port for Home Assistant (the Wyoming protocol), usually 10300; 0: none.",
    )
    wyoming_host: str = Field(
        "127.0.0.1",
        alias="WHISPER_WYOMING_HOST",
        description="Address of that port. The protocol has no key: an address beyond loopback needs "
        "WHISPER_ALLOW_UNAUTHENTICATED.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", alias="LOG_LEVEL", description="How much is logged."
    )
    shutdown_grace_s: float = Field(
        20.0,
        alias="WHISPER_SHUTDOWN_GRACE_S",
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that running work gets to finish after SIGTERM.",
    )
    exit_with_parent: bool = Field(
        False,
        alias="WHISPER_EXIT_WITH_PARENT",
        description="End, as after SIGTERM, when the process that started the server has ended.",
    )
    parent_pid: int = Field(
        0,
        alias="WHISPER_PARENT_PID",
        ge=0,
        le=2**31 - 1,  # the numbers of processes are C's int, or less
        description="End, as after SIGTERM, when this process has ended, parent or not; 0: none.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("host")
    @classmethod
    def _is_name(cls, value: str) -> str:
        """Check what a resolver would raise on: empty labels, and labels of more than 63 characters."""
        try:
            encoded = value.encode("idna")
        except UnicodeError:
            encoded = b""
        if not 0 < len(encoded) <= MAX_HOST_BYTES:
            raise ValueError("this is neither an address nor the name of a host")
        return value


class Settings(JobSettings, ModelSettings, ClientSettings, ProcessSettings, BaseSettings):
    """What the operator decided; frozen."""

    # Fields are collected from the last base to the first: the order of the docs.
    model_config = SettingsConfigDict(
        frozen=True, env_file=".env", env_file_encoding="utf-8", extra="ignore", populate_by_name=True
    )
    _notices: tuple[str, ...] = PrivateAttr(())

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Take values as files and shells hand them on: white space around them does not count.

        Around the key it is refused, because a key without it may be another secret than the operator has
        stored; and so are control characters anywhere, which no value has on purpose.
        """
        if not isinstance(value, str):
            return value
        plain = value.strip()
        if info.field_name == "api_key" and plain != value:
            raise ValueError(
                "it begins or ends with white space or a line break, which clients do not send"
                " (to store a secret use `printf %s`, not `echo`)"
            )
        if any(unicodedata.category(character) == "Cc" for character in plain):
            raise ValueError("it has a line break, a NUL or another control character in it")
        return plain

    @property
    def notices(self) -> tuple[str, ...]:
        """Lines that tell the operator of settings to be changed; for an entry point to log."""
        return self._notices


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `overrides` (field name -> value, from flags) win over the environment.

    Raises:
        ConfigError: one line that names the variable, its value and what is wrong with it.
    """
    variables = {name: field.alias or name for name, field in Settings.model_fields.items()}
    variables |= {renamed.name: renamed.old for renamed in RENAMED}
    given = {variables[name]: value for name, value in (overrides or {}).items()}
    names = dict(variables)  # what an error calls a setting, by field name or variable
    try:
        used = list(old_values([given, *_environment()]))
        for renamed, value, targets in used:
            given.pop(renamed.old, None)
            current = _converted(renamed, value)
            for target in targets if current is not None else ():
                if target not in given:
                    given[target] = current
                    names[target] = renamed.old
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        variable = str(first["loc"][0]) if first["loc"] else "settings"
        raise _config_error(names.get(variable, variable), error) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env cannot be read: {error}") from error
    settings._notices = tuple(each.renamed.notice for each in used)
    return settings


def log_notices(settings: Settings) -> None:
    """Log a line for each setting that the operator should change; call it once logging is set up."""
    for notice in settings.notices:
        log.warning("%s", notice)


def _environment() -> Iterator[dict[str, str]]:
    """Yield the variables of the environment, then those of `.env`."""
    for source in (EnvSettingsSource(Settings), DotEnvSettingsSource(Settings)):
        yield {name.upper(): value for name, value in source.env_vars.items() if value is not None}


def _converted(renamed: Renamed, value: Any) -> Any:
    """Return the value that the new names take. Raises as `load_settings`."""
    try:
        return renamed.convert(value)
    except ValidationError as error:
        raise _config_error(renamed.old, error) from error


def _config_error(variable: str, error: ValidationError) -> ConfigError:
    """Say in one line what is wrong with a variable; secrets are never shown."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")[:MAX_REASON_CHARS]
    shown = "" if variable in _SECRETS else f" (got {str(first['input'])[:80]!r})"
    return ConfigError(f"{variable}: {reason}{shown}")
