"""The first word of the command line, and who answers to it; without one of these words the server starts.

Each command imports what it needs itself: managing models needs no web framework, and the server nothing of
the command line. The imports are written out, so that PyInstaller sees them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import MappingProxyType

from whisper_server.core.system.process import end_at_interrupt

Command = Callable[[Sequence[str]], None]


def _serve(argv: Sequence[str]) -> None:
    from whisper_server.core.system.init_process import begin  # noqa: PLC0415

    begin()  # what is imported now takes a moment
    from whisper_server.api.server.run import run  # noqa: PLC0415

    run(argv)


def _cluster(argv: Sequence[str]) -> None:
    end_at_interrupt()
    from whisper_server.cluster.command import run  # noqa: PLC0415

    run(argv)


def _models(argv: Sequence[str]) -> None:
    end_at_interrupt()
    from whisper_server.cli.models import run  # noqa: PLC0415

    run(argv)


def _transcribe(argv: Sequence[str]) -> None:
    end_at_interrupt()
    from whisper_server.cli.transcribe import run  # noqa: PLC0415

    run(argv, prog="whisper_api_server transcribe")


def transcribe() -> None:
    """Be the command line that is called `whisper-transcribe`, or started as `whisper_server.py`."""
    end_at_interrupt()
    from whisper_server.cli.transcribe import run  # noqa: PLC0415

    run()


def _be_decoder_process() -> None:
    from whisper_server.services.audio.decoder_process.child import main  # noqa: PLC0415

    main()


def _be_model_process() -> None:
    from whisper_server.services.engines.ct2.child import main  # noqa: PLC0415

    main()


COMMANDS = MappingProxyType[str, Command]({"cluster": _cluster, "models": _models, "transcribe": _transcribe})


def run() -> None:
    """Be the command that was asked for, and end the process."""
    if hasattr(sys, "frozen"):
        import multiprocessing  # noqa: PLC0415

        # A lock of multiprocessing (tqdm makes one) can start the one-file program again as its helper.
        multiprocessing.freeze_support()
        from whisper_server.services.audio.decoder_process.messages import CHILD_WORD  # noqa: PLC0415

        if sys.argv[1:] == [CHILD_WORD]:  # the program starts itself as a decoder process (handle.py)
            _be_decoder_process()
        from whisper_server.services.engines.ct2.prepared import CHILD_WORD as MODEL_WORD  # noqa: PLC0415

        if sys.argv[1:] == [MODEL_WORD]:
            _be_model_process()
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    command = COMMANDS.get(first)
    if command is not None:
        command(sys.argv[2:])
    else:
        _serve(sys.argv[1:])
