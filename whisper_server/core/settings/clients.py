"""Settings about clients: which may call, and how much of the server they may take up.

A part of `core.config`, which reads them.
"""

from __future__ import annotations

from pydantic import BaseModel, Field, field_validator

from whisper_server.core.settings.origins import DEFAULT_ORIGINS, as_browsers_write_them
from whisper_server.core.settings.types import CommaList

MAX_SECONDS = 10**9  # 31 years: no limit, for those who want none


class ClientSettings(BaseModel):
    """What clients may do."""

    max_audio_file_size_mb: int = Field(
        25, alias="MAX_AUDIO_FILE_SIZE_MB", ge=1, le=1024 * 1024, description="Largest audio file, in MiB."
    )
    max_audio_seconds: int = Field(
        4 * 3600,
        alias="MAX_AUDIO_SECONDS",
        ge=1,
        le=MAX_SECONDS,
        description="Longest audio, in seconds of playing time.",
    )
    allowed_origins: CommaList = Field(
        DEFAULT_ORIGINS,
        alias="ALLOWED_ORIGINS",
        description="Web pages whose scripts may call the server, comma-separated, `*` for any host or "
        "port: `https://*.example.org`, `chrome-extension://*`, `null`; `*` alone for all. `default` adds "
        "what holds without the setting: pages of this machine on any port, and web views of applications.",
    )
    allowed_hosts: CommaList = Field(
        (),
        alias="ALLOWED_HOSTS",
        description="Names the server is reached by, comma-separated, `*.example.org` or `*` for all. "
        "localhost, IP addresses and the name it listens on are always allowed.",
    )
    api_key: str = Field(
        "", alias="WHISPER_API_KEY", repr=False, description="Bearer key that clients must send; empty: none."
    )
    allow_unauthenticated: bool = Field(
        False,
        alias="WHISPER_ALLOW_UNAUTHENTICATED",
        description="Serve other machines without a key; otherwise an address beyond loopback needs one.",
    )
    queue_requests: int = Field(
        128,
        alias="WHISPER_QUEUE_REQUESTS",
        ge=1,
        le=10_000,
        description="Requests with audio at once, running and waiting; one more gets a 429.",
    )
    queue_seconds: int = Field(
        8 * 3600,  # twice the longest file: one that runs does not keep the next one out
        alias="WHISPER_QUEUE_SECONDS",
        ge=1,
        le=MAX_SECONDS,
        description="Seconds of audio that may wait at once; more gets a 429. One file is never too long.",
    )
    queue_mb: int = Field(
        1024,
        alias="WHISPER_QUEUE_MB",
        ge=1,
        le=1024 * 1024,
        description="Uploads held in memory at once, in MiB; more gets a 429. One largest file always fits."
        " Where the machine, the container or the process has less memory left, so do fewer.",
    )
    web: bool = Field(True, alias="WHISPER_WEB", description="Show the web page at `/` to browsers.")
    realtime_idle_s: float = Field(
        900.0,
        alias="WHISPER_REALTIME_IDLE_S",
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds after which a realtime session whose client sends nothing is closed.",
    )
    stall_timeout_s: float = Field(
        60.0,
        alias="WHISPER_STALL_TIMEOUT_S",
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that a client may keep the server waiting, for an upload or until it takes a "
        "reply. Then the upload gets a 408, and the connection is closed.",
    )
    min_bytes_per_s: int = Field(
        1000,  # speech that is sent while it is recorded, in Opus at 8 kbit/s
        alias="WHISPER_MIN_BYTES_PER_S",
        ge=0,
        le=1024 * 1024,
        description="Bytes per second that earn a client more of that time: one that is slower for long is "
        "cut off too. 0: any byte earns all of it.",
    )
    header_timeout_s: float = Field(
        20.0,
        alias="WHISPER_HEADER_TIMEOUT_S",
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds in which the headers of a request must be complete, from the connection on, or "
        "from its first byte on a connection that had one before.",
    )
    keep_alive_s: float = Field(
        75.0,  # longer than most clients' own: a request that is sent while the server closes is lost
        alias="WHISPER_KEEP_ALIVE_S",
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds that a connection stays open between two requests.",
    )
    max_connections: int = Field(
        512,
        alias="WHISPER_MAX_CONNECTIONS",
        ge=1,
        le=65_536,
        description="Connections at once; one more closes the one that has been without a request for the "
        "longest time. Never fewer than twice WHISPER_QUEUE_REQUESTS.",
    )

    @field_validator("allowed_origins")
    @classmethod
    def _as_browsers_write_them(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return as_browsers_write_them(value)

    @field_validator("api_key")
    @classmethod
    def _as_clients_send_it(cls, value: str) -> str:
        if not _is_utf8(value):
            raise ValueError("it is not UTF-8")
        return value

    @property
    def max_audio_bytes(self) -> int:
        """Largest audio file in bytes."""
        return self.max_audio_file_size_mb * 1024 * 1024

    @property
    def queue_bytes(self) -> int:
        """Bytes of uploads held at once: what is set, but never less than the largest file in base64."""
        return max(self.queue_mb * 1024 * 1024, self.max_audio_bytes * 4 // 3 + 1024 * 1024)

    @property
    def connection_limit(self) -> int:
        """Connections at once: what is set, but never so few that requests with audio take all of them."""
        return max(self.max_connections, 2 * self.queue_requests)


def _is_utf8(text: str) -> bool:
    """Tell whether a variable's bytes were UTF-8: what is not comes as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
