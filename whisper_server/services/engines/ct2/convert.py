"""Turns a Hugging Face Whisper folder into a CTranslate2 one, once, without torch or transformers.

The result equals what CTranslate2's own converter writes for the same folder (its WhisperLoader), and
a test holds it to that. The reason to have another one: the server needs neither of the two libraries
that the original runs on, which are 100 times its own size.

Converted folders live in `<cache>/converted`. Each is made under a temporary name and renamed into
place, so that two processes may convert at once and a crash leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

from whisper_server.core.errors import ModelUnavailable
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
    MARKER,
    is_ctranslate2,
    is_whole,
)
from whisper_server.services.engines.ct2.weights import set_config, whisper_spec

log = logging.getLogger(__name__)

VERSION = 3  # of what this module writes; raise it to have every model converted again
COPIED = ("generation_config.json", "preprocessor_config.json")
STALE_S = 3600.0  # age after which a temporary folder was left by a crash; the largest model takes minutes


def ensure_converted(folder: Path, cache_dir: Path, quantization: str, encoder: str | None = None) -> Path:
    """Return a CTranslate2 folder for the model in `folder`; blocks, seconds to minutes the first time.

    A folder that is CTranslate2's already is returned as it is. `quantization` is one of CTranslate2's
    storage types: int8, float16, float32, ... With `encoder`, one of `encoder_graph.GRAPHS`, the folder
    gets an ONNX encoder, and model.bin only one encoder layer, which CTranslate2 wants to see: else its
    unused copy of the encoder would stand in memory.

    Raises:
        ModelUnavailable: it is no Whisper model in safetensors or CTranslate2 format, it is damaged, or
            the cache cannot be written.
    """
    try:
        if is_ctranslate2(folder):
            if not encoder and (folder / ENCODER_FILE).is_file():
                raise broken(folder, "its encoder is for onnxruntime on CPUs, in int8 or float32")
            return folder
        config = read_config(folder)
        home = cache_dir / CONVERTED
        target = home / _key(folder, f"{quantization}-onnx-{encoder}" if encoder else quantization)
        if is_whole(target):
            return target
        home.mkdir(parents=True, exist_ok=True)
        _remove_stale(home)
        _convert(folder, config, target, quantization, encoder)
    except OSError as error:
        raise ModelUnavailable(
            f"The model folder {folder.name!r} cannot be converted: {error.strerror or error}."
            " WHISPER_CACHE_DIR must be a folder with free space that the server may write to."
        ) from error
    return target


def _key(folder: Path, variant: str) -> str:
    """Return a name that changes when anything the conversion reads changes."""
    digest = hashlib.sha256(f"{VERSION} {variant} {folder.resolve()}".encode("utf-8", "surrogateescape"))
    digest.update((folder / "config.json").read_bytes())
    for path in sorted({*folder.glob("*.json"), *folder.glob("*.txt"), *weight_files(folder)}):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name)[:40]
    return f"{plain}-{variant}-{digest.hexdigest()[:16]}"


def _remove_stale(home: Path) -> None:
    """Remove what crashed conversions left behind."""
    for path in home.glob(".tmp-*"):
        try:
            newest = max(one.stat().st_mtime for one in (path, *path.iterdir()))
        except OSError:  # another process removes it at this moment
            continue
        if time.time() - newest > STALE_S:
            shutil.rmtree(path, ignore_errors=True)


def _convert(
    folder: Path, config: dict[str, Any], target: Path, quantization: str, encoder: str | None
) -> None:
    started = time.monotonic()
    log.info("converting %s to CTranslate2 %s", folder.name, quantization)
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        checkpoint = Checkpoint(folder)
        _write(folder, checkpoint, config, temporary, quantization, encoder)
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        made = {"files": sizes, "source": str(folder.resolve()), "fingerprint": fingerprint(checkpoint)}
        (temporary / MARKER).write_text(json.dumps(made), encoding="utf-8")
        if target.exists() and not is_whole(target):
            shutil.rmtree(target)
        try:
            temporary.rename(target)
        except OSError:
            if not is_whole(target):  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
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
    tokenizer.save(str(output / "tokenizer.json"))
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
