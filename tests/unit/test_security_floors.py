"""Dependencies: one list, whose floors are above the advisories that SECURITY.md names."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.conftest import ROOT

FILES = ("requirements.txt", "requirements-torch.txt")


def parts(number: str) -> tuple[int, ...]:
    """Return a version as numbers that compare: 1.10 is above 1.9."""
    return tuple(int(part) for part in re.findall(r"\d+", number.partition("+")[0]))


def floors() -> dict[str, str]:
    """Return package -> floor, over all requirements."""
    found: dict[str, str] = {}
    for name in FILES:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if match := re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)", line):
                assert match[1] not in found
                found[match[1]] = match[2]
    return found


def advisories() -> list[tuple[str, str]]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+) \|", text, re.MULTILINE)


def test_every_requirement_has_a_floor() -> None:
    for name in FILES:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or re.match(r"[a-z0-9-]+>=[0-9.]+(,<\d+)?$", line), line


def test_the_package_has_the_same_floors() -> None:
    """The package reads the requirements files: a list of its own could differ."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["dependencies", "optional-dependencies"]' in project
    assert 'dependencies = { file = "requirements.txt" }' in project
    assert 'optional-dependencies.torch = { file = "requirements-torch.txt" }' in project
    assert not re.search(r"^dependencies = \[", project, re.MULTILINE)


@pytest.mark.parametrize(("package", "at_least"), advisories())
def test_no_floor_is_below_an_advisory(package: str, at_least: str) -> None:
    assert parts(floors()[package]) >= parts(at_least)
    try:
        installed = version(package)
    except PackageNotFoundError:
        assert package == "torch"  # an extra
        return
    assert parts(installed) >= parts(at_least)


def test_the_advisories_that_made_us_look_are_there() -> None:
    assert {"starlette", "python-multipart", "h11", "av"} <= {package for package, _ in advisories()}
