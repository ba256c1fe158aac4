"""The fields of a form, as clients write their names -> one mapping, the same that a JSON body gives.

Knows how the official clients encode lists and objects; must not know what a field means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

# Every value counts, whether the name is written `name`, `name[]` or `name[0]`.
LISTS = (
    "include",
    "keywords",
    "hotwords",
    "known_speaker_names",
    "known_speaker_references",
    "languages",
    "timestamp_granularities",
)

_BRACKETS = re.compile(r"([^\[\]]+)\[([^\[\]]*)\]")


def from_form(fields: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return name -> text, list of texts, or object; of a repeated text the last one counts.

    An object comes as `name[key]`, one field per key; it wins over a plain `name` beside it.
    """
    gathered: dict[str, Any] = {}
    for written, values in fields.items():
        name, key = split_name(written)
        if name in LISTS:
            gathered.setdefault(name, []).extend(values)
        elif key:
            if not isinstance(gathered.get(name), dict):
                gathered[name] = {}
            gathered[name][key] = values[-1]
        elif not isinstance(gathered.get(name), dict):
            gathered[name] = values[-1]
    return gathered


def split_name(written: str) -> tuple[str, str]:
    """Return the name and what stands in brackets after it, empty where there are none."""
    found = _BRACKETS.fullmatch(written)
    return (found[1], found[2]) if found else (written, "")
