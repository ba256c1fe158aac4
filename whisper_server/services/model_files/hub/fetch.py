"""Brings a model's files from the hub into the cache, and finds them there without asking anybody.

A finished download is recorded in a marker file (commit, and the size of every file); only what is
recorded is ever used, and then no socket is opened. The listing and the connection are huggingface_hub's;
which files, in what state, and what an error means is decided here. HF_ENDPOINT, HF_TOKEN and the other
variables of huggingface_hub hold. A download that ended early is gone on with by the next one.

    <cache>/hub/<owner>--<name>/<revision>.json    the marker
    <cache>/hub/<owner>--<name>/<commit>/          the files
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from whisper_server.core.errors import ModelUnavailable, WhisperServerError
from whisper_server.services.model_files.hub.errors import explain
from whisper_server.services.model_files.hub.files import COMMIT, choose, is_intact, record, recorded
from whisper_server.services.model_files.hub.hub_progress import OnProgress, Progress
from whisper_server.services.model_files.hub.lock import HANGS_S, OtherHangs, alone
from whisper_server.services.model_files.hub.transfer import STALL_S, part_of, receive

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

    from whisper_server.core.types import ModelSource

log = logging.getLogger(__package__)

METADATA_TIMEOUT_S = 5.0  # for the hub to connect and to answer: a request waits for it
DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"

_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def fetch(
    source: ModelSource,
    cache_dir: Path,
    *,
    offline: bool = False,
    timeout_s: float = METADATA_TIMEOUT_S,
    stall_s: float = STALL_S,
    hangs_s: float = HANGS_S,
    on_progress: OnProgress | None = None,
) -> Path:
    """Return a folder with the repository's files, downloading them where the cache lacks them; blocks.

    What was downloaded once is used for ever; a branch is not looked up again. `on_progress` gets
    (bytes done, bytes in all), from this thread, and ends the download by raising.

    Raises:
        ModelUnavailable: offline, the hub does not answer within `timeout_s` or sends nothing for `stall_s`,
            it does not have the model, the transfer broke off, the cache cannot be written, or another
            process downloads it and has brought nothing for `hangs_s`. Nothing of it is
            taken for whole later.
    """
    marker = marker_of(source, cache_dir)
    folder = recorded(marker)
    if folder is not None:
        return folder
    if offline:
        raise ModelUnavailable(
            f"The model {source.name!r} is not in the cache and WHISPER_OFFLINE forbids to download it."
        )
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    patience = _Patience(timeout_s, stall_s, hangs_s)
    try:
        return _Download(source, marker.parent, endpoint.rstrip("/"), patience, on_progress).run(marker)
    except WhisperServerError:
        raise
    except OtherHangs as error:
        raise ModelUnavailable(f"The model {source.name!r} cannot be had: {error}.") from error
    except Exception as error:
        raise explain(error, source, endpoint) from error


def marker_of(source: ModelSource, cache_dir: Path) -> Path:
    """Return where a finished download of `source` is recorded."""
    assert source.repo is not None
    home = cache_dir / "hub" / source.repo.replace("/", "--")
    return home / f"{quote(source.revision or DEFAULT_REVISION, safe='')}.json"


@dataclass(frozen=True, slots=True)
class _Patience:
    """How long to wait, in seconds."""

    answer_s: float  # for the hub to connect and to answer
    stall_s: float  # without a byte of a file
    hangs_s: float  # without anything that another process brings


class _Download:
    """One attempt to bring a repository into the cache."""

    def __init__(
        self,
        source: ModelSource,
        home: Path,
        endpoint: str,
        patience: _Patience,
        on_progress: OnProgress | None,
    ) -> None:
        self._source = source
        self._repo = str(source.repo)
        self._home = home
        self._endpoint = endpoint
        self._patience = patience
        self._on_progress = on_progress

    def run(self, marker: Path) -> Path:
        """Download what is missing, check it, record it, and return its folder."""
        for variable, value in _QUIET.items():  # read when huggingface_hub is imported
            os.environ.setdefault(variable, value)
        self._home.mkdir(parents=True, exist_ok=True)
        with alone(self._home, self._repo, hangs_s=self._patience.hangs_s):
            return recorded(marker) or self._download(marker)

    def _download(self, marker: Path) -> Path:
        started = time.monotonic()
        commit, files = self._listing()
        folder = self._home / commit
        folder.mkdir(parents=True, exist_ok=True)
        total_bytes = sum(file.size or 0 for file in files)
        self._check_space(folder, total_bytes)
        log.info("downloading %s: %d files, %.1f MB", self._repo, len(files), total_bytes / 1e6)
        progress = Progress(self._repo, total_bytes, self._on_progress)
        for file in files:
            self._get(file, commit, folder, progress)
        sizes = {file.rfilename: (folder / file.rfilename).stat().st_size for file in files}
        record(marker, commit, sizes)
        log.info("downloaded %s in %.1f s", self._repo, time.monotonic() - started)
        return folder

    def _listing(self) -> tuple[str, list[RepoSibling]]:
        """Ask the hub for the commit and its files; return those that are needed."""
        from huggingface_hub import HfApi  # noqa: PLC0415  (only when a model is downloaded)

        info = HfApi(endpoint=self._endpoint).model_info(
            self._repo, revision=self._source.revision, files_metadata=True, timeout=self._patience.answer_s
        )
        commit = info.sha or ""
        if not COMMIT.fullmatch(commit):
            raise ModelUnavailable(f"The hub names no commit for {self._repo!r}.")
        siblings = {file.rfilename: file for file in info.siblings or ()}
        chosen = choose(siblings)
        if not chosen:
            raise ModelUnavailable(
                f"The model {self._source.name!r} cannot be used: {self._repo} holds no weights in"
                " safetensors or CTranslate2 format, and pickled ones are never loaded."
            )
        return commit, [siblings[name] for name in chosen]

    def _check_space(self, folder: Path, total_bytes: int) -> None:
        there_bytes = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        needed_bytes = total_bytes - there_bytes
        free_bytes = shutil.disk_usage(folder).free
        if needed_bytes > free_bytes:
            raise ModelUnavailable(
                f"The model {self._source.name!r} needs {needed_bytes / 1e6:.0f} MB in WHISPER_CACHE_DIR,"
                f" where {free_bytes / 1e6:.0f} MB are free."
            )

    def _get(self, file: RepoSibling, commit: str, folder: Path, progress: Progress) -> None:
        """Bring one file where it is missing, and check it against the hub's checksum."""
        from huggingface_hub import hf_hub_url  # noqa: PLC0415  (only when a model is downloaded)

        path = folder / file.rfilename
        if not (path.is_file() and is_intact(path, file)):
            url = hf_hub_url(self._repo, file.rfilename, revision=commit, endpoint=self._endpoint)
            part = receive(url, path, file.size, self._patience.stall_s, progress.arrived)
            if not is_intact(part, file):
                part.unlink()
                raise ModelUnavailable(
                    f"The model {self._source.name!r} cannot be had: {file.rfilename} arrived damaged."
                    " Try again."
                )
            part.replace(path)
        part_of(path).unlink(missing_ok=True)
        progress.finish(path.stat().st_size)
