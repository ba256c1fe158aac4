"""Runs the encoder that `encoder_graph` wrote, by onnxruntime on the CPU; safe to call from any thread."""

from __future__ import annotations

import functools
import logging
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whisper_server.core.errors import DeviceOutOfMemory, EngineFailure, ModelUnavailable
from whisper_server.core.paths import without_paths
from whisper_server.services.engines.ct2.folder import ENCODER_FILE
from whisper_server.services.onnx.session import open_session, session_options
from whisper_server.services.onnx.writer import CONTRIBUTED, OnnxWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

PROBE_SIZE = 64  # inputs of the one product that shows whether 8-bit sums are exact


class OnnxEncoder:
    """Windows go through it one by one, so none can change another's numbers.

    A batch would gain nothing: one window is 1500 rows, enough for every core. A lone caller has them all;
    callers that share the cores have a session whose threads are their part of them. Two that each take all
    cores would wait for each other at every product: 12 to 16 % more processor time for a window in all
    (bench/experiments/workers.py). That is worth having the matrices twice, from the first time on that there
    are two.
    """

    def __init__(self, folder: Path, kind: str, threads: int, workers: int = 1) -> None:
        """Load `folder`'s encoder, which is of this kind, for `workers` callers that share `threads` threads.

        Raises:
            ModelUnavailable: onnxruntime cannot read or run the files.
        """
        self.name = f"onnxruntime {kind}"
        self._file = folder / ENCODER_FILE
        self._threads, self._workers = threads, workers
        self._lock = threading.Lock()
        try:
            self._alone = self._session(threads)
        except Exception as error:  # the library raises kinds of its own
            log.warning("%s cannot be loaded: %s", self._file, error)
            reason = without_paths(f"{error}", folder)
            raise ModelUnavailable(f"The model's encoder cannot be loaded: {reason}") from error
        self._shared: Any = None

    def encode(self, mels: NDArray[np.float32], *, is_alone: bool = True) -> NDArray[np.float32]:
        """Return the encoder output [batch, frames / 2, d_model] of mels [batch, n_mels, frames].

        `is_alone`: no other call runs on these cores now; the numbers are the same either way.

        Raises:
            DeviceOutOfMemory: there is no memory for it now.
            EngineFailure: onnxruntime failed.
        """
        mels = np.ascontiguousarray(mels, dtype=np.float32)
        try:
            session = self._alone if is_alone else self._for_sharing()
            rows = [session.run(None, {"mel": mel[None]})[0] for mel in mels]
        except MemoryError as error:
            raise DeviceOutOfMemory("There is no memory for the encoder now; try again later.") from error
        except Exception as error:  # the library raises kinds of its own
            raise EngineFailure(f"The encoder failed: {error}") from error
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def _for_sharing(self) -> Any:
        """Return the session for callers that share the cores, made for the first of them.

        That takes a small part of what one window takes. With one caller at a time, as of a desktop app, the
        matrices are in memory once.
        """
        with self._lock:
            if self._shared is None:
                self._shared = self._alone
                if 1 < self._workers <= self._threads:
                    try:
                        self._shared = self._session(self._threads // self._workers)
                    except Exception as error:  # noqa: BLE001  (no memory, or the files are gone by now)
                        log.warning("calls at once will be slower than they could: %s", error)
            return self._shared

    def _session(self, threads: int) -> Any:
        """Return a session of its own copy of the weights.

        onnxruntime would map the file, and another process that truncates it would end this one at the next
        window (SIGBUS). Once the matrices are in the order that it multiplies them in, the copy is gone.

        Before onnxruntime 1.24, the newest for Macs with Intel processors, it can only map.
        """
        options, weights = session_options(threads), self._file.with_name(f"{self._file.name}.data")
        if not hasattr(options, "add_external_initializers_from_files_in_memory"):
            return open_session(str(self._file), options)
        data = weights.read_bytes()
        options.add_external_initializers_from_files_in_memory([weights.name], [data], [len(data)])
        return open_session(self._file.read_bytes(), options)


@functools.lru_cache(maxsize=1)
def sums_are_exact() -> bool:
    """Tell whether this processor adds products of signed 8-bit weights without overflow, by trying it.

    x86 processors from before VNNI add two products in 16 bits, where the sum of two large ones stays
    at the limit; unsigned weights are exact everywhere, and slower on those that need them not. So the
    answer is no, too, where there is no folder to try it in.
    """
    try:
        return _try_sums()
    except OSError as error:
        log.warning("nothing temporary can be written (%s): the encoder may be slower than it could", error)
        return False


def _try_sums() -> bool:
    weight = np.full((PROBE_SIZE, 16), 127, dtype=np.int8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        with OnnxWriter(path) as onnx:
            scale = onnx.constant(np.ones(1, dtype=np.float32))
            product = onnx.node(
                "DynamicQuantizeMatMul", "x", onnx.constant(weight), scale, domain=CONTRIBUTED
            )
            onnx.rename(product, "y")
            onnx.save({"x": (1, PROBE_SIZE)}, {"y": (1, 16)})
        session = open_session(str(path))
    (product,) = session.run(None, {"x": np.ones((1, PROBE_SIZE), dtype=np.float32)})
    return bool(np.allclose(product, 127 * PROBE_SIZE, rtol=1e-3))
