"""The command line: files in, text to standard output or a folder, messages to standard error.

Wraps the same services as the server, or asks one (`remote`). Standard output carries
transcripts only, so that it can be piped; the progress bar is for a person at a terminal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from whisper_server.cli.arguments import EXTENSIONS, PROG, parse
from whisper_server.cli.inputs import STDIN, Input, audio_in, standard_input, with_targets
from whisper_server.cli.outputs import Outputs, Refused, deliver
from whisper_server.cli.progress import progress_bar
from whisper_server.cli.terminal import log_to_terminal, say
from whisper_server.cli.there import transcribe_there
from whisper_server.core.config import Settings, load_settings, log_notices
from whisper_server.core.errors import ConfigError, InvalidRequest, WhisperServerError
from whisper_server.core.languages import parse_language
from whisper_server.core.system.process import (
    INTERRUPTED,
    end_at_interrupt,
    ensure_streams,
    hear_interrupts,
    leave,
)
from whisper_server.core.validators import check_languages, check_seed, check_text, check_voices
from whisper_server.services.rendering.formats import SUBTITLE_FORMATS, render, render_alignment
from whisper_server.services.rendering.subtitles import SubtitleOptions, check_options

if TYPE_CHECKING:
    from tqdm import tqdm

    from whisper_server.core.types import TranscribeParams, Transcript, VoiceOptions
    from whisper_server.services.container import Services

# The limits protect a server from strangers; for a person's own files they would only be in the way.
_OWN_FILES: dict[str, Any] = {
    "max_audio_file_size_mb": 1024 * 1024,
    "max_audio_seconds": 7 * 24 * 3600,
    "decoder_processes": 1,  # a file that makes it hang or crash is an error, and the next one follows
}


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be done with every input."""

    language: str | None
    languages: tuple[str, ...]
    language_switching: bool | None
    audio_track: int | None
    task: Any  # "transcribe" or "translate", as the parser has checked
    response_format: str
    word_timestamps: bool
    seed: int
    subtitles: SubtitleOptions
    text: str | None  # what is said, where only its times are wanted
    speakers: tuple[str, ...] | None  # (): say who speaks
    voices: VoiceOptions


def run(argv: Sequence[str] | None = None, prog: str = PROG) -> None:
    """Be the command: transcribe, and end the process."""
    has_output = sys.stdout is not None
    ensure_streams()
    hear_interrupts()
    try:
        code = main(argv, prog, has_output=has_output)
        end_at_interrupt()  # no more than the exit is left
    except KeyboardInterrupt:  # before there was anything to interrupt
        code = INTERRUPTED
    leave(code)


