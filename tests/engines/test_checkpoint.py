"""What is read from safetensors files: numbers to the bit, and refusals of files that say what is not so."""

from __future__ import annotations

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.peak_memory import bounded_growth
from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.checkpoint import Checkpoint

MAX_HEADER_BYTES = 100_000_000
ONE = struct.pack("<f", 1.0)


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def write(folder: Path, text: bytes, body: bytes = b"", length: int | None = None) -> Path:
    """Write model.safetensors from a header and what follows it; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    length = len(text) if length is None else length
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + text + body)
    return folder


def read(folder: Path, *names: str) -> None:
    """Read tensors: some lies are found when the header is read, others with the tensor."""
    checkpoint = Checkpoint(folder)
    for name in names:
        checkpoint.tensor(name)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_values_and_types_are_those_of_the_file(tmp_path: Path, dtype: type[np.floating[Any]]) -> None:
    values = np.array([[1.5, -0.0, np.inf], [np.nan, 6e-8, -65504]], dtype)
    save_file({"x": values}, tmp_path / "model.safetensors")
    got = Checkpoint(tmp_path).tensor("x")
    assert got.dtype == dtype
    assert got.shape == (2, 3)
    assert got.tobytes() == values.tobytes()


def test_every_bfloat16_is_widened_to_the_bit(tmp_path: Path) -> None:
    """All 65536, those that are no numbers included: the value is the upper half of a float32."""
    halves = np.arange(1 << 16, dtype=np.uint16)
    save_file({"x": halves.view(ml_dtypes.bfloat16).reshape(256, 256)}, tmp_path / "model.safetensors")
    got = Checkpoint(tmp_path).tensor("x")
    assert got.dtype == np.float32
    assert got.shape == (256, 256)
    np.testing.assert_array_equal(got.view(np.uint32).ravel(), halves.astype(np.uint32) << 16)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_scalars_and_empty_tensors(tmp_path: Path, dtype: str) -> None:
    size = 4 if dtype == "F32" else 2
    tensors = {"empty": entry(dtype, (0, 3), (0, 0)), "scalar": entry(dtype, (), (0, size))}
    checkpoint = Checkpoint(write(tmp_path, header(**tensors), ONE[-size:]))
    assert checkpoint.tensor("empty").shape == (0, 3)
    assert checkpoint.tensor("scalar").shape == ()
    assert float(checkpoint.tensor("scalar")) == (1.875 if dtype == "F16" else 1.0)


def test_floats_that_lie_between_words(tmp_path: Path) -> None:
    """The format does not align tensors: neither the header's length nor what lies before need be even."""
    text = header(h=entry("F16", (1,), (0, 2)), f=entry(offsets=(2, 6)), b=entry("BF16", (1,), (6, 8)))
    text += b" " * (1 - len(text) % 2)
    checkpoint = Checkpoint(write(tmp_path, text, b"\x00\x3c" + ONE + ONE[2:]))
    assert [float(checkpoint.tensor(name)[0]) for name in "hfb"] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_tensor_is_a_copy(tmp_path: Path, dtype: Any) -> None:
    save_file({"x": np.ones(4, dtype)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    checkpoint.tensor("x")[:] = 7
    assert checkpoint.tensor("x").tolist() == [1, 1, 1, 1]


def test_names_lose_the_prefix(tmp_path: Path) -> None:
    save_file(
        {"model.a": np.ones(1, np.float32), "b": np.zeros(1, np.float32)}, tmp_path / "model.safetensors"
    )
    checkpoint = Checkpoint(tmp_path)
    assert "a" in checkpoint
    assert "b" in checkpoint
    assert "model.a" not in checkpoint
    assert checkpoint.tensor("a").tolist() == [1]
    with pytest.raises(ModelUnavailable, match="the weights lack c"):
        checkpoint.tensor("c")


@pytest.mark.skipif(sys.platform != "linux", reason="measured with /proc")
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_memory_holds_the_tensors_in_use(tmp_path: Path, dtype: Any) -> None:
    """Of 16 tensors of 16 MB each, one is read: its pages of the file and its copy, which float32 doubles."""
    each = np.ones((8, 1 << 20), dtype)
    save_file({f"t{number}": each for number in range(16)}, tmp_path / "model.safetensors")
    with bounded_growth(8):
        checkpoint = Checkpoint(tmp_path)
        assert "t7" in checkpoint
    with bounded_growth(16 * 1.1 * (4 if dtype is ml_dtypes.bfloat16 else 2) + 8):
        assert checkpoint.tensor("t7").shape == (8, 1 << 20)


LIES = {
    "no bytes": b"",
    "half a length": b"\0" * 4,
    "no header": struct.pack("<Q", 0),
    "a length that reaches beyond the file": struct.pack("<Q", 1 << 20) + header(x=entry()) + ONE,
    "a length beyond the limit": struct.pack("<Q", MAX_HEADER_BYTES + 1) + header(x=entry()) + ONE,
    "a length that is negative when signed": struct.pack("<Q", 1 << 63) + header(x=entry()) + ONE,
    "a length that wraps around with its own eight bytes": b"\xff" * 8 + header(x=entry()) + ONE,
}


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in LIES.items()])
def test_lies_about_the_length_of_the_header(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"model\.safetensors cannot be read as safetensors: \w"):
        Checkpoint(tmp_path)


