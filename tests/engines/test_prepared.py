"""Folders that are loaded: tried once in another process, and made again where they have rotted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT
from tests.support.model_folders import damage, edit, nano_copy, set_variable
from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.base import Engine, EngineSpec
from whisper_server.services.engines.ct2 import prepared
from whisper_server.services.engines.ct2.convert import ensure_converted
from whisper_server.services.engines.ct2.folder import MARKER, conversions_of, fingerprint_of, is_whole
from whisper_server.services.engines.ct2.seal import damaged_file
from whisper_server.services.engines.ct2.unfinished import remove_leftovers, unfinished_folder
from whisper_server.services.engines.registry import load_engine, prepare_engine
from whisper_server.services.onnx.runtime import onnxruntime

SPEC = EngineSpec(device="cpu", threads=1)

HOLDS_THE_LOCK = """
import sys
from pathlib import Path
from whisper_server.services.engines.ct2.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def load(folder: Path, cache: Path) -> Engine:
    return load_engine(folder, SPEC, cache)


@pytest.fixture
def converted(tmp_path: Path, nano_cache: Path) -> Path:
    """A conversion of the nano model in a cache of its own, as `load` makes it."""
    load(NANO, nano_cache)
    shutil.copytree(nano_cache / "converted", tmp_path / "cache" / "converted")
    return prepared_target(tmp_path / "cache")


def prepared_target(cache: Path) -> Path:
    return prepare_engine(NANO, SPEC, cache)


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.bin", "zeros"),
        ("model.bin", "one bit"),
        ("model.bin", "header"),
        ("encoder.onnx.data", "zeros"),
        ("encoder.onnx", "garbage"),
        ("tokenizer.json", "garbage"),
        ("vocabulary.json", "one bit"),
        ("config.json", "zeros"),
        (MARKER, "zeros"),
        (MARKER, "garbage"),
    ],
)
def test_what_has_rotted_is_made_again(
    converted: Path, name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = {path.name: path.read_bytes() for path in converted.iterdir()}
    damage(converted / name, kind)
    cache = converted.parents[1]
    assert prepared_target(cache) == converted
    assert "is damaged; it is converted again" in caplog.text
    assert {path.name: path.read_bytes() for path in converted.iterdir()} == before
    caplog.clear()
    assert prepared_target(cache) == converted
    assert caplog.text == ""


def test_a_disk_that_damages_everything_is_told(converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: object) -> dict[str, object]:
        answer = real(*arguments)  # type: ignore[arg-type]
        damage(converted / "model.bin", "one bit")
        return answer

    real = prepared.run_in_child
    damage(converted / "model.bin", "one bit")
    monkeypatch.setattr(prepared, "run_in_child", run)
    with pytest.raises(ModelUnavailable, match=r"model\.bin of the new one is damaged too"):
        prepared_target(converted.parents[1])


def test_a_marker_that_names_nothing_is_no_proof(converted: Path) -> None:
    (converted / MARKER).write_text('{"files": {}}')
    assert not is_whole(converted)
    assert damaged_file(converted) == MARKER


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such devices")
def test_a_marker_without_end_is_no_marker(converted: Path) -> None:
    """One that is a device that never ends would fill the memory, and a pipe would be waited for."""
    sparse = converted / "sparse"
    with sparse.open("wb") as file:
        file.truncate(1 << 40)
    for target in (Path("/dev/zero"), sparse):
        (converted / MARKER).unlink()
        (converted / MARKER).symlink_to(target)
        assert not is_whole(converted)
        assert damaged_file(converted) == MARKER
        assert fingerprint_of(converted) == ""
        assert conversions_of(NANO, converted.parents[1]) == ()


def test_a_folder_that_was_tried_is_not_tried_again(
    tmp_path: Path, nano_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(ensure_converted(NANO, nano_cache, "int8"), tmp_path / "theirs")
    load(folder, tmp_path / "cache")
    monkeypatch.setattr(prepared, "_tried", set())  # as in the next process

    def fail(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(prepared, "run_in_child", fail)
    load(folder, tmp_path / "cache")
    (folder / "model.bin").touch()
    with pytest.raises(AssertionError):
        load(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(b"\0\0", id="a trap"),
        pytest.param(b"\x05\0", id="an error of the library"),
    ],
)
def test_numbers_that_do_not_work_are_found_in_the_child(
    tmp_path: Path, nano_cache: Path, number: bytes
) -> None:
    folder = shutil.copytree(ensure_converted(NANO, nano_cache, "int8"), tmp_path / "theirs")
    set_variable(folder / "model.bin", "decoder/num_heads", number)
    with pytest.raises(ModelUnavailable, match="'theirs' cannot be used") as failed:
        load(folder, tmp_path / "cache")
    assert str(tmp_path) not in str(failed.value)
    assert not list((tmp_path / "cache").rglob("*tried*"))


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("config.json", "decoder_attention_heads", 0),
        ("config.json", "encoder_attention_heads", -1),
        ("config.json", "decoder_attention_heads", 3),
        ("config.json", "encoder_attention_heads", 129),
        ("config.json", "decoder_layers", 1_000_000),
        ("config.json", "encoder_layers", 10**30),
        ("config.json", "vocab_size", 1.5),
        ("config.json", "vocab_size", 10**9),
        ("config.json", "vocab_size", True),
        ("config.json", "d_model", "128"),
        ("config.json", "d_model", None),
        ("config.json", "num_mel_bins", 0),
        ("config.json", "max_source_positions", 3000),
        ("config.json", "max_target_positions", 4),
        ("config.json", "decoder_ffn_dim", 10**8),
        ("config.json", "begin_suppress_tokens", [2**31]),
        ("generation_config.json", "suppress_tokens", [-5]),
        ("generation_config.json", "suppress_tokens", "all"),
        ("generation_config.json", "lang_to_id", {"<|en|>": 2**40}),
        ("generation_config.json", "lang_to_id", [1]),
        ("generation_config.json", "alignment_heads", [[0]]),
        ("generation_config.json", "alignment_heads", [[0.5, 0]]),
    ],
)
def test_numbers_are_bounded(tmp_path: Path, name: str, field: str, value: object) -> None:
    folder = nano_copy(tmp_path / "theirs")
    edit(folder, name, **{field: value})
    with pytest.raises(ModelUnavailable, match=f"'theirs' cannot be used: in {name} .*{field}"):
        load(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.long
@pytest.mark.parametrize("number", [-1, 2**31, 1.5, "7", None])
def test_numbers_of_tokens_are_bounded(tmp_path: Path, number: object) -> None:
    folder = nano_copy(tmp_path / "theirs")
    edit(folder, "tokenizer.json", added_tokens=[{"id": number, "content": "<|x|>", "special": True}])
    with pytest.raises(ModelUnavailable, match="numbers of tokens"):
        ensure_converted(folder, tmp_path / "cache", "int8")


@pytest.mark.parametrize(
    ("field", "value"),
    [("d_model", 64), ("decoder_layers", 5), ("vocab_size", 51_864), ("num_mel_bins", 128)],
)
def test_sizes_that_are_not_those_of_the_weights(tmp_path: Path, field: str, value: int) -> None:
    folder = nano_copy(tmp_path / "theirs")
    edit(folder, "config.json", **{field: value})
    edit(folder, "generation_config.json", suppress_tokens=[], begin_suppress_tokens=[])
    with pytest.raises(ModelUnavailable, match=r"by config\.json|the weights lack"):
        ensure_converted(folder, tmp_path / "cache", "int8", "int8")


def test_leftovers_go_unless_something_is_being_made(tmp_path: Path) -> None:
    home = tmp_path / "converted"
    (home / ".tmp-left").mkdir(parents=True)
    (home / ".tmp-left" / "model.bin").write_bytes(b"half")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS_THE_LOCK, str(home)],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        remove_leftovers(home)
        assert theirs.is_dir()
        other.kill()
    remove_leftovers(home)
    assert list(home.iterdir()) == []


