"""Check that a resolution has every floor of requirements files: `check_floors.py RESOLVED REQUIREMENTS...`.

A floor that another package forbids cannot be installed, so no run has proven it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def requirements(path: str) -> Iterator[Requirement]:
    """Yield the requirements of a file that hold on this machine."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-"):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def floor(requirement: Requirement) -> Version:
    """Return the version that `>=` or `==` names."""
    (version,) = [each.version for each in requirement.specifier if each.operator in {">=", "=="}]
    return Version(version)


def main() -> int:
    resolved_in, *files = sys.argv[1:]
    resolved = {canonicalize_name(each.name): floor(each) for each in requirements(resolved_in)}
    wrong = [
        f"{requirement.name}: the floor is {floor(requirement)}, the oldest that can be had {found}"
        for file in files
        for requirement in requirements(file)
        if (found := resolved[canonicalize_name(requirement.name)]) != floor(requirement)
    ]
    print("\n".join(wrong) or f"{len(resolved)} packages, every direct one at its floor")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