def test_header_beyond_the_limit_that_is_all_there(tmp_path: Path) -> None:
    """It is refused before it is parsed: a gigabyte of JSON would be several of objects."""
    path = write(tmp_path, b"{}", length=MAX_HEADER_BYTES + 1) / "model.safetensors"
    os.truncate(path, 8 + MAX_HEADER_BYTES + 1)
    with bounded_growth(8), pytest.raises(ModelUnavailable, match="cannot be read as safetensors"):
        Checkpoint(tmp_path)


def test_cut_file(tmp_path: Path) -> None:
    save_file({"x": np.ones(100, np.float32)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    for size in range(0, len(whole), 7):
        (tmp_path / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(ModelUnavailable, match="cannot be read as safetensors"):
            Checkpoint(tmp_path)


HEADERS = {
    "no JSON": b"\x80\x04pickle",
    "not UTF-8": b'{"\xff":' + header(x=entry())[5:],
    "nested lists": b"[" * 200_000,
    "nested objects": b'{"x":' * 200_000,
    "nesting in a value that is not read": b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"y":'
    + b"[" * 100_000
    + b"]" * 100_000
    + b"}}",
    "a list": b"[1]",
    "an entry that is none": header(x=1),
    "an empty entry": header(x={}),
    "more after the JSON": header(x=entry()) + b"\0",
    "a name twice, for two places": b'{"x":%b,"x":%b}'
    % (json.dumps(entry(offsets=(4, 8))).encode(), json.dumps(entry()).encode()),
    "a field twice": header(x=entry())[:-2] + b',"dtype":"F16"}}',
    "two tensors in one place": header(x=entry(), y=entry()),
    "tensors that overlap": header(x=entry("F16", (3,), (0, 6)), y=entry(offsets=(4, 8))),
    "a hole": header(x=entry("F16", (1,), (0, 2)), y=entry(offsets=(4, 8))),
    "a hole at the start": header(x=entry(offsets=(4, 8))),
    "bytes behind the last tensor": header(x=entry()),
    "one offset": header(x=entry(offsets=(0,))),
    "three offsets": header(x=entry(offsets=(0, 4, 8))),
    "offsets the other way round": header(x=entry(offsets=(4, 0)), y=entry(offsets=(4, 8))),
    "a negative offset": header(x=entry(offsets=(-4, 0)), y=entry("F32", (2,), (0, 8))),
    "offsets that are truth values": header(x=entry("F16", (2,), (False, 4)), y=entry(offsets=(4, 8))),
    "offsets beyond 64 bits": header(x=entry("F32", (2,), (0, 1 << 64))),
    "offsets at the end of 64 bits": header(x=entry(offsets=((1 << 64) - 5, (1 << 64) - 1))),
    "a negative shape": header(x=entry("F32", (-2,), (0, 8))),
    "a shape negative twice": header(x=entry("F32", (-1, -2), (0, 8))),
    "a fractional shape": header(x=entry("F32", (2.0,), (0, 8))),
    "a shape in words": header(x=entry("F32", "", (0, 4)), y=entry(offsets=(4, 8))),
    "a shape beyond 63 bits": header(x=entry("F32", (1 << 63,), (0, 8))),
    "a shape whose bytes wrap around to 0": header(x=entry("F32", (1 << 62,), (0, 0))),
    "a shape whose size wraps around to 0": header(x=entry("F32", (1 << 32, 1 << 32), (0, 0))),
    "a shape larger than its bytes": header(x=entry("F32", (3,), (0, 8))),
    "a shape smaller than its bytes": header(x=entry("F32", (1,), (0, 8))),
    "an empty tensor outside": header(x=entry("F32", (2,), (0, 8)), y=entry("F32", (0,), (999, 999))),
}


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in HEADERS.items()])
def test_headers_that_are_refused(tmp_path: Path, text: bytes) -> None:
    write(tmp_path / "model", text, ONE * 2)
    with pytest.raises(ModelUnavailable, match=r"'model'.*model\.safetensors cannot be read as") as caught:
        read(tmp_path / "model", "x")
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


SHAPES = {
    "too many dimensions": ((1,) * 65, (0, 4)),
    "a great many dimensions": ((1,) * 50_000, (0, 4)),
    "empty, and too large": ((0, 1 << 62, 2), (0, 0)),
    "empty, and beyond 63 bits": ((0, 1 << 63), (0, 0)),
}


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("case", SHAPES)
def test_shapes_that_no_array_has(tmp_path: Path, case: str, dtype: str) -> None:
    shape, (start, end) = SHAPES[case]
    end = end if dtype == "F32" else end // 2
    folder = write(tmp_path / "model", header(x=entry(dtype, shape, (start, end))), ONE[4 - end :])
    with pytest.raises(ModelUnavailable, match=r"'model'.*cannot be read as safetensors"):
        read(folder, "x")


@pytest.mark.parametrize(
    ("dtype", "count", "size"),
    [
        ("F64", 1, 8),
        ("I16", 4, 8),
        ("U8", 8, 8),
        ("BOOL", 8, 8),
        ("C64", 1, 8),
        ("F8_E4M3", 8, 8),
        ("F8_E5M2", 8, 8),
        ("F8_E8M0", 8, 8),
        ("F6_E2M3", 4, 3),
        ("F6_E3M2", 4, 3),
        ("F4", 2, 1),
        ("F4", 3, 2),
        ("f32", 1, 4),
        ("F33", 1, 4),
        ("", 1, 4),
        (None, 1, 4),
        (32, 1, 4),
    ],
)
def test_types_that_are_not_read(tmp_path: Path, dtype: object, count: int, size: int) -> None:
    """Also of a tensor that nothing asks for."""
    tensors = {"w": entry(dtype, (count,), (4, 4 + size)), "x": entry()}
    with pytest.raises(ModelUnavailable, match=r"'model'.*cannot be read as safetensors: .*\w"):
        Checkpoint(write(tmp_path / "model", header(**tensors), ONE + b"\1" * size))


@pytest.mark.parametrize(("dtype", "size"), [("F64", 8), ("I16", 2), ("F8_E4M3", 1)])
def test_refusal_of_a_type_says_what_is_read(tmp_path: Path, dtype: str, size: int) -> None:
    folder = write(tmp_path, header(w=entry(dtype, (1,), (0, size))), b"\1" * size)
    with pytest.raises(ModelUnavailable, match=f"w is {dtype}, not F32, F16 or BF16"):
        Checkpoint(folder)


def test_folder_in_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelUnavailable, match="no weights"):
        Checkpoint(tmp_path)


def test_file_that_is_gone_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)
    with pytest.raises(ModelUnavailable, match=r"cannot be read as safetensors: .*No such file"):
        Checkpoint(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes here")
def test_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    checkpoint = Checkpoint(write(folder, header(x=entry()), ONE))
    assert checkpoint.tensor("x").tolist() == [1.0]


def test_shards_whose_names_no_file_can_have(tmp_path: Path) -> None:
    for name in ("\ud800.safetensors", "a\0.safetensors"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(ModelUnavailable):
            Checkpoint(tmp_path)