def test_what_is_being_made_here_stays(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "converted") as ours:
        remove_leftovers(tmp_path / "converted")
        assert ours.is_dir()
    assert list((tmp_path / "converted").iterdir()) == []


def test_a_model_that_is_deleted_while_it_is_converted(tmp_path: Path) -> None:
    folder = nano_copy(tmp_path / "theirs")

    def delete(_: Path) -> None:
        shutil.rmtree(folder)

    with pytest.raises(ModelUnavailable, match="deleted while it was converted"):
        ensure_converted(folder, tmp_path / "cache", "int8", "int8", delete)
    assert list((tmp_path / "cache" / "converted").iterdir()) == []


@pytest.mark.skipif(
    not hasattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory"),
    reason="onnxruntime maps the weights before 1.24",
)
def test_truncated_under_a_loaded_model(converted: Path) -> None:
    """Where the weights were mapped, the next window ended the process (SIGBUS)."""
    program = f"""
import os, sys
import numpy as np
from pathlib import Path
from whisper_server.services.engines.ct2.onnx_encoder import OnnxEncoder
folder = Path({str(converted)!r})
encoder = OnnxEncoder(folder, "int8", 1)
for path in folder.iterdir():
    os.truncate(path, 0)
print(encoder.encode(np.zeros((1, 80, 3000), np.float32)).shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1, 1500, 128)\n", done.stderr
