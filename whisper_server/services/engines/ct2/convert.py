"""Turns a Hugging Face Whisper folder into a CTranslate2 one, once, without torch or transformers.

The result equals what CTranslate2's own converter writes for the same folder (its WhisperLoader), and
a test holds it to that. The reason to have another one: the server needs neither of the two libraries
that the original runs on, which are 100 times its own size.

Converted folders live in `<cache>/converted`. Each is made under a temporary name and renamed into
place once it is on the disk, so that two processes may convert at once and neither a crash nor a power cut
leaves anything that looks whole.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.system.durable import sync_folder
from whisper_server.services.engines.audio_context import fingerprint
from whisper_server.services.engines.checkpoint import (
    Checkpoint,
    broken,
    load_tokenizer,
    read_config,
    read_json,
    vocabulary,
    weight_files,
)
from whisper_server.services.engines.ct2.folder import (
    CONVERTED,
    ENCODER_FILE,
    is_ctranslate2,
    is_whole,
)
from whisper_server.services.engines.ct2.seal import seal
from whisper_server.services.engines.ct2.unfinished import remove_leftovers, unfinished_folder
from whisper_server.services.engines.ct2.weights import set_config, whisper_spec

log = logging.getLogger(__name__)

VERSION = 3  # of what this module writes; raise it to have every model converted again
COPIED = ("generation_config.json", "preprocessor_config.json")


def ensure_converted(
    folder: Path,
    cache_dir: Path,
    quantization: str,
    encoder: str | None = None,
    try_out: Callable[[Path], None] = lambda _: None,
) -> Path:
    """Return a CTranslate2 folder for the model in `folder`; blocks, seconds to minutes the first time.

    A folder that is CTranslate2's already is returned as it is. `quantization` is one of CTranslate2's
    storage types: int8, float16, float32, ... With `encoder`, one of `encoder_graph.GRAPHS`, the folder
    gets an ONNX encoder, and model.bin only one encoder layer, which CTranslate2 wants to see: else its
    unused copy of the encoder would stand in memory. What was made gets its name once `try_out` has had it.

    Raises:
        ModelUnavailable: it is no Whisper model in safetensors or CTranslate2 format, it is damaged or was
            deleted meanwhile, or the cache cannot be written. So does whatever `try_out` raises.
    """
    target = conversion_of(folder, cache_dir, quantization, encoder)
    if target is None:
        return folder
    if not is_whole(target):
        try:
            remove_leftovers(target.parent)
            _convert(folder, target, quantization, encoder, try_out)
        except OSError as error:
            raise cannot_write(folder, error) from error
    return target


def conversion_of(folder: Path, cache_dir: Path, quantization: str, encoder: str | None) -> Path | None:
    """Return where the conversion of a folder lies, or will; None where the folder is CTranslate2's already.

    Raises as `ensure_converted`.
    """
    try:
        if is_ctranslate2(folder):
            if not encoder and (folder / ENCODER_FILE).is_file():
                raise broken(folder, "its encoder is for onnxruntime on CPUs, in int8 or float32")
            return None
        read_config(folder)
        return (
            cache_dir
            / CONVERTED
            / _key(folder, f"{quantization}-onnx-{encoder}" if encoder else quantization)
        )
    except OSError as error:
        raise broken(folder, f"it cannot be read: {error.strerror or type(error).__name__}") from error


def cannot_write(folder: Path, error: OSError) -> ModelUnavailable:
    """Return the error for a cache that does not take what was converted."""
    return ModelUnavailable(
        f"The model folder {folder.name!r} cannot be converted: {error.strerror or type(error).__name__}."
        " WHISPER_CACHE_DIR must be a folder with free space that the server may write to."
    )


def _key(folder: Path, variant: str) -> str:
    """Return a name that changes when anything the conversion reads changes."""
    digest = hashlib.sha256(f"{VERSION} {variant} {folder.resolve()}".encode("utf-8", "surrogateescape"))
    digest.update((folder / "config.json").read_bytes())
    for path in sorted({*folder.glob("*.json"), *folder.glob("*.txt"), *weight_files(folder)}):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name)[:40]
    return f"{plain}-{variant}-{digest.hexdigest()[:16]}"


def _convert(
    folder: Path, target: Path, quantization: str, encoder: str | None, try_out: Callable[[Path], None]
) -> None:
    started = time.monotonic()
    log.info("converting %s to CTranslate2 %s", folder.name, quantization)
    with unfinished_folder(target.parent) as temporary:
        checkpoint = Checkpoint(folder)
        _write(folder, checkpoint, read_config(folder), temporary, quantization, encoder)
        try_out(temporary)
        seal(temporary, folder, {"fingerprint": fingerprint(checkpoint)})
        if target.exists() and not is_whole(target):
            shutil.rmtree(target)
        try:
            temporary.rename(target)
        except OSError:
            if not is_whole(target):  # else another process was faster, with the same result
                raise
        sync_folder(target.parent)
    if not folder.is_dir():  # deleted meanwhile, and what was converted from it before this got its name
        shutil.rmtree(target, ignore_errors=True)
        raise broken(folder, "it was deleted while it was converted")
    log.info("converted %s in %.1f s", folder.name, time.monotonic() - started)


def _write(  # noqa: PLR0917
    folder: Path,
    checkpoint: Checkpoint,
    config: dict[str, Any],
    output: Path,
    quantization: str,
    encoder: str | None,
) -> None:
    tokenizer = load_tokenizer(folder)
    checkpoint.check(config)
    try:
        if encoder:
            _write_encoder(checkpoint, config, output, encoder)
        spec = whisper_spec(checkpoint, {**config, "encoder_layers": 1} if encoder else config)
        set_config(spec.config, config, read_json(folder, "generation_config.json"), tokenizer)
        spec.register_vocabulary(vocabulary(tokenizer, config["vocab_size"]))
        spec.validate()
        spec.optimize(quantization=quantization)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(folder, f"config.json and the weights do not fit together: {error}") from error
    spec.save(str(output))
    # The library's own `save` tells a full disk from other failures in its message only.
    (output / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    for name in COPIED:
        if (folder / name).is_file():
            shutil.copyfile(folder / name, output / name)


def _write_encoder(checkpoint: Checkpoint, config: dict[str, Any], output: Path, encoder: str) -> None:
    from whisper_server.services.engines.ct2.encoder_graph import GRAPHS, write_encoder  # noqa: PLC0415  (NumPy)

    write_encoder(
        output / ENCODER_FILE,
        lambda name: checkpoint.tensor(f"encoder.{name}"),
        layers=config["encoder_layers"],
        heads=config["encoder_attention_heads"],
        graph=GRAPHS[encoder],
    )
