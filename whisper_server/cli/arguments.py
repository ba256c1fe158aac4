"""The arguments of the command line, and the checks that need no model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from whisper_server import __version__

PROG = "whisper_server.py"
EXTENSIONS = {"text": "txt", "json": "json", "verbose_json": "json", "srt": "srt", "vtt": "vtt"}


def parse(argv: Sequence[str] | None, prog: str = PROG) -> argparse.Namespace:
    """Return the arguments; exits with code 2 and a line on standard error where they are wrong."""
    parser = build_parser(prog)
    arguments = parser.parse_args(argv)
    arguments.format = arguments.format or ("text" if arguments.align is None else "srt")
    if arguments.job is not None and (arguments.server is None or arguments.files):
        parser.error("--job goes with --server, and without FILE")
    if arguments.job is None and not arguments.files:
        parser.error("the following arguments are required: FILE")
    if arguments.align is not None and arguments.server is not None:
        parser.error("--align works here, not with --server")
    if arguments.align is not None:
        if len(arguments.files) > 1:
            parser.error("--align takes one FILE, which the text belongs to")
        if arguments.task != "transcribe" or arguments.format == "text":
            parser.error("--align tells times: it goes with --format srt, vtt, json or verbose_json alone")
    if arguments.num_speakers is not None and not arguments.speakers:
        parser.error("--num-speakers goes with --speakers")
    if arguments.speakers and arguments.server is not None and arguments.task != "transcribe":
        parser.error("--speakers goes with --task transcribe where --server is given")
    if arguments.speakers and (arguments.align is not None or arguments.format == "json"):
        parser.error("--speakers goes with --format text, srt, vtt or verbose_json, and not with --align")
    if arguments.word_timestamps and arguments.format != "verbose_json":
        parser.error(
            "--word-timestamps needs --format verbose_json: the other formats have no place for words"
        )
    return arguments


def build_parser(prog: str) -> argparse.ArgumentParser:
    """Return the argument parser of the command that is called `prog`."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Transcribe audio files with a local Whisper model."
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="audio or video files, folders, or - for stdin"
    )
    parser.add_argument("--model", metavar="NAME", help="model name or model folder (default: WHISPER_MODEL)")
    _add_languages(parser)
    parser.add_argument(
        "--audio-track",
        type=int,
        metavar="N",
        help="of several, counted from 0 (default: as the file says)",
    )
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe")
    parser.add_argument(
        "--align",
        type=Path,
        metavar="TEXTFILE",
        help="time what is written there (UTF-8) instead of transcribing; one FILE",
    )
    parser.add_argument(
        "--format", choices=tuple(EXTENSIONS), help="default: text; with --align: srt, and never text"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write one file per input there")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files that are there (with --output); never an input",
    )
    parser.add_argument(
        "--word-timestamps", action="store_true", help="add the time of each word (--format verbose_json)"
    )
    _add_speakers(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="other draws where the model is not sure (default: 0)",
    )
    _add_cues(parser)
    _add_server(parser)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _add_speakers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speakers",
        action="store_true",
        help="say who speaks: by channel where channels differ, else by voice",
    )
    parser.add_argument(
        "--num-speakers", type=int, metavar="N", help="how many there are, 1 to 20 (default: find out)"
    )


def _add_cues(parser: argparse.ArgumentParser) -> None:
    cues = parser.add_argument_group("subtitles (--format srt or vtt)")
    cues.add_argument("--max-line-chars", type=int, default=42, metavar="N", help="per line (default: 42)")
    cues.add_argument("--max-lines", type=int, default=2, metavar="N", help="per cue (default: 2)")
    cues.add_argument("--max-cue-seconds", type=float, default=7.0, metavar="N", help="per cue (default: 7)")


def _add_server(parser: argparse.ArgumentParser) -> None:
    server = parser.add_argument_group("on a server (the key is read from WHISPER_API_KEY)")
    server.add_argument(
        "--server", metavar="URL", help="let the server there do it, as a job for each FILE; Ctrl-C leaves it"
    )
    server.add_argument("--job", metavar="ID", help="fetch the text of a job that was left, in place of FILE")


def _add_languages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--language", default="auto", help="code or English name (default: detect it)")
    parser.add_argument(
        "--languages",
        default="",
        metavar="LIST",
        help="where it is detected: those to choose from, comma-separated (default: all)",
    )
    parser.add_argument(
        "--language-switching",
        action=argparse.BooleanOptionalAction,
        help="whether a file may be of several languages (default: WHISPER_LANGUAGE_SWITCHING)",
    )
