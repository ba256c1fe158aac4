"""What the documents show is what happens: the README's commands run, the settings table is the code's."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.info import Describe, Info

from tests.conftest import ROOT, SAMPLES, Sample, StartServer
from tests.support.audio_files import Clip, encode

README = (ROOT / "README.md").read_text(encoding="utf-8")


MOVING = (ROOT / "docs" / "moving-from-openai.md").read_text(encoding="utf-8")


def block(marker: str, page: str = README, language: str = "sh") -> str:
    """Return the lines of the code block after a comment."""
    found = re.search(rf"<!-- {marker} -->\n```{language}\n(.*?)```", page, re.DOTALL)
    assert found, f"there is no block {marker!r}"
    return found[1]


def test_the_settings_table_is_up_to_date() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_settings.py"))["table"]()
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == made


def test_the_first_command_prints_what_the_readme_says(tmp_path: Path) -> None:
    line = next(line for line in block("first command").splitlines() if "whisper_server.py" in line)
    arguments = line.strip().removeprefix("python ").removesuffix("&&").split()
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "WHISPER_CACHE_DIR": str(tmp_path)},
        check=True,
    )
    assert f"It prints `{done.stdout.strip()}`" in README


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_examples_transcribe(
    start_server: StartServer, nano_cache: Path, samples: dict[str, object]
) -> None:
    server = start_server(
        "--model",
        str(ROOT / "models" / "nano-whisper"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
    )
    script = block("curl").replace("http://127.0.0.1:8089", server.url).replace("curl ", "curl -sS ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.count(samples["fr-plain-009.flac"].text) == 2  # type: ignore[attr-defined]


@pytest.mark.long
def test_the_examples_for_those_who_move(
    start_server: StartServer, nano_cache: Path, samples: dict[str, Sample]
) -> None:
    server = start_server(
        *("--model", str(ROOT / "models" / "nano-whisper")),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
    )
    variables = {"OPENAI_BASE_URL": f"{server.url}/v1", "OPENAI_API_KEY": "any"}
    for name in variables:
        assert f"export {name}=" in MOVING
    command = block("moving: one request", MOVING).replace("http://127.0.0.1:8089", server.url)
    program = block("moving: the official client", MOVING, "python")
    text = samples["en-plain-000.flac"].text
    for argv, expected in (
        (["bash", "-euo", "pipefail", "-c", command], f'"text":"{text}"'),
        ([sys.executable, "-c", program], f"{text}\nnano-whisper\n"),
    ):
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=ROOT, check=True, env={**os.environ, **variables}
        )
        assert expected in done.stdout


def test_the_example_of_a_realtime_session(
    start_server: StartServer, nano_cache: Path, speech: Sample, tmp_path: Path
) -> None:
    pytest.importorskip("openai")
    server = start_server(
        *("--model", str(ROOT / "models" / "nano-whisper")),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_CACHE_DIR=str(nano_cache),
    )
    page = (ROOT / "docs" / "realtime.md").read_text(encoding="utf-8")
    program = block("one turn", page, "python").replace("http://127.0.0.1:8089", server.url)
    (tmp_path / "speech.wav").write_bytes(encode(Clip(SAMPLES / speech.name, speech.text, ()).samples()))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    # The words as they come, then the final text.
    assert done.stdout == f"{speech.text}\n{speech.text}\n"


PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "bench").rglob("*.md")),
]


def anchors(page: Path) -> set[str]:
    """Return what `#...` may name in a page: its headings, as GitHub writes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_in_the_documents_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"it links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"it links to {target}"


def test_the_readme_names_every_route() -> None:
    from whisper_server.api.app import create_app
    from whisper_server.core.config import Settings

    paths = create_app(Settings(_env_file=None)).openapi()["paths"]
    missing = [path for path in paths if path.partition("{")[0].rstrip("/") not in README]
    assert missing == []


@pytest.mark.long
@pytest.mark.parametrize("marker", ["same machine", "another machine"])
async def test_home_assistants_examples_listen(marker: str, tmp_path: Path) -> None:
    """The commands run as they are written, on other ports and without a download."""
    page = (ROOT / "docs" / "home-assistant.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {marker} -->\n```sh\n(.*?)```", page, re.DOTALL)
    assert found
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = found[1].replace("10300", str(port)).replace("python ", f"exec {sys.executable} ")
    script = script.replace("WHISPER_PRELOAD=whisper-1", "WHISPER_PRELOAD=").strip() + " --port 0"
    process = subprocess.Popen(  # noqa: ASYNC220  (it returns at once)
        ["bash", "-c", script],
        cwd=ROOT,
        env={**os.environ, "WHISPER_ENGINE": "fake", "WHISPER_CACHE_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        assert process.stderr.readline().startswith("listening on http://127.0.0.1:")
        assert process.stderr.readline().startswith("listening on tcp://")
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=60) as client:
            await client.write_event(Describe().event())
            event = await client.read_event()
            assert event is not None
            assert Info.from_event(event).asr[0].models[0].name == "whisper-1"
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
