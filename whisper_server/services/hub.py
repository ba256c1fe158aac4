"""Brings a model's files from the hub into the cache, and finds them there without asking anybody.

A finished download is recorded in a marker file (commit, and the size of every file); only what is
recorded is ever used, and then no socket is opened. The transfer itself is huggingface_hub's; which
files, in what state, and what an error means is decided here. HF_ENDPOINT, HF_TOKEN and the other
variables of huggingface_hub hold.

    <cache>/hub/<owner>--<name>/<revision>.json    the marker
    <cache>/hub/<owner>--<name>/<commit>/          the files
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from whisper_server.core.errors import ModelUnavailable, WhisperServerError
from whisper_server.services.hub_errors import explain
from whisper_server.services.hub_files import COMMIT, choose, is_intact, record, recorded

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

    from whisper_server.services.catalog import ModelSource

log = logging.getLogger(__name__)

METADATA_TIMEOUT_S = 5.0  # for the hub to connect and to answer: a request waits for it
DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"

# No progress bars on stderr, no reports, and one protocol whose files stay in our cache folder.
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
}


def fetch(
    source: ModelSource,
    cache_dir: Path,
    *,
    offline: bool = False,
    timeout_s: float = METADATA_TIMEOUT_S,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return a folder with the repository's files, downloading them where the cache lacks them; blocks.

    What was downloaded once is used for ever; a branch is not looked up again. `on_progress` gets
    (bytes done, bytes in all), from this thread, and ends the download by raising.

    Raises:
        ModelUnavailable: offline, the hub does not answer within `timeout_s`, it does not have the model, the
            transfer broke off, or the cache cannot be written. Nothing of it is taken for whole later.
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
    try:
        return _Download(source, marker.parent, endpoint.rstrip("/"), timeout_s, on_progress).run(marker)
    except WhisperServerError:
        raise
    except Exception as error:
        raise explain(error, source, endpoint) from error


def marker_of(source: ModelSource, cache_dir: Path) -> Path:
    """Return where a finished download of `source` is recorded."""
    assert source.repo is not None
    home = cache_dir / "hub" / source.repo.replace("/", "--")
    return home / f"{quote(source.revision or DEFAULT_REVISION, safe='')}.json"


class _Download:
    """One attempt to bring a repository into the cache."""

    def __init__(
        self,
        source: ModelSource,
        home: Path,
        endpoint: str,
        timeout_s: float,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._source = source
        self._repo = str(source.repo)
        self._home = home
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._on_progress = on_progress

    def run(self, marker: Path) -> Path:
        """Download what is missing, check it, record it, and return its folder."""
        for variable, value in _QUIET.items():  # read when huggingface_hub is imported
            os.environ.setdefault(variable, value)
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # noqa: PLC0415

        self._home.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(self._home / ".lock"):  # of two processes, one downloads and the other waits
            return recorded(marker) or self._download(marker)

    def _download(self, marker: Path) -> Path:
        started = time.monotonic()
        commit, files = self._listing()
        folder = self._home / commit
        folder.mkdir(parents=True, exist_ok=True)
        total_bytes = sum(file.size or 0 for file in files)
        self._check_space(folder, total_bytes)
        log.info("downloading %s: %d files, %.1f MB", self._repo, len(files), total_bytes / 1e6)
        progress = _Progress(self._repo, total_bytes, self._on_progress)
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
            self._repo, revision=self._source.revision, files_metadata=True, timeout=self._timeout_s
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

    def _get(self, file: RepoSibling, commit: str, folder: Path, progress: _Progress) -> None:
        """Download one file where it is missing, and check it against the hub's checksum."""
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  (only when a model is downloaded)

        extra: dict[str, Any] = {}
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # from huggingface_hub 1 on
            extra["tqdm_class"] = progress.bar
        hf_hub_download(
            self._repo,
            file.rfilename,
            revision=commit,
            local_dir=folder,
            endpoint=self._endpoint,
            etag_timeout=self._timeout_s,
            **extra,
        )
        path = folder / file.rfilename
        if not is_intact(path, file):
            path.unlink()
            raise ModelUnavailable(
                f"The model {self._source.name!r} cannot be had: {file.rfilename} arrived damaged. Try again."
            )
        progress.finish(path.stat().st_size)


class _Progress:
    """Counts bytes, tells the caller, and logs every tenth."""

    def __init__(self, name: str, total_bytes: int, on_progress: Callable[[int, int], None] | None) -> None:
        self._name = name
        self._total_bytes = max(1, total_bytes)
        self._on_progress = on_progress
        self._finished_bytes = 0  # of whole files
        self._current_bytes = 0  # of the file on its way
        self._tenths = 0

    def finish(self, size_bytes: int) -> None:
        """Count a whole file in place of its parts."""
        self._finished_bytes += size_bytes
        self._current_bytes = 0
        self.add(0)

    def add(self, count_bytes: int) -> None:
        """Count a part of the file on its way."""
        self._current_bytes += count_bytes
        done_bytes = min(self._finished_bytes + self._current_bytes, self._total_bytes)
        tenths = done_bytes * 10 // self._total_bytes
        if tenths > self._tenths:
            self._tenths = tenths
            log.info("downloading %s: %d %%", self._name, tenths * 10)
        if self._on_progress is not None:
            self._on_progress(done_bytes, self._total_bytes)

    def bar(self, **_: object) -> _Bar:
        """Stand in for the class of progress bars that huggingface_hub would draw."""
        return _Bar(self.add)


class _Bar:
    """As much of a tqdm bar as huggingface_hub uses."""

    def __init__(self, add: Callable[[int], None]) -> None:
        self._add = add

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        """Draw nothing."""

    def update(self, count: float | None = 1) -> None:
        self._add(int(count or 0))
