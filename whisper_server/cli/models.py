"""`models list | pull NAME | remove NAME | path NAME`: the models of this machine, from the shell.

Standard output carries results only; progress and complaints go to standard error. Names are those of the
catalog (built in, or the operator's own in WHISPER_MODELS), so nothing else can be downloaded.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

from whisper_server.cli.progress import ByteBar
from whisper_server.cli.terminal import log_to_terminal, printable, say
from whisper_server.core.config import Settings, load_settings, log_notices
from whisper_server.core.errors import ConfigError, ModelNotFound, WhisperServerError
from whisper_server.core.system.process import (
    INTERRUPTED,
    end_at_interrupt,
    ensure_streams,
    hear_interrupts,
    leave,
)
from whisper_server.services.model_files.catalog import Catalog
from whisper_server.services.model_files.disk import Holding, holding_of, holdings, remove_download

FAILED = 1
WRONG_USAGE = 2

_STATES = {"folder": "your folder", "downloaded": "downloaded", "partial": "in part", "absent": "-"}


def run(argv: Sequence[str] | None = None) -> None:
    """Be the command, and end the process."""
    has_output = sys.stdout is not None
    ensure_streams()
    hear_interrupts()
    try:
        code = main(argv)
        end_at_interrupt()  # no more than the exit is left
    except KeyboardInterrupt:  # before there was anything to interrupt
        code = INTERRUPTED
    leave(code if has_output else code or FAILED)  # a result that nobody gets is a failure


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return 0, 1 where it failed, 2 for wrong usage or an unknown name."""
    arguments = _parser().parse_args(argv)
    log_to_terminal()
    # At a terminal the bar shows the progress, and the lines about it would only disturb it.
    shown = logging.WARNING if sys.stderr.isatty() else logging.INFO
    logging.getLogger("whisper_server.services").setLevel(shown)
    try:
        settings = load_settings()
        log_notices(settings)
        command: Callable[[Namespace, Settings, Catalog], int] = arguments.command
        return command(arguments, settings, Catalog(settings))
    except (ConfigError, ModelNotFound) as error:
        say(f"error: {error}")
        return WRONG_USAGE
    except (WhisperServerError, OSError) as error:
        say(f"error: {error}")
        return FAILED
    except KeyboardInterrupt:
        say("interrupted; what has arrived is kept, and the next attempt goes on from there")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whisper_api_server.py models",
        description="List, download and delete the models that the server answers to.",
        epilog="WHISPER_CACHE_DIR says where they lie, WHISPER_MODELS adds your own.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shown = commands.add_parser("list", help="every model: its names, where it comes from, what is here")
    shown.add_argument("--json", action="store_true", help="for programs")
    shown.set_defaults(command=_list)
    for name, command, text in (
        ("pull", _pull, "download and convert it, so that it loads without a network"),
        ("remove", _remove, "delete its download and what was converted from it"),
        ("path", _path, "print the folder with its files"),
    ):
        added = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        added.add_argument("name", metavar="NAME", help="as `models list` shows it")
        added.set_defaults(command=command)
    return parser


def _list(arguments: Namespace, settings: Settings, catalog: Catalog) -> int:
    found = holdings(catalog, settings.cache_dir)
    if arguments.json:
        print(json.dumps([_as_json(one) for one in found], indent=2))
        return 0
    head = ("NAME", "STATE", "CONVERTED", "MB", "FROM", "ALSO KNOWN AS")
    rows = [head, *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(printable(line))
    return 0


def _row(one: Holding) -> tuple[str, ...]:
    size = f"{one.size_bytes / 1e6:.0f}" if one.size_bytes else "-"
    converted = "yes" if one.conversions else "-"
    return one.name, _STATES[one.state], converted, size, one.origin, ", ".join(one.aliases)


def _as_json(one: Holding) -> dict[str, Any]:
    folder = str(one.folder) if one.folder else None
    return {**asdict(one), "folder": folder, "conversions": [str(path) for path in one.conversions]}


def _pull(arguments: Namespace, settings: Settings, catalog: Catalog) -> int:
    from whisper_server.services.model_files.prepare import prepare_model  # noqa: PLC0415  (--help stays quick)

    source = catalog.resolve(arguments.name)
    with closing(ByteBar(source.name)) as bar:
        folder = prepare_model(source, settings, bar.show)
    print(folder)
    return 0


def _remove(arguments: Namespace, settings: Settings, catalog: Catalog) -> int:
    source = catalog.resolve(arguments.name)
    if source.repo is None:
        say(f"error: {source.name} is your own folder, {source.folder}; delete it yourself if you want to")
        return FAILED
    before_bytes = holding_of(source, settings.cache_dir).size_bytes
    if not remove_download(source, settings.cache_dir):
        say(f"{source.name} is not downloaded")
        return 0
    freed_bytes = before_bytes - holding_of(source, settings.cache_dir).size_bytes
    say(f"{source.name} deleted, {freed_bytes / 1e6:.0f} MB freed")
    return 0


def _path(arguments: Namespace, settings: Settings, catalog: Catalog) -> int:
    source = catalog.resolve(arguments.name)
    folder = holding_of(source, settings.cache_dir).folder
    if folder is None:
        say(f"error: {source.name} is not downloaded; `models pull {arguments.name}` does that")
        return FAILED
    print(folder)
    return 0
