"""Turns a Hugging Face Whisper folder into a CTranslate2 one, once, without torch or transformers.

The result equals what CTranslate2's own converter writes for the same folder (its WhisperLoader), and
a test holds it to that. The reason to have another one: the server needs neither of the two libraries
that the original runs on, which are 100 times its own size.

Converted folders live in `<cache>/converted`. Each is made under a temporary name and renamed into
place, so that two processes may convert at once and a crash leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import re
import shutil
import struct
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.checkpoint import (
    Checkpoint,
    broken,
    language_ids,
    load_tokenizer,
    read_config,
    read_json,
    vocabulary,
    weight_files,
)

if TYPE_CHECKING:
    from whisper_server.services.engines.checkpoint import Tensor

log = logging.getLogger(__name__)

VERSION = 1  # of what this module writes; raise it to have every model converted anew
MARKER = "conversion.json"  # written last: name and size of every file, and the folder they were made from
COPIED = ("generation_config.json", "preprocessor_config.json")
STALE_S = 3600.0  # age after which a temporary folder was left by a crash; the largest model takes minutes
SPEC_NAME = "WhisperSpec"  # in the header of model.bin


def ensure_converted(folder: Path, cache_dir: Path, quantization: str) -> Path:
    """Return a CTranslate2 folder for the model in `folder`; blocks, seconds to minutes the first time.

    A folder that is CTranslate2's already is returned as it is. `quantization` is one of CTranslate2's
    storage types: int8, float16, float32, ...

    Raises:
        ModelUnavailable: it is no Whisper model in safetensors or CTranslate2 format, it is damaged, or
            the cache cannot be written.
    """
    try:
        if _is_ctranslate2(folder):
            return folder
        config = read_config(folder)
        home = cache_dir / "converted"
        target = home / _key(folder, quantization)
        if _is_whole(target):
            return target
        home.mkdir(parents=True, exist_ok=True)
        _remove_stale(home)
        _convert(folder, config, target, quantization)
    except OSError as error:
        raise ModelUnavailable(
            f"The model folder {folder.name!r} cannot be converted: {error.strerror or error}."
            " WHISPER_CACHE_DIR must be a folder with free space that the server may write to."
        ) from error
    return target


def conversions_of(folder: Path, cache_dir: Path) -> tuple[Path, ...]:
    """Return what was converted from `folder`, in any number format, also from files that it had before."""
    found = []
    for marker in sorted((cache_dir / "converted").glob(f"*/{MARKER}")):
        try:
            source = json.loads(marker.read_text(encoding="utf-8"))["source"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if source == str(folder.resolve()) and _is_whole(marker.parent):
            found.append(marker.parent)
    return tuple(found)


def _is_ctranslate2(folder: Path) -> bool:
    """Tell whether model.bin is a CTranslate2 Whisper model (binary format of ctranslate2.specs)."""
    if not folder.is_dir():
        raise broken(folder, "there is no such folder")
    path = folder / "model.bin"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        header = file.read(64)
    try:
        _version, size = struct.unpack_from("<IH", header)
        name = header[6 : 6 + size].rstrip(b"\0").decode()
    except (struct.error, UnicodeDecodeError):
        name = ""
    if name != SPEC_NAME:
        raise broken(folder, f"model.bin is no CTranslate2 Whisper model ({name[:40]!r})")
    return True


def _key(folder: Path, quantization: str) -> str:
    """Return a name that changes when anything the conversion reads changes."""
    digest = hashlib.sha256(f"{VERSION} {quantization} {folder.resolve()}".encode("utf-8", "surrogateescape"))
    digest.update((folder / "config.json").read_bytes())
    for path in sorted({*folder.glob("*.json"), *folder.glob("*.txt"), *weight_files(folder)}):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", folder.resolve().name)[:40]
    return f"{plain}-{quantization}-{digest.hexdigest()[:16]}"


def _is_whole(target: Path) -> bool:
    try:
        sizes = json.loads((target / MARKER).read_text(encoding="utf-8"))["files"]
        return all((target / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _remove_stale(home: Path) -> None:
    """Remove what crashed conversions left behind."""
    for path in home.glob(".tmp-*"):
        try:
            newest = max(one.stat().st_mtime for one in (path, *path.iterdir()))
        except OSError:  # another process removes it at this moment
            continue
        if time.time() - newest > STALE_S:
            shutil.rmtree(path, ignore_errors=True)


def _convert(folder: Path, config: dict[str, Any], target: Path, quantization: str) -> None:
    started = time.monotonic()
    log.info("converting %s to CTranslate2 %s", folder.name, quantization)
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        _write(folder, config, temporary, quantization)
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        (temporary / MARKER).write_text(
            json.dumps({"files": sizes, "source": str(folder.resolve())}), encoding="utf-8"
        )
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        try:
            temporary.rename(target)
        except OSError:
            if not _is_whole(target):  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    log.info("converted %s in %.1f s", folder.name, time.monotonic() - started)


def _write(folder: Path, config: dict[str, Any], output: Path, quantization: str) -> None:
    tokenizer = load_tokenizer(folder)
    try:
        spec = _spec(Checkpoint(folder), config)
        _set_config(spec.config, config, read_json(folder, "generation_config.json"), tokenizer)
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


def _spec(checkpoint: Checkpoint, config: dict[str, Any]) -> Any:
    """Return CTranslate2's description of the model, filled with the weights."""
    from ctranslate2.specs import WhisperSpec  # noqa: PLC0415  (only when a model is converted)

    spec = WhisperSpec(
        config["encoder_layers"],
        config["encoder_attention_heads"],
        config["decoder_layers"],
        config["decoder_attention_heads"],
    )
    fill = _Filler(checkpoint, config.get("dtype") or config.get("torch_dtype"))
    fill.linear(spec.encoder.conv1, "encoder.conv1")
    fill.linear(spec.encoder.conv2, "encoder.conv2")
    for stack, name in ((spec.encoder, "encoder"), (spec.decoder, "decoder")):
        stack.position_encodings.encodings = fill.tensor(f"{name}.embed_positions.weight")
        fill.norm(stack.layer_norm, f"{name}.layer_norm")
        for index, layer in enumerate(stack.layer):
            fill.layer(layer, f"{name}.layers.{index}")
    embeddings = fill.tensor("decoder.embed_tokens.weight")
    spec.decoder.embeddings.weight = embeddings
    is_tied = "proj_out.weight" not in checkpoint
    spec.decoder.projection.weight = embeddings if is_tied else fill.tensor("proj_out.weight")
    return spec


