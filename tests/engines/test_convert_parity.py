"""Our conversion against CTranslate2's own, which needs torch and transformers: equal, byte by byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from whisper_server.services.engines.ct2.convert import ensure_converted

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of transformers, not ours
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NANO = Path(__file__).parents[2] / "models" / "nano-whisper"
WRITTEN_BY_BOTH = ("model.bin", "config.json", "vocabulary.json")


def theirs(folder: Path, output: Path, quantization: str) -> Path:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(output), quantization=quantization)
    return output


def variables(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Read model.bin: name -> (kind, shape, data); an alias is ("alias", (), name)."""
    import struct

    data, place = path.read_bytes(), 0

    def take(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from(f"<{kind}", data, place)
        place += struct.calcsize(f"<{kind}")
        return int(value)

    def take_bytes(count: int) -> bytes:
        nonlocal place
        place += count
        return data[place - count : place]

    def take_name() -> str:
        return take_bytes(take("H")).rstrip(b"\0").decode()

    found: dict[str, tuple[str, tuple[int, ...], bytes]] = {}
    take("I")
    assert take_name() == "WhisperSpec"
    take("I")
    for _ in range(take("I")):
        name = take_name()
        shape = tuple(take("I") for _ in range(take("B")))
        kind = str(take("B"))
        found[name] = (kind, shape, take_bytes(take("I")))
    for _ in range(take("I")):
        name = take_name()
        found[name] = ("alias", (), take_name().encode())
    assert place == len(data)
    return found


@pytest.mark.parametrize(
    "quantization", ["int8", "int8_float16", "int8_float32", "int16", "float16", "float32"]
)
def test_equal_byte_by_byte(tmp_path: Path, quantization: str) -> None:
    ours = ensure_converted(NANO, tmp_path / "cache", quantization)
    reference = theirs(NANO, tmp_path / "theirs", quantization)
    our_variables, their_variables = variables(ours / "model.bin"), variables(reference / "model.bin")
    assert our_variables.keys() == their_variables.keys()
    assert [name for name, value in our_variables.items() if value != their_variables[name]] == []
    for name in WRITTEN_BY_BOTH:
        assert (ours / name).read_bytes() == (reference / name).read_bytes(), name


@pytest.mark.parametrize("quantization", ["int8", "float16", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_config_names_the_number_format(tmp_path: Path, dtype: str, quantization: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": dtype}))
    ours = ensure_converted(folder, tmp_path / "cache", quantization)
    reference = theirs(folder, tmp_path / "theirs", quantization)
    assert (ours / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()


def test_sharded_and_saved_by_transformers(tmp_path: Path) -> None:
    from transformers import WhisperForConditionalGeneration

    folder = tmp_path / "model"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples", "*.safetensors"))
    model = WhisperForConditionalGeneration.from_pretrained(NANO)
    model.save_pretrained(folder, max_shard_size="4MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    ours = ensure_converted(folder, tmp_path / "cache", "int8")
    reference = theirs(folder, tmp_path / "theirs", "int8")
    for name in WRITTEN_BY_BOTH:
        assert (ours / name).read_bytes() == (reference / name).read_bytes(), name


def test_without_generation_config(tmp_path: Path) -> None:
    """Theirs then lists no languages, so that none could be detected; all else is equal."""
    folder = tmp_path / "model"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples", "generation_config.json"))
    ours = ensure_converted(folder, tmp_path / "cache", "int8")
    reference = theirs(folder, tmp_path / "theirs", "int8")
    assert (ours / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()
    our_config, their_config = (json.loads((one / "config.json").read_text()) for one in (ours, reference))
    assert len(our_config.pop("lang_ids")) == 99
    their_config.pop("lang_ids")
    assert our_config == their_config


def test_bfloat16_values_are_equal(tmp_path: Path) -> None:
    """Theirs keeps bfloat16 where int8 does not apply, ours widens it: equal as float32."""
    import torch
    from transformers import WhisperForConditionalGeneration

    folder = tmp_path / "model"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("samples", "*.safetensors"))
    WhisperForConditionalGeneration.from_pretrained(NANO, dtype=torch.bfloat16).save_pretrained(folder)
    ours = ensure_converted(folder, tmp_path / "cache", "float32")
    reference = theirs(folder, tmp_path / "theirs", "float32")
    assert (ours / "model.bin").read_bytes() == (reference / "model.bin").read_bytes()
