"""The command line: files in, text to standard output or a folder, messages to standard error.

Wraps the same services as the server and knows nothing of HTTP. Standard output carries
transcripts only, so that it can be piped; the progress bar is for a person at a terminal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_server import __version__
from whisper_server.core.config import Settings, load_settings
from whisper_server.core.errors import ConfigError, InvalidRequest, WhisperServerError
from whisper_server.core.languages import parse_language
from whisper_server.services.formats import SUBTITLE_FORMATS, render
from whisper_server.services.subtitles import SubtitleOptions, check_options

if TYPE_CHECKING:
    from tqdm import tqdm

    from whisper_server.core.types import Transcript
    from whisper_server.services.container import Services
    from whisper_server.services.transcriber import TranscribeParams

EXTENSIONS = {"text": "txt", "json": "json", "verbose_json": "json", "srt": "srt", "vtt": "vtt"}
STDIN = "-"
# What is taken from a folder; a file that is named is tried whatever it is called.
AUDIO_SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("3gp", "aac", "aif", "aiff", "amr", "au", "avi", "caf", "flac", "m4a", "m4b", "mka", "mkv", "mov"),
        *("mp3", "mp4", "mpeg", "mpga", "oga", "ogg", "opus", "wav", "webm", "wma"),
    )
)
# The limits protect a server from strangers; a person's own files are only bounded by patience.
_OWN_FILES: dict[str, Any] = {"max_audio_file_size_mb": 1024 * 1024, "max_audio_seconds": 7 * 24 * 3600}


@dataclass(frozen=True, slots=True)
class _Input:
    """One thing to transcribe and where its text goes; None: standard output."""

    name: str
    target: Path | None


@dataclass(frozen=True, slots=True)
class _Output:
    """What a transcript is written as."""

    response_format: str
    subtitles: SubtitleOptions


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    parser = argparse.ArgumentParser(
        prog="whisper_server.py", description="Transcribe audio files with a local Whisper model."
    )
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="audio or video files, folders, or - for stdin"
    )
    parser.add_argument("--model", metavar="NAME", help="model name or model folder (default: WHISPER_MODEL)")
    parser.add_argument("--language", default="auto", help="code or English name (default: detect it)")
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe")
    parser.add_argument("--format", choices=tuple(EXTENSIONS), default="text")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write one file per input there")
    parser.add_argument(
        "--word-timestamps", action="store_true", help="add the time of each word (--format verbose_json)"
    )
    cues = parser.add_argument_group("subtitles (--format srt or vtt)")
    cues.add_argument("--max-line-chars", type=int, default=42, metavar="N", help="per line (default: 42)")
    cues.add_argument("--max-lines", type=int, default=2, metavar="N", help="per cue (default: 2)")
    cues.add_argument("--max-cue-seconds", type=float, default=7.0, metavar="N", help="per cue (default: 7)")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Transcribe what the arguments name; return 0, 1 where a file failed, 2 for wrong usage."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.word_timestamps and arguments.format != "verbose_json":
        parser.error(
            "--word-timestamps needs --format verbose_json: the other formats have no place for words"
        )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("whisper_server.services.hub").setLevel(logging.INFO)
    try:
        language = parse_language(arguments.language)
        output = _output(arguments)
        model = {"model": arguments.model} if arguments.model else {}
        settings = load_settings({**_OWN_FILES, **model})
        return asyncio.run(_transcribe_all(arguments, settings, language, output))
    except (ConfigError, InvalidRequest) as error:
        _say(f"error: {error}")
        return 2
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130


def _output(arguments: argparse.Namespace) -> _Output:
    """Return the format, with the limits of subtitles checked where it is one."""
    if arguments.format not in SUBTITLE_FORMATS:
        return _Output(arguments.format, SubtitleOptions())
    limits = check_options(arguments.max_line_chars, arguments.max_lines, arguments.max_cue_seconds)
    return _Output(arguments.format, limits)


async def _transcribe_all(
    arguments: argparse.Namespace, settings: Settings, language: str | None, output: _Output
) -> int:
    """Transcribe one input after the other; a failure is told and does not stop the rest."""
    from whisper_server.services.container import open_services  # noqa: PLC0415  (--help stays quick)
    from whisper_server.services.transcriber import TranscribeParams  # noqa: PLC0415

    inputs, failed = _inputs(arguments)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
    async with open_services(settings) as services:
        params = TranscribeParams(
            model=services.catalog.default,
            task=arguments.task,
            language=language,
            word_timestamps=arguments.word_timestamps or output.response_format in SUBTITLE_FORMATS,
        )
        for each in inputs:
            failed |= not await _handle(services, each, params, output)
    return 1 if failed else 0


async def _handle(services: Services, each: _Input, params: TranscribeParams, output: _Output) -> bool:
    """Transcribe and deliver one input; tell a failure and return False."""
    try:
        transcript = await _transcribe(services, each, params)
        _deliver(transcript, output, each.target)
    except BrokenPipeError:
        raise
    except (WhisperServerError, OSError) as error:
        _say(f"error: {each.name}: {error}")
        return False
    return True


async def _transcribe(services: Services, each: _Input, params: TranscribeParams) -> Transcript:
    """Transcribe one input with a progress bar."""
    source = sys.stdin.buffer.read() if each.name == STDIN else Path(each.name)
    transcription = await services.transcriber.open(source, params)
    with _progress_bar(each.name, transcription.audio.info.header_duration_s) as bar:
        found = []
        async with contextlib.aclosing(transcription.segments()) as segments:
            async for segment in segments:
                found.append(segment)
                bar.update(segment.end_s - bar.n)
        bar.update(transcription.duration_s - bar.n)
    return transcription.transcript(tuple(found))


def _progress_bar(name: str, total_s: float | None) -> tqdm[Any]:
    """Return a bar over seconds of audio: done, speed in times real time, time left."""
    from tqdm import tqdm  # noqa: PLC0415  (--help stays quick)

    known = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{rate_noinv_fmt}, {remaining} left]"
    unknown = "{desc}: {n:.0f} s [{rate_noinv_fmt}]"
    return tqdm(
        total=total_s,
        desc="standard input" if name == STDIN else Path(name).name,
        unit="x",
        bar_format=known if total_s else unknown,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    )


def _inputs(arguments: argparse.Namespace) -> tuple[list[_Input], bool]:
    """Return what to transcribe, and whether a folder had nothing in it."""
    names: list[str] = []
    failed = False
    for name in arguments.files:
        if name != STDIN and Path(name).is_dir():
            found = list(_audio_in(Path(name)))
            if not found:
                _say(f"error: {name}: no audio files in this folder")
                failed = True
            names += found
        else:
            names.append(name)
    return list(_with_targets(names, arguments.output, EXTENSIONS[arguments.format])), failed


def _audio_in(folder: Path) -> Iterator[str]:
    """Return the audio files of a folder and the folders below it, sorted, hidden ones left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not hidden:
            yield str(path)


def _with_targets(names: Sequence[str], folder: Path | None, extension: str) -> Iterator[_Input]:
    """Give each input its own file in the folder: `talk.srt`, or `talk.mp3.srt`, `talk.mp3.2.srt`, ..."""
    taken: set[Path] = set()
    for name in names:
        if folder is None:
            yield _Input(name, None)
            continue
        path = Path("stdin" if name == STDIN else name)
        target = folder / f"{path.stem}.{extension}"
        number = 1
        while target in taken:
            suffix = "" if number == 1 else f".{number}"
            target = folder / f"{path.name}{suffix}.{extension}"
            number += 1
        taken.add(target)
        yield _Input(name, target)


def _deliver(transcript: Transcript, output: _Output, target: Path | None) -> None:
    """Write the transcript to its file, or to standard output."""
    body, _ = render(transcript, output.response_format, output.subtitles)
    if not body.endswith("\n"):
        body += "\n"
    if target is not None:
        target.write_text(body, encoding="utf-8", newline="\n")
        _say(f"{target} written")
        return
    sys.stdout.buffer.write(body.encode())
    sys.stdout.flush()


def _say(message: str) -> None:
    print(message, file=sys.stderr)
