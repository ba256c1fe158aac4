"""Start the server: `python whisper_api_server.py --port 8089`; `transcribe FILE...` is the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable

# Each command imports its own part only: what the server does not need must not delay its first /health.


def serve(argv: list[str]) -> None:
    """Be the server."""
    from whisper_server.api.server import run  # noqa: PLC0415

    run(argv)


def transcribe(argv: list[str]) -> None:
    """Be the command line, as `python whisper_server.py` is."""
    from whisper_server.cli import run  # noqa: PLC0415

    run(argv, prog="whisper_api_server transcribe")


# A first argument that stands here takes what follows it; everything else is the server's.
COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "transcribe": transcribe,
}


def main() -> None:
    """Be what the first argument says."""
    if hasattr(sys, "frozen"):
        import multiprocessing  # noqa: PLC0415

        # A lock of multiprocessing (tqdm makes one) can start this program anew as its helper.
        multiprocessing.freeze_support()
    argv = sys.argv[1:]
    command = COMMANDS.get(argv[0]) if argv else None
    if command is None:
        serve(argv)
    else:
        command(argv[1:])


if __name__ == "__main__":
    main()
