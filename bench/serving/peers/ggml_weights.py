"""A Hugging Face Whisper folder -> the file that whisper.cpp loads, float16 as it publishes its models.

The layout is that of whisper.cpp's `models/convert-h5-to-ggml.py`: sizes, mel filters, vocabulary, then
every tensor with its shape and name. Matrices are float16; vectors and positions float32. Needs no torch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bench.serving.peers.openai_weights import dimensions, renamed

MAGIC = 0x67676D6C
END_OF_TEXT = 50257  # ids from here on have no text, and whisper.cpp names them itself
_FLOAT32, _FLOAT16 = 0, 1


def write(folder: Path, file: Path) -> Path:
    """Write the file; return it."""
    from safetensors.numpy import load_file

    from whisper_server.services.speech.log_mel import mel_filters

    sizes = dimensions(json.loads((folder / "config.json").read_text()))
    order = [f"n_{what}" for what in ("vocab", "audio_ctx", "audio_state", "audio_head", "audio_layer")]
    order += [f"n_{what}" for what in ("text_ctx", "text_state", "text_head", "text_layer", "mels")]
    filters = np.ascontiguousarray(mel_filters(sizes["n_mels"]), dtype=np.float32)
    with file.open("wb") as out:
        out.write(struct.pack("12i", MAGIC, *(sizes[name] for name in order), _FLOAT16))
        out.write(struct.pack("2i", *filters.shape) + filters.tobytes())
        pieces = _vocabulary(folder / "tokenizer.json")
        out.write(struct.pack("i", len(pieces)))
        for piece in pieces:
            out.write(struct.pack("i", len(piece)) + piece)
        for name, tensor in load_file(folder / "model.safetensors").items():
            if name != "proj_out.weight":
                _write_tensor(out, renamed(name), tensor)
    return file


def _write_tensor(out: IO[bytes], name: str, tensor: NDArray[np.float16]) -> None:
    if name in {"encoder.conv1.bias", "encoder.conv2.bias"}:
        tensor = tensor.reshape(-1, 1)
    is_small = tensor.ndim < 2 or name.endswith((".bias", "positional_embedding"))
    data = np.ascontiguousarray(tensor, dtype=np.float32 if is_small else np.float16)
    kind = _FLOAT32 if is_small else _FLOAT16
    out.write(struct.pack("3i", data.ndim, len(name), kind))
    out.write(struct.pack(f"{data.ndim}i", *reversed(data.shape)) + name.encode() + data.tobytes())


def _vocabulary(tokenizer: Path) -> list[bytes]:
    """Return the bytes of every text token, by id."""
    vocabulary: dict[str, int] = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    byte_of = {character: value for value, character in enumerate(_byte_characters())}
    pieces = sorted((number, text) for text, number in vocabulary.items() if number < END_OF_TEXT)
    return [bytes(byte_of[character] for character in text) for _, text in pieces]


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte in byte-pair vocabularies since GPT-2."""
    shown = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]
