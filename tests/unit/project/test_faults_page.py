"""docs/faults.md: each row names tests, and each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
PAGE = (TESTS.parent / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if re.match(r"\| \d", line)]
SOURCES = {path.relative_to(TESTS).as_posix(): path for path in TESTS.rglob("test_*.py")}


def named(row: str) -> list[str]:
    """Return what is named as a test, the last cell of a row."""
    return re.findall(r"`([^`]+)`", row.strip("| ").split(" | ")[5])


def file_of(name: str) -> str:
    """Return the only file that a name can mean."""
    (found,) = [path for path in SOURCES if path == name or path.endswith(f"/{name}")]
    return found


def test_there_are_rows() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split(" | ")[0].strip("| "))
def test_every_row_names_tests_that_are_there(row: str) -> None:
    path = ""
    assert named(row)
    for name in named(row):
        if name.startswith("pytest "):  # how they are run
            continue
        first, _, function = name.removeprefix("tests/").partition("::")
        if first.endswith(".py"):
            path = file_of(first)
        else:  # a function of the file that was named last
            function = first
        if function:
            pattern = rf"^(async )?def {function.replace('*', r'[a-z0-9_]*')}\("
            assert re.search(pattern, SOURCES[path].read_text(encoding="utf-8"), re.MULTILINE), name
