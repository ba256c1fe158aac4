"""A folder that can be loaded without fear: converted, tried once, and not damaged since.

The libraries are C++ and Rust, and a folder may be a stranger's: bad numbers end their process with a trap or
an abort, or keep it for ever. So a folder is converted and used for the first time in a process of its own
(`child.py`). What went well there is recorded on the disk, and from then on the server loads it itself, after
a look at the hashes. Conversions that rotted are made again; what the operator converted cannot be.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from whisper_server.core.errors import ModelUnavailable, Unavailable
from whisper_server.core.system.child_process import ChildFailed, Limits, run_in_child
from whisper_server.services.engines.checkpoint import broken, weight_files
from whisper_server.services.engines.ct2.convert import VERSION, cannot_write, conversion_of
from whisper_server.services.engines.ct2.folder import CONVERTED, MODEL_FILE, check_folder
from whisper_server.services.engines.ct2.seal import damaged_file
from whisper_server.services.engines.ct2.unfinished import remove_leftovers

if TYPE_CHECKING:
    from whisper_server.services.engines.base import EngineSpec

log = logging.getLogger(__name__)

CHILD_MODULE = "whisper_server.services.engines.ct2.child"
CHILD_WORD = "_model_process"  # starts the one-file program as such a process

# What the process may take, beside what follows from the size of the weights: stacks and arenas of threads
# count in full, used or not. float16 weights become float32, quantized ones are made beside them.
_DATA_BYTES, _DATA_BYTES_PER_CORE, _DATA_PER_WEIGHT = 2 << 30, 64 << 20, 8
# base, 290 MB, takes 6 s of processor time. The factors are for disks and processors that are far slower.
_CPU_S, _WEIGHT_BYTES_PER_CPU_S = 120, 2_000_000
_WALL_S, _WEIGHT_BYTES_PER_WALL_S = 300.0, 1_000_000


class _Request(NamedTuple):
    """What the process is asked for; paths are absolute."""

    folder: Path
    spec: EngineSpec
    cache_dir: Path
    quantization: str
    encoder: str | None


_tried: set[Path] = set()  # records that this process would have written


def prepared_folder(
    folder: Path, spec: EngineSpec, cache_dir: Path, quantization: str, encoder: str | None
) -> Path:
    """Return a CTranslate2 folder for the model in `folder` that was used once and is what it was; blocks.

    Raises:
        ModelUnavailable: it is no model, it ends the process that tries it, or the cache cannot be written.
    """
    target = conversion_of(folder, cache_dir, quantization, encoder)
    request = _Request(folder.absolute(), spec, cache_dir.absolute(), quantization, encoder)
    if target is None:
        _try_once(request)
        return folder
    name = damaged_file(target) if target.exists() else None
    if name is not None:
        log.warning("%s of what was made of %s is damaged; it is converted again", name, folder.name)
        _remove(target, folder)
    elif target.exists():
        return target
    _in_child(request)
    if name is not None and (again := damaged_file(target)) is not None:
        raise broken(folder, f"its conversion was damaged, and {again} of the new one is damaged too")
    return target


def _remove(target: Path, folder: Path) -> None:
    try:
        shutil.rmtree(target)
    except FileNotFoundError:  # another process is faster
        pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def _try_once(request: _Request) -> None:
    """Use an operator's own CTranslate2 folder once in another process, and again where it has changed."""
    folder = request.folder
    check_folder(folder)
    record = _record_of(request)
    if record in _tried or record.is_file():
        return
    _in_child(request)
    _tried.add(record)
    with suppress(OSError):  # a cache that cannot be written costs the next start the same again
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_name(f".{uuid.uuid4().hex}.tmp")
        temporary.write_text(json.dumps({"source": str(folder.resolve())}), encoding="utf-8")
        temporary.replace(record)
        if not folder.is_dir():  # deleted meanwhile
            record.unlink()


def _record_of(request: _Request) -> Path:
    """Return where it is recorded that these files were used well on this device."""
    folder, spec, cache_dir, *_ = request
    digest = hashlib.sha256(
        f"{VERSION} {spec.device} {spec.compute_type} {folder.resolve()}".encode("utf-8", "surrogateescape")
    )
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name)[:40]
    return cache_dir / CONVERTED / f"{plain}-tried-{digest.hexdigest()[:16]}.json"


def _in_child(request: _Request) -> None:
    """Convert the folder where needed and use the result once, in another process.

    Raises as `prepared_folder`.
    """
    folder, spec, cache_dir, *_ = request
    asked = {
        **request._asdict(),
        "folder": str(folder),
        "cache_dir": str(cache_dir),
        "spec": asdict(spec),
    }
    try:
        answer = run_in_child(CHILD_MODULE, CHILD_WORD, asked, _limits(folder, spec))
    except (OSError, RuntimeError) as error:
        log.exception("the process that tries models cannot be started")
        raise Unavailable("The process that tries models cannot be started; see the server's log.") from error
    except ChildFailed as failed:
        remove_leftovers(cache_dir / CONVERTED)
        raise _failure(folder, failed) from failed
    if message := answer.get("error"):
        raise ModelUnavailable(message)


def _failure(folder: Path, failed: ChildFailed) -> Unavailable:
    log.warning("the process that tries the model folder %s ended (%s)", folder, failed.ending)
    if failed.was_late:
        return broken(folder, "converting it or using it once takes too long, as a damaged model may")
    if not failed.is_crash:
        return ModelUnavailable(
            f"The model folder {folder.name!r} cannot be used now: the process that tries it was killed, most"
            " likely for lack of memory. Try again later."
        )
    return broken(
        folder,
        f"converting it or using it once crashes the library that does so ({failed.ending}); its files are"
        " damaged, were changed meanwhile, or are no Whisper model",
    )


def _limits(folder: Path, spec: EngineSpec) -> Limits:
    """Return what the process may take, by the size of the weights."""
    paths = [folder / MODEL_FILE] if (folder / MODEL_FILE).is_file() else weight_files(folder)
    weight_bytes = sum(path.stat().st_size for path in paths)
    data_bytes = _DATA_BYTES + _DATA_BYTES_PER_CORE * (os.cpu_count() or 1) + _DATA_PER_WEIGHT * weight_bytes
    return Limits(
        wall_s=_WALL_S + weight_bytes / _WEIGHT_BYTES_PER_WALL_S,
        cpu_s=_CPU_S + weight_bytes // _WEIGHT_BYTES_PER_CPU_S,
        data_bytes=data_bytes
        if spec.device == "cpu"
        else None,  # drivers of GPUs reserve what they never use
    )
