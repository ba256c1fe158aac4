"""Writes ONNX models: a graph of operators in memory, or in a file with its weights in another, to be mapped.

Only the part of the format (`onnx.proto`) that our graphs need, which is strings, integers and
nested messages. The `onnx` package would do the same at 20 MB and with a protobuf of a version that
others in the environment may not want; and one file of its own cannot pass 2 GB, as large-v3 does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

IR_VERSION = 8  # with operator set 17; every onnxruntime from 1.12 on reads them
OPERATORS = 17  # the first with LayerNormalization
CONTRIBUTED = "com.microsoft"  # onnxruntime's own operators, all of them version 1
ALIGNMENT = 4096  # of each tensor in the weight file: a page, as onnxruntime maps them

_DATA_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int64": 7, "float16": 10}  # TensorProto.DataType
_FLOAT_ATTRIBUTE, _INT_ATTRIBUTE = 1, 2  # AttributeProto.AttributeType
_GRAPH_ATTRIBUTE, _INTS_ATTRIBUTE = 5, 7
_EXTERNAL = 1  # TensorProto.DataLocation

Shape = Sequence[int | None]  # None: as long as the input is
Attribute = int | float | bytes | Sequence[int]  # bytes: a GraphProto


class OnnxGraph:
    """A graph in the making, in memory."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._count = 0

    def constant(self, value: NDArray[Any]) -> str:
        """Store a tensor in the graph itself; return its name."""
        name = self._new_name("c")
        self._tensors.append(_tensor(name, value) + _bytes(9, value.tobytes()))
        return name

    def node(self, operator: str, *inputs: str, domain: str = "", **attributes: Attribute) -> str:
        """Add an operator with one output; return the output's name."""
        return self.nodes(operator, *inputs, outputs=1, domain=domain, **attributes)[0]

    def nodes(
        self, operator: str, *inputs: str, outputs: int, domain: str = "", **attributes: Attribute
    ) -> list[str]:
        """Add an operator with several outputs; return their names."""
        names = [self._new_name("t") for _ in range(outputs)]
        self._nodes.append(
            b"".join(_text(1, name) for name in inputs)
            + b"".join(_text(2, name) for name in names)
            + _text(4, operator)
            + b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())
            + _text(7, domain)
        )
        return names

    def scan(self, body: Callable[..., Sequence[str]], *inputs: str) -> list[str]:
        """Take the inputs apart along their first axis and run the same operators over each part, in order.

        `body` is called once: with a name for a part of each input it adds the operators to this writer, and
        returns what they make of it. Returns the results, put together along a first axis. Weights belong
        to the graph around: onnxruntime would keep those of a body beside what it makes of them.
        """
        outer, self._nodes = self._nodes, []
        parts = [self._new_name("p") for _ in inputs]
        results = body(*parts)
        graph = _graph("body", self._nodes, (), map(_value_info, parts), map(_value_info, results))
        self._nodes = outer
        return self.nodes("Scan", *inputs, outputs=len(results), body=graph, num_scan_inputs=len(inputs))

    def rename(self, value: str, name: str) -> None:
        """Give a value a name that callers of the model use."""
        self._nodes.append(_text(1, value) + _text(2, name) + _text(4, "Identity"))

    def encoded(self, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> bytes:
        """Return the model; its inputs and outputs are float32 of these shapes."""
        graph = _graph(
            "graph",
            self._nodes,
            self._tensors,
            (_value_info(name, shape) for name, shape in inputs.items()),
            (_value_info(name, shape) for name, shape in outputs.items()),
        )
        domains = _bytes(8, _text(1, "") + _int(2, OPERATORS)) + _bytes(8, _text(1, CONTRIBUTED) + _int(2, 1))
        return _int(1, IR_VERSION) + _bytes(7, graph) + domains

    def _new_name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"


class OnnxWriter(OnnxGraph):
    """A graph for a file; weights go to the file beside it at once, so memory holds one at a time."""

    def __init__(self, path: Path) -> None:
        """Begin `path`, and beside it `path` + ".data"."""
        super().__init__()
        self._path = path
        self._weights = path.with_name(path.name + ".data").open("wb")

    def __enter__(self) -> OnnxWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._weights.close()

    def weight(self, value: NDArray[Any]) -> str:
        """Store a tensor; return its name."""
        self._weights.write(b"\0" * (-self._weights.tell() % ALIGNMENT))
        place = {"location": Path(self._weights.name).name, "offset": str(self._weights.tell())}
        place["length"] = str(value.nbytes)
        self._weights.write(value.tobytes())
        name = self._new_name("w")
        self._tensors.append(
            _tensor(name, value)
            + b"".join(_bytes(13, _text(1, key) + _text(2, text)) for key, text in place.items())
            + _int(14, _EXTERNAL)
        )
        return name

    def save(self, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> None:
        """Write the graph; see `encoded`."""
        self._path.write_bytes(self.encoded(inputs, outputs))


def _graph(
    name: str,
    nodes: Iterable[bytes],
    tensors: Iterable[bytes],
    inputs: Iterable[bytes],
    outputs: Iterable[bytes],
) -> bytes:
    """Encode a GraphProto."""
    return (
        b"".join(_bytes(1, node) for node in nodes)
        + _text(2, name)
        + b"".join(_bytes(5, tensor) for tensor in tensors)
        + b"".join(_bytes(11, one) for one in inputs)
        + b"".join(_bytes(12, one) for one in outputs)
    )


def _varint(value: int) -> bytes:
    """Encode an integer, negative ones as 64 bits."""
    value &= (1 << 64) - 1
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _attribute(name: str, value: Attribute) -> bytes:
    """Encode an AttributeProto."""
    if isinstance(value, float):
        return _text(1, name) + _varint(2 << 3 | 5) + struct.pack("<f", value) + _int(20, _FLOAT_ATTRIBUTE)
    if isinstance(value, int):
        return _text(1, name) + _int(3, value) + _int(20, _INT_ATTRIBUTE)
    if isinstance(value, bytes):
        return _text(1, name) + _bytes(6, value) + _int(20, _GRAPH_ATTRIBUTE)
    return _text(1, name) + b"".join(_int(8, one) for one in value) + _int(20, _INTS_ATTRIBUTE)


def _tensor(name: str, value: NDArray[Any]) -> bytes:
    """Encode what a TensorProto says of its values, without them."""
    shape = b"".join(_int(1, size) for size in value.shape)
    return shape + _int(2, _DATA_TYPES[value.dtype.name]) + _text(8, name)


def _value_info(name: str, shape: Shape | None = None) -> bytes:
    """Encode a ValueInfoProto: a float32 tensor of this shape, or of one that follows from the graph."""
    tensor = _int(1, _DATA_TYPES["float32"])
    if shape is not None:
        tensor += _bytes(2, b"".join(_bytes(1, b"" if size is None else _int(1, size)) for size in shape))
    return _text(1, name) + _bytes(2, _bytes(1, tensor))
