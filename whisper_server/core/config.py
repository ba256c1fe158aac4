"""Settings: every value an operator can set, from the environment, `.env` and flags (flags win).

This module and the groups that it puts together own names, defaults, bounds and the sentence that explains
each; the settings table of the docs and the flags of the scripts are made from the class. There is no
module-level instance: an entry point reads the settings once and hands them down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from whisper_server.core.errors import ConfigError
from whisper_server.core.settings.clients import ClientSettings
from whisper_server.core.settings.models import ModelSettings


class ProcessSettings(BaseModel):
    """What the server process does with itself."""

    host: str = Field("127.0.0.1", alias="WHISPER_SERVER_HOST", description="Address to listen on.")
    port: int = Field(
        8089,
        alias="WHISPER_SERVER_PORT",
        ge=0,
        le=65535,
        description="Port to listen on; 0 takes a free one.",
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
        description="End, as after SIGTERM, when this process has ended, parent or not; 0: none.",
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value


class Settings(ModelSettings, ClientSettings, ProcessSettings, BaseSettings):
    """What the operator decided; frozen, so that nobody decides again."""

    # The bases are read last first: so the settings stand in the docs.
    model_config = SettingsConfigDict(
        frozen=True, env_file=".env", env_file_encoding="utf-8", extra="ignore", populate_by_name=True
    )


def load_settings(overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `overrides` (field name -> value, from flags) win over the environment.

    Raises:
        ConfigError: one line that names the variable, its value and what is wrong with it.
    """
    aliases = {name: field.alias or name for name, field in Settings.model_fields.items()}
    given = {aliases[name]: value for name, value in (overrides or {}).items()}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        variable = str(first["loc"][0]) if first["loc"] else "settings"
        variable = aliases.get(variable, variable)
        reason = first["msg"].removeprefix("Value error, ")
        shown = "" if variable == "WHISPER_API_KEY" else f" (got {str(first['input'])[:80]!r})"
        raise ConfigError(f"{variable}: {reason}{shown}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env cannot be read: {error}") from error
