"""Takes at the start what the first recording would take otherwise: libraries, and memory that they keep.

Some cannot do without memory for a moment and go on later: see `onnx.runtime` and `log_mel.keep_work_space`.
At the start no client's bytes are there yet, and what fails then ends the start, with the reason.
"""

from __future__ import annotations

from whisper_server.core.errors import OutOfMemory
from whisper_server.core.system.memory import check_room
from whisper_server.services.speech.log_mel import keep_work_space
from whisper_server.services.speech.silero import load_network
from whisper_server.services.work_pool import WorkPool

NEEDED_BYTES = 100 << 20  # onnxruntime takes 33 MB, each of two threads that multiply 32 MiB


async def warm_up(pool: WorkPool, *, use_vad: bool) -> None:
    """Load what the pool's threads work with, in a tenth of a second.

    Raises:
        WhisperServerError: there is no memory for it, or voice detection, which is wanted, cannot be loaded.
    """
    try:
        check_room(NEEDED_BYTES)
        if use_vad:
            await pool.run(load_network)
        await pool.run_at_once(keep_work_space)
    except MemoryError as error:
        raise OutOfMemory("There is too little memory to serve with.") from error
