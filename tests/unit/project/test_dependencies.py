"""Dependencies: floors above the known advisories, ceilings where we use insides, a lock that fits both."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

CLUSTER = "requirements-cluster.txt"
EXTRAS = ("requirements-torch.txt", "requirements-cuda-only.txt")
FILES = ("requirements.txt", *EXTRAS, CLUSTER)
# Imported by the server, each from a distribution of another name.
DISTRIBUTIONS = {
    "av": "av",
    "huggingface_hub": "huggingface-hub",
    "multipart": "python-multipart",
    "pydantic_core": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "prometheus_client": "prometheus-client",
    "python_multipart": "python-multipart",
    "yaml": "pyyaml",
    "ml_dtypes": "ml-dtypes",
}


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith(("#", "-r "))]


def requirements(name: str) -> list[Requirement]:
    return [Requirement(line) for line in lines(name)]


def bound(requirement: Requirement, operator: str) -> Version | None:
    found = [each.version for each in requirement.specifier if each.operator == operator]
    return Version(found[0]) if found else None


def advisories() -> list[tuple[str, str]]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([a-z0-9-]+) \| ([0-9.]+) \|", text, re.MULTILINE)


def ceilings() -> dict[str, str]:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([a-z0-9-]+) \| below ([0-9.]+) \|", text, re.MULTILINE))


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_has_a_floor_and_stands_there_once(name: str) -> None:
    for requirement in requirements(name):
        assert bound(requirement, ">=") is not None, requirement
        assert {each.operator for each in requirement.specifier} <= {">=", "<"}, requirement
    everywhere = [(each.name, str(each.marker)) for file in FILES for each in requirements(file)]
    assert len(everywhere) == len(set(everywhere))


def test_the_ceilings_are_those_that_are_explained() -> None:
    everything = [*requirements("requirements.txt"), *requirements(CLUSTER)]
    here = [each for each in everything if not each.marker or each.marker.evaluate()]
    found = {each.name: str(top) for each in here if (top := bound(each, "<"))}
    assert found == ceilings()
    assert {"uvicorn", "h11", "av", "huggingface-hub", "ctranslate2", "onnxruntime"} <= set(found)


def test_the_package_reads_these_files() -> None:
    """A list of its own could differ."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"dependencies", "optional-dependencies"} <= set(project["project"]["dynamic"])
    hook = project["tool"]["hatch"]["metadata"]["hooks"]["requirements_txt"]
    assert hook["files"] == ["requirements.txt"]
    assert hook["optional-dependencies"]["torch"] == ["requirements-torch.txt"]
    assert hook["optional-dependencies"]["cuda"] == list(EXTRAS)
    assert hook["optional-dependencies"]["cluster"] == [CLUSTER]
    sdist = project["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    assert {*FILES, *hook["optional-dependencies"]["test"]} <= set(sdist)
    classifiers = project["project"]["classifiers"]
    floor = project["project"]["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {floor}" in classifiers


def test_the_address_of_the_repository_stands_there_in_one_spelling() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    addresses = set(re.findall(r"https://[^\"'/]+/whisper-server", text))
    assert len(addresses) == 1


def imported() -> set[str]:
    """Return the libraries that the package imports, late or early, but for types."""
    found: set[str] = set()
    for path in (ROOT / "whisper_server").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"whisper_server", "_typeshed"}


def test_what_is_imported_is_declared() -> None:
    declared = {canonicalize_name(each.name) for name in FILES for each in requirements(name)}
    needed = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in imported()}
    assert needed <= declared
    assert {"filelock", "numpy"} <= needed


@pytest.mark.parametrize(("package", "at_least"), advisories())
def test_no_floor_is_below_an_advisory(package: str, at_least: str) -> None:
    floors = {each.name: bound(each, ">=") for name in FILES for each in requirements(name)}
    assert floors[package] >= Version(at_least)
    try:
        installed = version(package)
    except PackageNotFoundError:
        assert package == "torch"  # an extra
        return
    assert Version(installed) >= Version(at_least)


def test_the_advisories_that_made_us_look_are_there() -> None:
    assert {"starlette", "python-multipart", "h11", "av"} <= {package for package, _ in advisories()}


def locked(name: str) -> list[tuple[Requirement, int]]:
    """Return what a lock pins, each with the number of its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
    found = [line.partition("--hash") for line in text.splitlines() if line and not line.startswith("#")]
    return [(Requirement(pin), (mark + hashes).count("--hash=sha256:")) for pin, mark, hashes in found]


@pytest.mark.parametrize("kind", ["requirements", "requirements-build"])
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize(
    "platform",
    ["linux x86_64", "linux aarch64", "darwin arm64", "darwin x86_64", "win32 AMD64"],
)
def test_the_lock_has_one_version_of_everything_and_within_the_bounds(
    kind: str, python: str, platform: str
) -> None:
    system, machine = platform.split()
    names = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
    environment = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_system": names[system],
        "platform_machine": machine,
        "os_name": "nt" if system == "win32" else "posix",
    }

    def holds(requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(environment)

    pins: dict[str, Version] = {}
    for pin, hashes in locked(f"{kind}.lock"):
        assert hashes > 0, pin
        if holds(pin):
            assert pin.name not in pins
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            pins[pin.name] = Version(specifier.version)
    for requirement in filter(holds, requirements(f"{kind}.txt")):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_images_and_the_documents_install_what_is_locked() -> None:
    for name in ("Dockerfile", "Dockerfile.cuda", "docs/operations.md", "docs/executable.md"):
        text = Path(ROOT, name).read_text(encoding="utf-8")
        assert re.search(r"pip install --require-hashes -r requirements\.lock", text), name
        assert not re.search(r"pip install [^\n]*requirements\.txt", text), name
