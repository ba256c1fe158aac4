"""The rules of the tree that `.ci/layers` cannot check; docs/architecture.md describes the tree."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "whisper_server"
FILES = {file.relative_to(PACKAGE).as_posix(): file for file in sorted(PACKAGE.rglob("*.py"))}
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 50

# The only rooms that may import a library: late or early, itself or for its types.
ROOMS_OF = {
    "fastapi": ["api"],
    "starlette": ["api", "cluster"],
    "uvicorn": ["api/server"],
    "h11": ["api/server"],
    "tqdm": ["cli"],
    "prometheus_client": ["core/metrics.py", "core/merged_metrics.py"],
    "ray": ["cluster"],
    "yaml": ["cluster"],
    "av": ["services/audio"],
    "onnxruntime": ["services/onnx"],
    "ctranslate2": ["services/engines/ct2"],
    "torch": ["services/engines/torch"],
    "transformers": ["services/engines/torch"],
    "tokenizers": ["services/engines"],
    "huggingface_hub": ["services/model_files"],
    "filelock": ["services/model_files"],
    "budoux": ["services/rendering"],
    "regex": ["services/rendering"],
    "wyoming": ["wyoming"],
    "sqlalchemy": ["services/jobs"],
    "standardwebhooks": ["services/jobs"],
    "httpx2": ["services/jobs", "cli/remote.py"],
}

# What is not imported until it is needed, by where a process starts. Measured on one core: ctranslate2 takes
# 0.07 s and 26 MB, transformers 4.6 s and 370 MB, PyAV 0.08 s and 31 MB.
INFERENCE = ["onnxruntime", "ctranslate2", "torch", "transformers", "tokenizers", "huggingface_hub"]
LATE = {
    "api/server/__main__.py": [
        *INFERENCE,
        "av",
        "fastapi",
        "starlette",
        "numpy",
        "sqlalchemy",
    ],  # /health answers before them
    "api/app.py": [*INFERENCE, "av", "sqlalchemy", "httpx2"],
    "cli/transcribe.py": [*INFERENCE, "av", "tqdm", "httpx2", "sqlalchemy"],
    "services/audio/decoder_process/child.py": [*INFERENCE, "av", "fastapi", "pydantic", "numpy"],
    "services/engines/ct2/convert.py": [*INFERENCE, "numpy"],
}


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def names(node: ast.AST) -> list[str]:
    """Return the dotted names that an import statement could mean: `from a import b` is a, or a.b."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def imports(file: Path) -> set[str]:
    """Return every name that a file imports anywhere, also for types alone."""
    return {name for node in ast.walk(tree(file)) for name in names(node)}


def at_import(statements: Sequence[ast.stmt | ast.excepthandler]) -> Iterator[str]:
    """Yield what is imported as soon as the module is: not in functions, not for types alone."""
    for node in statements:
        yield from names(node)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts = ("orelse",) if is_for_types else ("body", "handlers", "orelse", "finalbody")
            for part in parts:
                yield from at_import(getattr(node, part, []))


def files_of(name: str) -> list[Path]:
    """Return the files that Python runs to import a dotted name of ours: the packages above it too."""
    parts = name.split(".")
    found = []
    for end in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:end])
        found += [file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()]
    return [file for file in found if PACKAGE in file.parents]


def loaded_by(start: Path) -> dict[str, Path]:
    """Return every library that importing a file imports, and one file that does so."""
    seen, waiting, found = {start}, [start], {}
    while waiting:
        file = waiting.pop()
        for name in at_import(tree(file).body):
            found.setdefault(name.partition(".")[0], file)
            new = [each for each in files_of(name) if each not in seen]
            seen.update(new)
            waiting += new
    return found


def is_in(file: str, room: str) -> bool:
    return PurePosixPath(room) in (PurePosixPath(file), *PurePosixPath(file).parents)


@pytest.mark.parametrize("library", ROOMS_OF)
def test_a_library_stays_in_its_room(library: str) -> None:
    users = [
        name for name, file in FILES.items() if library in {each.partition(".")[0] for each in imports(file)}
    ]
    assert users, f"{library} is not used any more"
    assert [name for name in users if not any(is_in(name, room) for room in ROOMS_OF[library])] == []


@pytest.mark.parametrize("start", LATE)
def test_what_is_slow_or_large_is_imported_late(start: str) -> None:
    found = loaded_by(FILES[start])
    early = {library: file.relative_to(ROOT).as_posix() for library, file in found.items()}
    assert {library: file for library, file in early.items() if library in LATE[start]} == {}


def test_the_late_imports_would_be_seen() -> None:
    assert {"fastapi", "numpy"} <= loaded_by(FILES["api/app.py"]).keys()
    assert {"torch", "numpy"} <= loaded_by(FILES["services/engines/torch/engine.py"]).keys()


@pytest.mark.parametrize(("mine", "other"), [("ct2", "torch"), ("torch", "ct2")])
def test_no_engine_imports_the_other(mine: str, other: str) -> None:
    engines = "whisper_server.services.engines"
    inside = [name for name in FILES if is_in(name, f"services/engines/{mine}")]
    assert [
        n for n in inside if any(f"{i}.".startswith(f"{engines}.{other}.") for i in imports(FILES[n]))
    ] == []


def test_every_folder_has_an_init_with_a_docstring_and_nothing_else() -> None:
    folders = {file.parent for file in FILES.values()} - {PACKAGE}
    for folder in sorted(folders):
        body = tree(folder / "__init__.py").body
        assert len(body) == 1, folder
        assert ast.get_docstring(tree(folder / "__init__.py")), folder


def test_no_file_and_no_function_is_too_long() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in FILES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES} == {}
    functions = {
        f"{name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for name, file in FILES.items()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert {name: lines for name, lines in functions.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}


def paths_named(line: str) -> list[str]:
    """Return the paths in a line's code spans and links; `a/{b,c}.py` are two."""
    spans = [span for span in re.findall(r"`([^`]+)`", line) if re.fullmatch(r"[\w.-][\w./{},-]*", span)]
    found = [span for span in spans if "/" in span or span.endswith((".py", ".md"))]
    found += [target.removeprefix("../") for target in re.findall(r"\]\((?!https?:)([^)#]+)", line)]
    return [path for each in found for path in expanded(each)]


def expanded(path: str) -> list[str]:
    braces = re.search(r"\{([^}]*)\}", path)
    if braces is None:
        return [path]
    return [path[: braces.start()] + each + path[braces.end() :] for each in braces[1].split(",")]


def test_every_path_in_the_page_exists() -> None:
    missing = []
    for line in PAGE.splitlines():
        room = re.match(r"\| `([\w/]+)/` \|", line)  # the names in a room's line are those of its files
        bases = [ROOT, ROOT / "docs", PACKAGE, *([PACKAGE / room[1]] if room else [])]
        missing += [path for path in paths_named(line) if not any((base / path).exists() for base in bases)]
    assert missing == []


def test_the_page_has_a_line_for_every_room() -> None:
    rooms = {file.parent.relative_to(PACKAGE).as_posix() for file in FILES.values()} - {"."}
    assert sorted(room for room in rooms if f"`{room}/`" not in PAGE) == []
