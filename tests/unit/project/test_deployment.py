"""What is shipped for operators: images, which nothing here can build, a unit, and documents."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.conftest import NANO, ROOT, Sample, StartServer
from whisper_server.core.config import Settings

DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
VARIABLES = {field.alias: field for field in Settings.model_fields.values()}


def lines_of(name: str) -> list[list[str]]:
    """Return the instructions of a Dockerfile, each as its words."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def values(name: str, instruction: str) -> list[list[str]]:
    return [words for first, *words in lines_of(name) if first == instruction]


def copied(name: str) -> list[str]:
    return [source for *sources, _target in values(name, "COPY") for source in sources]


def ignores(path: str) -> bool:
    """Tell whether .dockerignore leaves a file out: the last line that matches decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.strip().removeprefix("!")
        if pattern and not line.startswith("#") and (fnmatch(path, pattern) or path == pattern):
            ignored = not line.startswith("!")
    return ignored


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_copies_what_is_there_and_runs_as_nobody(name: str) -> None:
    for path in copied(name):
        assert (ROOT / path).exists(), path
        assert not ignores(path), path
    assert ignores("models")
    assert ignores(".env")
    (user,) = values(name, "USER")
    assert int(user[0]) > 0
    names = [first for first, *_ in lines_of(name)]
    assert names.index("USER") > max(i for i, each in enumerate(names) if each == "RUN")
    environment = dict(pair.split("=", 1) for words in values(name, "ENV") for pair in words)
    ours = {key: value for key, value in environment.items() if key.startswith("WHISPER_")}
    assert set(ours) <= set(VARIABLES)
    assert values(name, "VOLUME") == [[ours["WHISPER_CACHE_DIR"]]]
    assert values(name, "EXPOSE") == [[ours["WHISPER_SERVER_PORT"]]]
    assert int(ours["WHISPER_SERVER_PORT"]) == VARIABLES["WHISPER_SERVER_PORT"].default
    assert values(name, "ENTRYPOINT") == [['["python",', '"whisper_api_server.py"]']]


def health_check(name: str) -> list[str]:
    (check,) = values(name, "HEALTHCHECK")
    command = " ".join(check).partition("CMD ")[2]
    words: list[str] = json.loads(command)
    assert words[0] == "python"
    return [sys.executable, *words[1:]]


def test_the_health_check_passes_with_a_server_and_fails_without(start_server: StartServer) -> None:
    commands = {tuple(health_check(name)) for name in DOCKERFILES}
    (command,) = commands
    server = start_server()
    port = {**os.environ, "WHISPER_SERVER_PORT": str(server.address[1])}
    assert subprocess.run(command, env=port, check=False).returncode == 0
    assert server.stop() == 0
    assert subprocess.run(command, env=port, check=False, capture_output=True).returncode != 0


def test_what_is_copied_is_all_that_the_server_needs(tmp_path: Path, speech: Sample) -> None:
    for path in copied("Dockerfile"):
        place = tmp_path / path
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copyfile)(ROOT / path, place)
    audio = tmp_path / "speech.flac"
    audio.write_bytes(speech.data)
    command = [sys.executable, "whisper_server.py", "--model", str(NANO), str(audio)]
    environment = {"PATH": os.defpath, "WHISPER_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == f"{speech.text}\n"
    version_of = [sys.executable, "whisper_api_server.py", "--version"]
    assert subprocess.run(version_of, cwd=tmp_path, env=environment, check=True, timeout=60)


def test_the_documents_name_settings_that_exist() -> None:
    for page in (OPERATIONS, (ROOT / "SECURITY.md").read_text(encoding="utf-8")):
        named = set(re.findall(r"\b(?:WHISPER|MAX_AUDIO|ALLOWED)_[A-Z_]+\b", page))
        assert named <= {*VARIABLES, "WHISPER_QUEUE_"}, named - set(VARIABLES)


def test_the_table_of_limits_has_the_defaults_of_the_code() -> None:
    rows = re.findall(r"^\| [^|]+ \| `([A-Z_]+)` \| `([^`]+)` \|", OPERATIONS, re.MULTILINE)
    assert len(rows) > 10
    for name, shown in rows:
        assert str(VARIABLES[name].default) == shown, name
    limits = {name for name in VARIABLES if name and re.search(r"QUEUE|MAX_|_S$", name)}
    assert limits == {name for name, _ in rows if re.search(r"QUEUE|MAX_|_S$", name)}


def block(marker: str) -> str:
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", OPERATIONS, re.DOTALL)
    assert found, marker
    return found[1]


def test_the_commands_of_the_document_parse() -> None:
    for marker in ("behind a proxy", "container", "upgrade"):
        subprocess.run(["bash", "-n"], input=block(marker), text=True, check=True)
    words = shlex.split(block("container").replace("\n", " "))
    for pair in (words[i + 1] for i, word in enumerate(words) if word == "-e"):
        assert pair.partition("=")[0] in VARIABLES
    files = [words[i + 1] for i, word in enumerate(words) if word == "-f"]
    assert {"Dockerfile", *files} == set(DOCKERFILES)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_unit_is_valid_and_confined(tmp_path: Path) -> None:
    unit = tmp_path / "whisper-server.service"
    text = block("systemd")
    found = re.search(r"^ExecStart=(\S+) (\S+)$", text, re.MULTILINE)
    assert found
    assert Path(found[2]).name == "whisper_api_server.py"
    unit.write_text(text.replace(found[1], sys.executable))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "whisper-server.service" not in checked.stderr, checked.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-500:]
    grace = re.search(r"TimeoutStopSec=(\d+)", text)
    assert grace
    assert int(grace[1]) > VARIABLES["WHISPER_SHUTDOWN_GRACE_S"].default
