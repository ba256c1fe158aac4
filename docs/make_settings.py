"""Write docs/settings.md from the Settings class: `python docs/make_settings.py`; a test compares the two."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pydantic.fields import FieldInfo  # noqa: E402

from whisper_server.core.config import Settings  # noqa: E402
from whisper_server.core.settings.renamed import RENAMED  # noqa: E402

TARGET = ROOT / "docs" / "settings.md"
HEAD = """# Settings

Made from the code by `python docs/make_settings.py`. Every setting is an environment variable, a line in a
file `.env` in the working directory, or a flag of `whisper_api_server.py`; a flag wins over the environment,
the environment over `.env`. A bad value ends the start with one line that names the variable.

| variable | flag | default | meaning |
| --- | --- | --- | --- |
"""
RENAMED_HEAD = """
## Old names

Variables, and flags of the same names, that this release still reads, with one warning at the start, and the
next one does not. New names win over old ones of the same source.

| old | new |
| --- | --- |
"""


def default_of(name: str, field: FieldInfo) -> str:
    """Return the default as an operator would write it."""
    if name == "cache_dir":
        return "the user's cache folder, `whisper-server`"
    value = field.default
    if isinstance(value, tuple):
        value = ",".join(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{value}`" if value != "" else "none"


def table() -> str:
    """Return the whole page."""
    rows = []
    for name, field in Settings.model_fields.items():
        flag = "--" + name.replace("_", "-")
        rows.append(f"| `{field.alias}` | `{flag}` | {default_of(name, field)} | {field.description} |\n")
    old = []
    for each in RENAMED:
        new = " and ".join(f"`{name}`" for name in each.new)
        old.append(f"| `{each.old}` | {new}{each.difference and f' ({each.difference})'} |\n")
    return HEAD + "".join(rows) + RENAMED_HEAD + "".join(old)


if __name__ == "__main__":
    TARGET.write_text(table(), encoding="utf-8")
