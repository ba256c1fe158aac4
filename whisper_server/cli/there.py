"""Inputs that a server transcribes, one job each: what is asked of it, and where its texts go."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from whisper_server.cli.inputs import STDIN, Input
from whisper_server.cli.outputs import Outputs, Refused, deliver
from whisper_server.cli.progress import progress_bar
from whisper_server.cli.terminal import say

if TYPE_CHECKING:
    from whisper_server.cli.remote import RemoteServer


def transcribe_there(
    inputs: Sequence[Input],
    arguments: Namespace,
    api_key: str,
    recorded: BinaryIO | None,
    outputs: Outputs,
) -> bool:
    """Let a server transcribe one input after the other; tell whether one failed."""
    from whisper_server.cli.remote import RemoteFailed, RemoteServer  # noqa: PLC0415  (--help stays quick)

    failed = False
    try:
        with RemoteServer(arguments.server, api_key) as server:
            for each in inputs:
                try:
                    deliver(_fetched(server, each, arguments, recorded), each.target, outputs)
                except BrokenPipeError:
                    raise
                except (RemoteFailed, Refused, OSError) as error:
                    say(f"error: {each.name}: {error}")
                    failed = True
    except RemoteFailed as error:
        say(f"error: {error}")
        return True
    return failed


def _fetched(server: RemoteServer, each: Input, arguments: Namespace, recorded: BinaryIO | None) -> str:
    """Return the text of one input, or of the job that is its name."""
    job_id = arguments.job
    if job_id is None:
        with contextlib.ExitStack() as stack:
            is_piped = each.name == STDIN and recorded is not None
            file = recorded if is_piped else stack.enter_context(Path(each.name).open("rb"))
            assert file is not None
            job_id = server.submit(arguments.task, file, _asked(arguments))
    with progress_bar(each.name, None) as bar:

        def show(done_s: float, total_s: float | None) -> None:
            bar.total = total_s
            bar.update(done_s - bar.n)

        try:
            server.watch(job_id, show)
        except KeyboardInterrupt:
            say(f"the job goes on; --server {arguments.server} --job {job_id} fetches its text")
            raise
    return server.result(job_id, _shown(arguments))


def _shown(arguments: Namespace) -> dict[str, Any]:
    """Return the fields that say how a text is shown."""
    return {
        "response_format": arguments.format,
        "timestamp_granularities[]": ["segment", "word"] if arguments.word_timestamps else None,
        "max_line_chars": arguments.max_line_chars,
        "max_lines": arguments.max_lines,
        "max_cue_seconds": arguments.max_cue_seconds,
    }


def _asked(arguments: Namespace) -> dict[str, Any]:
    """Return the fields of a request."""
    switching = arguments.language_switching
    return {
        "model": arguments.model,
        "language": None if arguments.language == "auto" else arguments.language,
        "languages[]": [each for each in arguments.languages.split(",") if each],
        "language_switching": None if switching is None else str(switching).lower(),
        "audio_track": arguments.audio_track,
        "seed": arguments.seed,
        "diarize": "true" if arguments.speakers else None,
        "num_speakers": arguments.num_speakers,
        "response_format": arguments.format,
        "timestamp_granularities[]": ["segment", "word"] if arguments.word_timestamps else None,
    }
