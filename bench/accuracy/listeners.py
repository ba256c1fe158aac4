"""Who listens: our server or another over HTTP, a library in an environment of its own; all on one model.

Owns processes and weight files; knows nothing of what is said in a recording.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import httpx
import psutil

from bench.serving import environments
from bench.serving.servers import OURS, Setup, converted, openai_file, running
from whisper_server.core.errors import UnknownLanguage
from whisper_server.core.languages import parse_language

PEERS = Path(__file__).parent / "peers"
FASTER = {"faster-whisper": (), "faster-whisper vad": ("--vad",), "faster-whisper batched": ("--batched",)}
OPENAI = "openai-whisper"
KNOWN = (OURS, *FASTER, OPENAI)
ROUTE = "/v1/audio/transcriptions"
TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one request."""

    text: str = ""
    language: str | None = None  # a code; not every answer says it
    words: list[tuple[str, float, float]] = field(default_factory=list)  # with the times in the file, s
    wall_s: float = 0.0
    cpu_s: float = 0.0  # of the process and its children; 0 where it is not ours to see
    error: str = ""  # why there is no text


# path, language, whether with words
Hear: TypeAlias = Callable[[Path, "str | None", bool], Heard]


@contextlib.contextmanager
def listening(name: str, setup: Setup, url: str | None = None) -> Iterator[Hear]:
    """Start what is called `name` and end it afterwards; `url` is a server that runs already."""
    if url:
        yield _over_http(url, setup.size, None)
    elif name == OURS:
        with running(OURS, setup) as server:
            yield _over_http(server.url, setup.size, server.process)
    else:
        with _library(name, setup) as hear:
            yield hear


def _over_http(url: str, model: str, process: psutil.Process | None) -> Hear:
    def ask(file: Path, language: str | None, has_words: bool) -> Heard:
        form: dict[str, Any] = {"model": model}
        if language:
            form["language"] = language
        if has_words:
            form |= {"response_format": "verbose_json", "timestamp_granularities[]": ["segment", "word"]}
        files = {"file": (file.name, file.read_bytes())}
        try:
            response = httpx.post(url + ROUTE, data=form, files=files, timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            return Heard(error=f"{type(error).__name__}: {error}")
        if response.status_code != 200:
            return Heard(error=f"{response.status_code}: {response.text[:300]}")
        answer = response.json()
        words = answer.get("words") or []
        return _heard(answer, [(word["word"], word["start"], word["end"]) for word in words])

    return lambda *asked: _timed(lambda: ask(*asked), process)


@contextlib.contextmanager
def _library(name: str, setup: Setup) -> Iterator[Hear]:
    command = _command(name, setup)
    logs = setup.build / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    pipe = subprocess.PIPE
    with (logs / f"accuracy {name}.log").open("w") as log:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True)
        assert process.stdin is not None
        assert process.stdout is not None

        def line() -> dict[str, Any]:
            answered = process.stdout.readline() if process.stdout else ""
            if not answered:
                raise RuntimeError(f"{name} ended; its output is in {log.name}")
            return dict(json.loads(answered))

        def ask(file: Path, language: str | None, has_words: bool) -> Heard:
            assert process.stdin is not None
            asked = {"file": str(file.resolve()), "language": language, "words": has_words}
            print(json.dumps(asked), file=process.stdin, flush=True)
            answer = line()
            return _heard(answer, answer.get("words", []))

        try:
            line()  # the model is loaded
            yield lambda *asked: _timed(lambda: ask(*asked), psutil.Process(process.pid))
        finally:
            process.kill()
            process.wait()


def _command(name: str, setup: Setup) -> list[str]:
    """Return how the library is started; makes its environment and its weights where they are missing."""
    if name == OPENAI:
        folder = setup.weights or Path()
        made = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        flags = [str(openai_file(setup)), "--heads", json.dumps(made.get("alignment_heads", []))]
        script, environment = "openai_whisper_listener.py", OPENAI
    else:
        flags, script, environment = [str(ct2_folder(setup)), *FASTER[name]], "faster_whisper_listener.py", ""
    interpreter = environments.python(environment or "faster-whisper", setup.build)
    shared = ["--beam", str(setup.beam), "--threads", str(setup.cores)]
    return [str(interpreter), str(PEERS / script), *flags, *shared]


def ct2_folder(setup: Setup) -> Path:
    """Return the weights for CTranslate2: `NAME-ct2` beside the folder, or converted by ours to 8 bits."""
    beside = setup.weights.with_name(setup.weights.name + "-ct2") if setup.weights else None
    return beside if beside and beside.is_dir() else converted(setup)


def _heard(answer: dict[str, Any], words: list[Any]) -> Heard:
    if "error" in answer:
        return Heard(error=str(answer["error"]))
    said = answer.get("language")
    try:
        code = parse_language(said)
    except UnknownLanguage:
        code = str(said)
    timed = [(str(word), float(start), float(end)) for word, start, end in words]
    return Heard(str(answer["text"]).strip(), code, timed)


def _timed(ask: Callable[[], Heard], process: psutil.Process | None) -> Heard:
    cpu_s, began = _cpu_s(process), time.perf_counter()
    heard = ask()
    return replace(heard, wall_s=time.perf_counter() - began, cpu_s=_cpu_s(process) - cpu_s)


def _cpu_s(process: psutil.Process | None) -> float:
    """Return the processor time of a process, its children, and those of them that have ended."""
    if process is None:
        return 0.0
    times = process.cpu_times()
    spent = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            spent += child.cpu_times().user + child.cpu_times().system
    return spent