class _Filler:
    """Moves tensors from a checkpoint into CTranslate2's layers."""

    def __init__(self, checkpoint: Checkpoint, dtype: object) -> None:
        """Take the number format that config.json names; others leave tensors as they are stored."""
        self._checkpoint = checkpoint
        self._dtype = dtype if dtype in {"float16", "float32"} else None

    def tensor(self, name: str) -> Tensor:
        tensor = self._checkpoint.tensor(name)
        return tensor.astype(self._dtype, copy=False) if self._dtype else tensor

    def norm(self, spec: Any, name: str) -> None:
        spec.gamma, spec.beta = self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias")

    def linear(self, spec: Any, *names: str) -> None:
        """Set one linear or convolution layer, stacked from several; keys have no bias in Whisper."""
        import numpy as np  # noqa: PLC0415  (only when a model is converted)

        weights = [self.tensor(f"{name}.weight") for name in names]
        spec.weight = weights[0] if len(weights) == 1 else np.concatenate(weights)
        spec.bias = np.concatenate(
            [
                np.zeros(len(weight), dtype=weight.dtype)
                if name.endswith("k_proj")
                else self.tensor(f"{name}.bias")
                for name, weight in zip(names, weights, strict=True)
            ]
        )

    def layer(self, spec: Any, name: str) -> None:
        """Set an encoder layer, or a decoder layer, which has cross-attention too."""
        own = f"{name}.self_attn"
        self.linear(spec.self_attention.linear[0], f"{own}.q_proj", f"{own}.k_proj", f"{own}.v_proj")
        self.linear(spec.self_attention.linear[1], f"{own}.out_proj")
        self.norm(spec.self_attention.layer_norm, f"{name}.self_attn_layer_norm")
        if hasattr(spec, "attention"):
            cross = f"{name}.encoder_attn"
            self.linear(spec.attention.linear[0], f"{cross}.q_proj")
            self.linear(spec.attention.linear[1], f"{cross}.k_proj", f"{cross}.v_proj")
            self.linear(spec.attention.linear[2], f"{cross}.out_proj")
            self.norm(spec.attention.layer_norm, f"{name}.encoder_attn_layer_norm")
        self.linear(spec.ffn.linear_0, f"{name}.fc1")
        self.linear(spec.ffn.linear_1, f"{name}.fc2")
        self.norm(spec.ffn.layer_norm, f"{name}.final_layer_norm")


def _set_config(spec_config: Any, config: dict[str, Any], generation: dict[str, Any], tokenizer: Any) -> None:
    """Set what CTranslate2 keeps beside the weights: suppressed tokens, languages, alignment heads."""
    source = generation or config
    spec_config.suppress_ids = source.get("suppress_tokens")
    spec_config.suppress_ids_begin = source.get("begin_suppress_tokens")
    languages = generation.get("lang_to_id")
    spec_config.lang_ids = sorted(languages.values()) if languages else language_ids(tokenizer)
    layers, heads = config["decoder_layers"], config["decoder_attention_heads"]
    # By default the upper half of the decoder, as in openai/whisper's model.py.
    upper_half = list(itertools.product(range(layers // 2, layers), range(heads)))
    # A distilled model often names the heads of the layers that its teacher had.
    named = [head for head in generation.get("alignment_heads") or () if head[0] < layers and head[1] < heads]
    spec_config.alignment_heads = named or upper_half
