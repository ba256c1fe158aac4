"""Settings that are lists: written with commas in the environment and in flags."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BeforeValidator
from pydantic_settings import NoDecode


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


CommaList: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
