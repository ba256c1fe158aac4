"""Networks as the server runs them by onnxruntime: on the CPU, in little memory, on so many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from whisper_server.core.system.memory import is_want_of_memory
from whisper_server.services.onnx.runtime import onnxruntime


def session_options(threads: int = 1) -> Any:
    """Return the options of a session whose every call has so many threads; one: the caller's own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The arena would keep the largest intermediate results of every caller for ever: 90 MB more with
    # small and two workers, for 3 % of the time.
    options.enable_cpu_mem_arena = False
    # Threads that wait for work must not burn the cores that the decoder runs on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # errors are raised
    return options


def open_session(model: str | bytes, options: Any = None) -> Any:
    """Return the session of a network, a path or the file's bytes; by default with one thread.

    Raises:
        MemoryError: there is no memory for it; its `run` raises it too.
        Exception: of kinds of onnxruntime's own, where it cannot read the network.
    """
    with _memory_errors():
        return _Session(model, sess_options=options or session_options(), providers=["CPUExecutionProvider"])


class _Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    def run(self, *args: Any, **named: Any) -> list[Any]:
        with _memory_errors():
            found: list[Any] = super().run(*args, **named)
        return found


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise Python's own error where the library's says that there was no memory."""
    try:
        yield
    except Exception as error:
        if is_want_of_memory(error):
            raise MemoryError from error
        raise
