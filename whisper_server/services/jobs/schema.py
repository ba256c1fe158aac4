"""The tables of the job store, and how a database is opened: SQLite in a file, or PostgreSQL by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    extract,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from whisper_server.core.errors import ConfigError

VERSION = 1
BUSY_TIMEOUT_S = 30  # in which another process ends its transaction
_LOCK = 0x77686973  # of PostgreSQL's advisory locks: one transaction at a time that counts before it adds
_WRITES = "writes"  # option of a connection: its transaction takes the lock for writing at once

metadata = MetaData()

meta = Table("whisper_meta", metadata, Column("name", String(32), primary_key=True), Column("value", Text))

jobs = Table(
    "whisper_jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("in_progress_at", Double),
    Column("cancelling_at", Double),
    Column("ended_at", Double),
    Column("seconds_total", Double),
    Column("seconds_done", Double, nullable=False, default=0.0),
    Column("resumed_at", Double),
    Column("resumed_s", Double, nullable=False, default=0.0),
    Column("n_segments", Integer, nullable=False, default=0),
    Column("upload_bytes", BigInteger, nullable=False, default=0),
    Column("result_bytes", BigInteger, nullable=False, default=0),
    Column("error", Text),
    Column("outcome", Text),
    Column("owner", String(128)),
    Column("lease_until", Double),
    Column("taken", Integer, nullable=False, default=0),
    Column("next_try_at", Double, nullable=False, default=0.0),
    Column("file_url", Text),
    Column("callback_url", Text),
    Column("callback_attempts", Integer, nullable=False, default=0),
    Column("callback_next_at", Double),
)
Index("whisper_jobs_by_status", jobs.c.status, jobs.c.created_at)
Index("whisper_jobs_by_time", jobs.c.created_at, jobs.c.id)
Index("whisper_jobs_by_callback", jobs.c.callback_next_at)

segments = Table(
    "whisper_job_segments",
    metadata,
    Column("job", String(64), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("text", Text, nullable=False),
    Column("data", Text, nullable=False),
)

windows = Table(
    "whisper_job_windows",
    metadata,
    Column("job", String(64), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("data", Text, nullable=False),
)

keys = Table(
    "whisper_job_keys",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("request", String(64), nullable=False),
    Column("job", String(64), nullable=False, index=True),
)

uploads = Table(
    "whisper_job_uploads",
    metadata,
    Column("job", String(64), primary_key=True),
    Column("part", Integer, primary_key=True, autoincrement=False),  # from 0
    Column("data", LargeBinary, nullable=False),
)


def sqlite_url(file: Path) -> str:
    """Return the URL of the embedded database."""
    return f"sqlite:///{file}"


def open_database(url: str) -> Engine:
    """Connect, and make the tables where there are none; blocks.

    Raises:
        ConfigError: there is no such database, or one of another version of the tables.
    """
    try:
        engine = _engine(url)
        with writing(engine) as connection:
            metadata.create_all(connection)
            found = connection.scalar(select(meta.c.value).where(meta.c.name == "version"))
            if found is None:
                connection.execute(insert(meta).values(name="version", value=str(VERSION)))
    except (SQLAlchemyError, ImportError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"WHISPER_JOB_STORE: the database cannot be opened: {reason}") from error
    if found not in (None, str(VERSION)):
        engine.dispose()
        raise ConfigError(f"WHISPER_JOB_STORE: its tables are of version {found}, this server has {VERSION}")
    return engine


def _engine(url: str) -> Engine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True, pool_size=4, hide_parameters=True)
    arguments = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    # A connection for each transaction: a pooled one that a thread gives back after the end stays open.
    engine = create_engine(
        url, connect_args=arguments, poolclass=NullPool, hide_parameters=True
    )  # texts stay out of the log
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Let transactions begin where we say so, and readers go on beside a writer."""
    connection.isolation_level = None
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts before there is anything in the file
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Change something in one transaction; one at a time, because some count before they add."""
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        yield connection


def give_pages_back(engine: Engine) -> None:
    """Give the disk back what removed rows took; PostgreSQL does so by itself."""
    if engine.dialect.name == "sqlite":
        with closing(engine.raw_connection()) as connection:
            connection.cursor().executescript("PRAGMA incremental_vacuum")  # `execute` ends after a page


def now_of(connection: Connection) -> float:
    """Return the seconds since 1970 by the clock of the database: its servers may have others."""
    if connection.dialect.name == "sqlite":
        clock = (func.julianday("now") - 2440587.5) * 86400.0
    else:
        clock = extract("epoch", func.clock_timestamp())
    return float(connection.scalar(select(clock)) or 0.0)