def main(argv: Sequence[str] | None = None, prog: str = PROG, *, has_output: bool = True) -> int:
    """Transcribe what the arguments name; return 0, 1 where a file failed, 2 for wrong usage.

    Without `has_output` texts can go to files only.
    """
    arguments = parse(argv, prog)
    if arguments.output is None and not has_output:
        say("error: standard output is closed; use --output to write files")
        return 2
    log_to_terminal()
    logging.getLogger(__package__).setLevel(logging.INFO)
    # Why a model is not loaded is what the line of the input says.
    logging.getLogger("whisper_server.services.model_manager").setLevel(logging.ERROR)
    try:
        return _run(arguments)
    except (ConfigError, InvalidRequest) as error:
        say(f"error: {error}")
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        say(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED


def _run(arguments: Namespace) -> int:
    """Do what the arguments say; return 0, or 1 where an input failed."""
    job = _job(arguments)
    model = {"model": arguments.model} if arguments.model and arguments.server is None else {}
    settings = load_settings({**_OWN_FILES, **model})
    log_notices(settings)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    names, is_empty = _names(arguments.files if arguments.job is None else [arguments.job])
    inputs = list(with_targets(names, arguments.output, EXTENSIONS[arguments.format]))
    outputs = Outputs(inputs, overwrite=arguments.overwrite)
    inputs, is_refused = _allowed(inputs, outputs)
    with contextlib.ExitStack() as stack:
        # Before the event loop starts: a read that blocks there would not hear Ctrl-C.
        is_piped = any(each.name == STDIN for each in inputs)
        recorded = stack.enter_context(standard_input()) if is_piped else None
        if arguments.server is not None:
            failed = transcribe_there(inputs, arguments, settings.api_key, recorded, outputs)
        else:
            failed = bool(inputs) and asyncio.run(_transcribe_all(inputs, job, settings, recorded, outputs))
    return 1 if failed or is_empty or is_refused else 0


def _allowed(inputs: Sequence[Input], outputs: Outputs) -> tuple[list[Input], bool]:
    """Tell what is not written, and where names are longer than one would expect, before any work is done.

    Returns the inputs that stay, and whether some do not.
    """
    allowed: list[Input] = []
    for each in inputs:
        try:
            if each.target is not None:
                outputs.check(each.target)
                if each.name != STDIN and each.target.stem != Path(each.name).stem:
                    say(f"note: {each.name} goes to {each.target}: another input has its name too")
        except (Refused, OSError) as error:
            say(f"error: {each.name}: {error}")
        else:
            allowed.append(each)
    return allowed, len(allowed) < len(inputs)


def _job(arguments: Namespace) -> _Job:
    """Check what can be checked without a model."""
    is_subtitles = arguments.format in SUBTITLE_FORMATS
    limits = (arguments.max_line_chars, arguments.max_lines, arguments.max_cue_seconds)
    language = parse_language(arguments.language)
    return _Job(
        language=language,
        languages=check_languages(filter(None, arguments.languages.split(",")), language),
        language_switching=arguments.language_switching,
        audio_track=arguments.audio_track,
        task=arguments.task,
        response_format=arguments.format,
        word_timestamps=arguments.word_timestamps or is_subtitles,
        seed=check_seed(arguments.seed),
        subtitles=check_options(*limits) if is_subtitles else SubtitleOptions(),
        text=None if arguments.align is None else _text(arguments.align),
        speakers=() if arguments.speakers else None,
        voices=check_voices((), (), arguments.num_speakers, None, None),
    )


def _text(path: Path) -> str:
    """Return what is written in a file; raises `InvalidRequest` where that is no text."""
    try:
        return check_text(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"{path} is not written in UTF-8") from error


def _names(files: Sequence[str]) -> tuple[list[str], bool]:
    """Return the files to transcribe, and whether a folder had none."""
    names: list[str] = []
    is_empty = False
    for name in files:
        if name == STDIN or not _is_folder(name):
            names.append(name)
        elif found := list(audio_in(Path(name))):
            names += found
        else:
            say(f"error: {name}: no audio files in this folder")
            is_empty = True
    return names, is_empty


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # a name that is too long, which is told when it is opened
        return False


async def _transcribe_all(
    inputs: Sequence[Input], job: _Job, settings: Settings, recorded: BinaryIO | None, outputs: Outputs
) -> bool:
    """Transcribe one input after the other; tell whether one failed, which does not stop the rest."""
    from whisper_server.core.types import TranscribeParams  # noqa: PLC0415
    from whisper_server.services.container import open_services  # noqa: PLC0415  (--help stays quick)

    failed = False
    async with open_services(settings) as services:
        params = TranscribeParams(
            model=services.catalog.resolve(services.catalog.default),
            task=job.task,
            language=job.language,
            languages=job.languages,
            language_switching=job.language_switching,
            audio_track=job.audio_track,
            word_timestamps=job.word_timestamps,
            seed=job.seed,
            speakers=job.speakers,
            voices=job.voices,
        )
        for each in inputs:
            source = recorded if each.name == STDIN and recorded else Path(each.name)
            failed |= not await _handle(services, each, source, params, job=job, outputs=outputs)
    return failed


async def _handle(
    services: Services,
    each: Input,
    source: Path | BinaryIO,
    params: TranscribeParams,
    *,
    job: _Job,
    outputs: Outputs,
) -> bool:
    """Transcribe and deliver one input; tell a failure and return False."""
    try:
        transcript = await _transcribe(services, each, source, params, job.text)
        form = render if job.text is None else render_alignment
        deliver(form(transcript, job.response_format, job.subtitles)[0], each.target, outputs)
    except BrokenPipeError:
        raise
    except (WhisperServerError, Refused, OSError) as error:
        say(f"error: {each.name}: {error}")
        return False
    return True


async def _transcribe(
    services: Services, each: Input, source: Path | BinaryIO, params: TranscribeParams, text: str | None
) -> Transcript:
    """Transcribe one input, or time a text in it, with a progress bar."""
    if text is None:
        transcription = await services.transcriber.open(source, params)
    else:
        transcription = await services.transcriber.align(source, text, params)
    with progress_bar(each.name, transcription.info.header_duration_s) as bar:
        if params.speakers is not None:  # who speaks is surest when all was heard
            transcription.on_window = lambda done_s: _show(bar, done_s)
            return await transcription.collect()
        found = []
        async with contextlib.aclosing(transcription.segments()) as segments:
            async for segment in segments:
                found.append(segment)
                bar.update(segment.end_s - bar.n)
        bar.update(transcription.duration_s - bar.n)
    return transcription.transcript(tuple(found))


def _show(bar: tqdm[Any], done_s: float) -> None:
    bar.update(done_s - bar.n)
