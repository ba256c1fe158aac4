"""Settings: every value an operator can set, from the environment, `.env` and flags (flags win).

Owns names, defaults, bounds and the sentence that explains each; the settings table of the docs and
the flags of the scripts are made from this class. There is no module-level instance: an entry point
reads the settings once and hands them down.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from whisper_server.core.errors import ConfigError
from whisper_server.core.folders import default_cache_dir

ComputeType = Literal[
    "auto", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32"
]
CommaList = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What the operator decided; frozen, so that nobody decides again."""

    model_config = SettingsConfigDict(
        frozen=True, env_file=".env", env_file_encoding="utf-8", extra="ignore", populate_by_name=True
    )

    host: str = Field("127.0.0.1", alias="WHISPER_SERVER_HOST", description="Address to listen on.")
    port: int = Field(
        8089,
        alias="WHISPER_SERVER_PORT",
        ge=0,
        le=65535,
        description="Port to listen on; 0 takes a free one.",
    )
    max_audio_file_size_mb: int = Field(
        25, alias="MAX_AUDIO_FILE_SIZE_MB", ge=1, le=1024 * 1024, description="Largest audio file, in MiB."
    )
    max_audio_seconds: int = Field(
        4 * 3600, alias="MAX_AUDIO_SECONDS", ge=1, description="Longest audio, in seconds of playing time."
    )
    allowed_origins: CommaList = Field(
        ("http://localhost:3000",),
        alias="ALLOWED_ORIGINS",
        description="Web pages whose scripts may call the server, comma-separated; `*` for all.",
    )
    allowed_hosts: CommaList = Field(
        (),
        alias="ALLOWED_HOSTS",
        description="Names the server is reached by, comma-separated, `*.example.org` or `*` for all. "
        "localhost, IP addresses and the name it listens on are always allowed.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field(
        "INFO", alias="LOG_LEVEL", description="How much is logged."
    )
    api_key: str = Field(
        "", alias="WHISPER_API_KEY", repr=False, description="Bearer key that clients must send; empty: none."
    )
    allow_unauthenticated: bool = Field(
        False,
        alias="WHISPER_ALLOW_UNAUTHENTICATED",
        description="Serve other machines without a key; otherwise an address beyond loopback needs one.",
    )

    model: str = Field(
        "whisper-1",
        alias="WHISPER_MODEL",
        description="Model for requests that name none: a name, or a model folder (named after the folder).",
    )
    models: CommaList = Field(
        (),
        alias="WHISPER_MODELS",
        description="Models added by the operator: `name=folder-or-repository`, comma-separated.",
    )
    preload: CommaList = Field(
        (), alias="WHISPER_PRELOAD", description="Models to load at start, comma-separated names."
    )
    max_models: int = Field(
        2,
        alias="WHISPER_MAX_MODELS",
        ge=1,
        le=64,
        description="Models kept in memory; the least recently used one goes.",
    )
    max_model_memory_mb: int = Field(
        0,
        alias="WHISPER_MAX_MODEL_MEMORY_MB",
        ge=0,
        le=1024 * 1024,
        description="Memory for all models together, in MiB: their weights and what they work with at the "
        "busiest moment (bench/README.md has figures); the least recently used one goes. 0: no limit.",
    )
    idle_unload_s: float = Field(
        -1.0,
        alias="WHISPER_IDLE_UNLOAD_S",
        ge=-1,
        le=31 * 86400,
        allow_inf_nan=False,
        description="Seconds after which a model that nobody uses leaves the memory, preloaded ones too; "
        "0: at once, -1: never.",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        alias="WHISPER_CACHE_DIR",
        description="Folder for downloaded and converted models.",
    )
    allow_delete: bool = Field(
        False,
        alias="WHISPER_ALLOW_DELETE",
        description="Let `DELETE /v1/models/{id}` delete downloaded files too; else it only frees memory.",
    )
    offline: bool = Field(False, alias="WHISPER_OFFLINE", description="Never open a socket to the model hub.")

    engine: Literal["auto", "ctranslate2", "torch", "fake"] = Field(
        "auto",
        alias="WHISPER_ENGINE",
        description="Inference engine. `auto`: `ctranslate2` wherever it runs, `torch` (an extra) for "
        "Apple's GPU and for several GPUs. `fake` answers without a model, for tests.",
    )
    device: str = Field(
        "auto",
        alias="WHISPER_DEVICE",
        pattern=r"^(auto|cpu|mps|cuda|cuda:\d+(,\s*cuda:\d+)*)$",
        description="Where the model runs: `auto`, `cpu`, `cuda`, `mps`, or GPUs by number, "
        "`cuda:0,cuda:1`, each with a whole model (engine `torch`, whose `cuda` is all GPUs).",
    )
    compute_type: ComputeType = Field(
        "auto",
        alias="WHISPER_COMPUTE_TYPE",
        description="Number format of the computation: auto (what the device does best), int8, int8_float32, "
        "int8_float16, int8_bfloat16, int16, float16, bfloat16 or float32.",
    )
    compile: bool = Field(
        False,
        alias="WHISPER_COMPILE",
        description="Let the engine `torch` compile its decoder while a model loads, which takes minutes.",
    )
    threads: int = Field(
        0, alias="WHISPER_THREADS", ge=0, le=1024, description="CPU threads for the model; 0: all cores."
    )
    beam_size: int = Field(
        5, alias="WHISPER_BEAM_SIZE", ge=1, le=16, description="Beams of the search; 1 is greedy and faster."
    )
    batch_timeout_s: float = Field(
        600.0,
        alias="WHISPER_BATCH_TIMEOUT_S",
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds after which a batch of windows counts as hung: its requests fail and the "
        "model is loaded anew; 0: never.",
    )
    vad: bool = Field(
        True,
        alias="WHISPER_VAD",
        description="Leave out what is not speech. Off: everything is decoded, singing and noise too.",
    )
    decode_workers: int = Field(
        2,
        alias="WHISPER_DECODE_WORKERS",
        ge=1,
        le=64,
        description="Threads that read audio and compute spectrograms.",
    )
    queue_requests: int = Field(
        128,
        alias="WHISPER_QUEUE_REQUESTS",
        ge=1,
        le=10_000,
        description="Requests with audio at once, running and waiting; one more gets a 429.",
    )
    queue_seconds: int = Field(
        8 * 3600,  # twice the longest file: one that runs does not keep out the next
        alias="WHISPER_QUEUE_SECONDS",
        ge=1,
        description="Seconds of audio that may wait at once; more gets a 429. One file is never too long.",
    )
    queue_mb: int = Field(
        1024,
        alias="WHISPER_QUEUE_MB",
        ge=1,
        le=1024 * 1024,
        description="Uploads held in memory at once, in MiB; more gets a 429. One largest file always fits.",
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

    @field_validator("allowed_origins", "allowed_hosts", "models", "preload", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("device", "engine", "compute_type", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("models")
    @classmethod
    def _have_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            name, separator, target = entry.partition("=")
            if not (separator and name.strip() and target.strip()):
                raise ValueError(f"{entry!r} is not of the form name=folder-or-repository")
        return value

    @field_validator("cache_dir")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        try:
            return value.expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    @field_validator("allowed_origins")
    @classmethod
    def _as_browsers_write_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Bring origins into the one form that browsers send: scheme and host, lower case, no slash."""
        for origin in value:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+/?", origin, re.IGNORECASE):
                raise ValueError(f"{origin!r} is no origin such as http://localhost:3000")
        return tuple(origin.lower().rstrip("/") for origin in value)

    @property
    def max_audio_bytes(self) -> int:
        """Largest audio file in bytes."""
        return self.max_audio_file_size_mb * 1024 * 1024

    @property
    def queue_bytes(self) -> int:
        """Bytes of uploads held at once: what is set, but never less than the largest file in base64."""
        return max(self.queue_mb * 1024 * 1024, self.max_audio_bytes * 4 // 3 + 1024 * 1024)

    @property
    def operator_models(self) -> dict[str, str]:
        """Name -> folder or repository, as the operator wrote them."""
        pairs = (entry.partition("=") for entry in self.models)
        return {name.strip(): target.strip() for name, _, target in pairs}


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
