"""Command-line flags, made from the settings: one per field, so that neither can lag behind."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from whisper_server import __version__
from whisper_server.core.config import Settings
from whisper_server.core.settings.renamed import RENAMED


def parse_flags(argv: Sequence[str] | None) -> dict[str, Any]:
    """Return field name -> value for the flags that were given; values are checked by the settings."""
    parser = argparse.ArgumentParser(
        prog="whisper-api-server",
        description="Speech to text on your own machine, with OpenAI's audio API.",
        epilog="Each flag wins over the environment variable beside it, and that over a file .env."
        " `models --help`: list, download and delete models. `cluster --help`: on several machines.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    for name, field in Settings.model_fields.items():
        _add_flag(parser, name, field)
    for renamed in RENAMED:
        action = argparse.BooleanOptionalAction if renamed.is_switch else "store"
        parser.add_argument(_flag(renamed.name), help=argparse.SUPPRESS, action=action)
    return vars(parser.parse_args(argv))


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    default = field.get_default(call_default_factory=True, validated_data={})
    shown = ",".join(default) if isinstance(default, tuple) else default
    text = f"{field.description} [{field.alias}{'' if shown in ('', None) else f', default {shown}'}]"
    flag, text = _flag(name), text.replace("%", "%%")
    if isinstance(default, bool):
        parser.add_argument(flag, help=text, action=argparse.BooleanOptionalAction)
    else:
        parser.add_argument(flag, help=text, metavar=name.rpartition("_")[2].upper())


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
