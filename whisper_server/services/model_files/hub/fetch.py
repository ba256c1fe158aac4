"""The download of one repository: the files of a model that the cache lacks, from the hub to the disk.

A finished download is recorded (`cache`); only what is recorded is ever used, and then no socket is opened.
The listing and the connection are huggingface_hub's; which files, in what state, and what an error means is
decided here. HF_ENDPOINT, HF_TOKEN and the other variables of huggingface_hub hold. A download that ended
early is resumed by the next one.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from whisper_server.core.errors import ModelNotOnDisk, ModelUnavailable, WhisperServerError
from whisper_server.core.system.durable import sync_file, sync_folder
from whisper_server.services.model_files.hub.cache import COMMIT, marker_of, record, recorded
from whisper_server.services.model_files.hub.errors import explain
from whisper_server.services.model_files.hub.files import choose, is_intact
from whisper_server.services.model_files.hub.lock import HANGS_S, DownloadHangs, download_lock
from whisper_server.services.model_files.hub.transfer import STALL_S, download_file, part_of

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

    from whisper_server.core.types import ModelSource

log = logging.getLogger(__package__)

METADATA_TIMEOUT_S = 5.0  # for the hub to connect and to answer: a request waits for it
DEFAULT_ENDPOINT = "https://huggingface.co"

_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

OnProgress: TypeAlias = Callable[[int, int], None]  # bytes done, bytes in all; ends the download by raising


def download_repository(
    source: ModelSource,
    cache_dir: Path,
    *,
    offline: bool = False,
    timeout_s: float = METADATA_TIMEOUT_S,
    stall_s: float = STALL_S,
    hangs_s: float = HANGS_S,
    on_progress: OnProgress | None = None,
    file: str | None = None,
) -> Path:
    """Return a folder with the repository's files, downloading them where the cache lacks them; blocks.

    Those are a model of Whisper's, or the one `file` that is named. What was downloaded once is used for
    ever; a branch is not looked up again. `on_progress` gets (bytes done, bytes in all), from this thread,
    and ends the download by raising.

    Raises:
        ModelUnavailable: offline, the hub does not answer within `timeout_s` or sends nothing for `stall_s`,
            it does not have the model, the transfer broke off, the cache cannot be written, or another
            process downloads it and has got no further for `hangs_s`. Nothing of it is
            taken for whole later.
    """
    marker = marker_of(source, cache_dir, file)
    folder = recorded(marker)
    if folder is not None:
        return folder
    if offline:
        raise ModelNotOnDisk(
            f"The model {source.name!r} is not in the cache and WHISPER_OFFLINE forbids to download it."
        )
    endpoint = os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    timeouts = _Timeouts(timeout_s, stall_s, hangs_s)
    try:
        return _RepositoryDownload(
            source, marker, endpoint.rstrip("/"), timeouts, on_progress, file=file
        ).run()
    except WhisperServerError:
        raise
    except DownloadHangs as error:
        raise ModelUnavailable(f"The model {source.name!r} cannot be downloaded: {error}.") from error
    except Exception as error:
        raise explain(error, source, endpoint) from error


@dataclass(frozen=True, slots=True)
class _Timeouts:
    """Seconds, each without any progress."""

    answer_s: float  # for the hub to connect and to answer
    stall_s: float  # without a byte of a file
    hangs_s: float  # without any progress of another process


class _RepositoryDownload:
    """One attempt to download a repository into the cache."""

    def __init__(
        self,
        source: ModelSource,
        marker: Path,
        endpoint: str,
        timeouts: _Timeouts,
        on_progress: OnProgress | None,
        *,
        file: str | None,
    ) -> None:
        self._source = source
        self._file = file
        self._repo = str(source.repo)
        self._marker = marker
        self._home = marker.parent
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._on_progress = on_progress

    def run(self) -> Path:
        """Download what is missing, check it, record it, and return its folder."""
        for variable, value in _QUIET.items():  # read when huggingface_hub is imported
            os.environ.setdefault(variable, value)
        self._home.mkdir(parents=True, exist_ok=True)
        with download_lock(self._home, self._repo, hangs_s=self._timeouts.hangs_s):
            return recorded(self._marker) or self._download_files()

    def _download_files(self) -> Path:
        started = time.monotonic()
        commit, files = self._listing()
        folder = self._home / commit
        folder.mkdir(parents=True, exist_ok=True)
        total_bytes = sum(file.size or 0 for file in files)
        self._check_space(folder, total_bytes)
        log.info("downloading %s: %d files, %.1f MB", self._repo, len(files), total_bytes / 1e6)
        progress = _Progress(self._repo, total_bytes, self._on_progress)
        for file in files:
            self._ensure_file(file, commit, folder, progress)
        sizes = {file.rfilename: (folder / file.rfilename).stat().st_size for file in files}
        sync_folder(folder)
        record(self._marker, commit, sizes)
        log.info("downloaded %s in %.1f s", self._repo, time.monotonic() - started)
        return folder

    def _listing(self) -> tuple[str, list[RepoSibling]]:
        """Ask the hub for the commit and its files; return those that are needed."""
        from huggingface_hub import HfApi  # noqa: PLC0415  (only when a model is downloaded)

        info = HfApi(endpoint=self._endpoint).model_info(
            self._repo, revision=self._source.revision, files_metadata=True, timeout=self._timeouts.answer_s
        )
        commit = info.sha or ""
        if not COMMIT.fullmatch(commit):
            raise ModelUnavailable(f"The hub names no commit for {self._repo!r}.")
        siblings = {file.rfilename: file for file in info.siblings or ()}
        if self._file is not None and self._file not in siblings:
            raise ModelUnavailable(f"{self._repo} has no file {self._file!r}.")
        chosen = choose(siblings) if self._file is None else [self._file]
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

    def _ensure_file(self, file: RepoSibling, commit: str, folder: Path, progress: _Progress) -> None:
        """Download one file where it is missing, and check it against the hub's checksum."""
        from huggingface_hub import hf_hub_url  # noqa: PLC0415  (only when a model is downloaded)

        path = folder / file.rfilename
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.is_file() and is_intact(path, file)):
            url = hf_hub_url(self._repo, file.rfilename, revision=commit, endpoint=self._endpoint)
            part = download_file(url, path, file.size, self._timeouts.stall_s, progress.arrived)
            if not is_intact(part, file):
                part.unlink()
                raise ModelUnavailable(
                    f"The model {self._source.name!r} cannot be downloaded: {file.rfilename} arrived damaged."
                    " Try again."
                )
            sync_file(part)  # a power cut leaves files of the right size without what was in them
            part.replace(path)
        part_of(path).unlink(missing_ok=True)
        progress.finish(path.stat().st_size)


class _Progress:
    """Counts bytes over all files of a download: for `on_progress`, and for the log at every tenth."""

    def __init__(self, repo: str, total_bytes: int, on_progress: OnProgress | None) -> None:
        self._repo = repo
        self._total_bytes = max(1, total_bytes)
        self._on_progress = on_progress
        self._finished_bytes = 0  # of whole files
        self._tenths = 0

    def finish(self, size_bytes: int) -> None:
        """Count a whole file."""
        self._finished_bytes += size_bytes
        self.arrived(0)

    def arrived(self, current_bytes: int) -> None:
        """Take how many bytes of the current file are on the disk."""
        done_bytes = min(self._finished_bytes + current_bytes, self._total_bytes)
        tenths = done_bytes * 10 // self._total_bytes
        if tenths > self._tenths:
            self._tenths = tenths
            log.info("downloading %s: %d %%", self._repo, tenths * 10)
        if self._on_progress is not None:
            self._on_progress(done_bytes, self._total_bytes)
