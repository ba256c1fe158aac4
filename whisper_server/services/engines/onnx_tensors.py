"""Reads the weights out of an ONNX model: the counterpart of `onnx_file`, for a file that is known and whole.

Field numbers are those of `onnx.proto`; the encoding is Protocol Buffers' (varints, lengths, 4 and 8 bytes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GRAPH = 7  # of ModelProto
_TENSOR = 5  # of GraphProto
_DIMENSION, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # of TensorProto
_FLOAT32 = 1  # TensorProto.DataType
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types

Field = tuple[int, int, memoryview]  # number, value of a varint, bytes of anything else


def float_tensors(model: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the graph's float32 tensors by name, read-only views of `model`; others are left out."""
    found: dict[str, NDArray[np.float32]] = {}
    for graph_number, _, graph in _fields(memoryview(model)):
        if graph_number != _GRAPH:
            continue
        for number, _, encoded in _fields(graph):
            if number == _TENSOR:
                found.update(_tensor(encoded))
    return found


def _tensor(encoded: memoryview) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield a TensorProto's name and values, if these are float32 and stored as bytes."""
    shape: list[int] = []
    name, data_type, data = "", 0, None
    for number, value, content in _fields(encoded):
        if number == _DIMENSION:
            shape.append(value)
        elif number == _DATA_TYPE:
            data_type = value
        elif number == _NAME:
            name = bytes(content).decode()
        elif number == _RAW_DATA:
            data = content
    if data_type == _FLOAT32 and data is not None:
        yield name, np.frombuffer(data, np.float32).reshape(shape)


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in order."""
    nothing = message[:0]
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire_type = key & 7
        if wire_type == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value, nothing
            continue
        n_bytes = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(wire_type, 0)
        if wire_type == _LENGTH:
            n_bytes, at = _varint(message, at)
        yield key >> 3, 0, message[at : at + n_bytes]
        at += n_bytes


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the integer at a position, and the position behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F:
            return value, at
