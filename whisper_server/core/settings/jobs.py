"""Settings about jobs: where they are kept, how much of them, and which addresses they may lead to.

A part of `core.config`, which reads them.
"""

from __future__ import annotations

import base64
from pathlib import Path

from pydantic import BaseModel, Field, ValidationInfo, field_validator

from whisper_server.core.settings.types import CommaList

NO_JOBS = "none"


class JobSettings(BaseModel):
    """What requests with `background=true` may do."""

    job_store: str = Field(
        "",
        alias="WHISPER_JOB_STORE",
        repr=False,
        description="Where jobs are kept. Empty: SQLite in the folder `jobs` of the cache folder; "
        "`postgresql+psycopg://user:password@host/name`: there (the extra `postgresql`), for "
        "servers on several machines; `none`: no jobs.",
    )
    jobs_at_once: int = Field(
        2,
        alias="WHISPER_JOBS_AT_ONCE",
        ge=1,
        le=64,
        description="Jobs that one server runs at once, beside other requests and behind them.",
    )
    job_limit: int = Field(
        1000, alias="WHISPER_JOB_LIMIT", ge=1, le=10**6, description="Unfinished jobs; one more gets a 429."
    )
    job_seconds: int = Field(
        7 * 24 * 3600,
        alias="WHISPER_JOB_SECONDS",
        ge=1,
        le=10**9,
        description="Seconds of audio that unfinished jobs may have left; more gets a 429. One file is never "
        "too long.",
    )
    job_mb: int = Field(
        4096,
        alias="WHISPER_JOB_MB",
        ge=1,
        le=10**7,
        description="What jobs may take on the disk, in MiB: uploads and results. For a new one the oldest "
        "finished ones are removed; where uploads alone are more, it gets a 429. One largest file always "
        "fits.",
    )
    job_keep_hours: float = Field(
        7 * 24.0,
        alias="WHISPER_JOB_KEEP_HOURS",
        gt=0,
        le=10**6,
        allow_inf_nan=False,
        description="Hours after which a finished job is removed, and an unfinished one has expired.",
    )
    file_url_hosts: CommaList = Field(
        (),
        alias="WHISPER_FILE_URL_HOSTS",
        description="Hosts that `file_url` may name, comma-separated: names, `*.example.org`, `*`; addresses "
        "and networks (`10.0.0.0/8`). A name may lead to public addresses, and to others that are listed.",
    )
    file_url_timeout_s: float = Field(
        600.0,
        alias="WHISPER_FILE_URL_TIMEOUT_S",
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds in which the file of a `file_url` must be there.",
    )
    callback_hosts: CommaList = Field(
        (),
        alias="WHISPER_CALLBACK_HOSTS",
        description="Hosts that `callback_url` may name, written as WHISPER_FILE_URL_HOSTS.",
    )
    callback_secret: str = Field(
        "",
        alias="WHISPER_CALLBACK_SECRET",
        repr=False,
        validate_default=True,
        description="What callbacks are signed with (Standard Webhooks): `whsec_` and the base64 of 24 to 64 "
        "random bytes.",
    )

    @field_validator("callback_secret")
    @classmethod
    def _is_secret(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("callback_hosts"):
            raise ValueError("callbacks are signed: WHISPER_CALLBACK_HOSTS needs it")
        try:
            size = len(base64.b64decode(value.removeprefix("whsec_"), validate=True))
        except ValueError:
            size = 0
        if value and not (value.startswith("whsec_") and 24 <= size <= 64):
            raise ValueError("this is not `whsec_` and the base64 of 24 to 64 bytes")
        return value

    @field_validator("job_store")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value.lower() == NO_JOBS:
            return NO_JOBS
        if value and not value.startswith(("postgresql", "sqlite:")):
            raise ValueError("this is neither `none` nor a URL of PostgreSQL or SQLite")
        return value

    @property
    def has_jobs(self) -> bool:
        """Whether jobs are taken."""
        return self.job_store != NO_JOBS

    @property
    def job_bytes(self) -> int:
        """What jobs may take on the disk, as it is set."""
        return self.job_mb * 1024 * 1024


def job_folder(cache_dir: Path) -> Path:
    """Return the folder of uploads, locks and the embedded database."""
    return cache_dir / "jobs"


def job_database(folder: Path) -> Path:
    """Return the file of the embedded database in the folder of jobs."""
    return folder / "jobs.sqlite3"
