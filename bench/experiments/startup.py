"""Cold start and memory of the server process, with the nano model and the real engine.

    python -m bench.experiments.startup [--runs 9] [--command dist/whisper_api_server]

Starts `whisper_api_server.py`, or the command, on a free port, again and again. Times run from just before
the process is made to the last byte of the answer; memory is the server process's own resident set (of a
one-file program, the child's that it unpacks). A first run, which also converts the model into an empty
cache, is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
NANO = ROOT / "models" / "nano-whisper"
CLIP = NANO / "samples" / "en-plain-000.flac"


def start_once(cache: str, program: list[str]) -> dict[str, float]:
    """Return seconds and megabytes of one life of the server."""
    environment = {**os.environ, "WHISPER_MODELS": f"nano={NANO}", "WHISPER_CACHE_DIR": cache}
    command = [*program, "--port", "0", "--log-level", "error"]
    figures: dict[str, float] = {}
    started = time.perf_counter()
    with subprocess.Popen(command, env=environment, cwd=cache, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split()[-1]
        with httpx.Client(base_url=url, timeout=60) as client:
            client.get("/health").raise_for_status()
            figures["start to /health, s"] = time.perf_counter() - started
            while client.get("/ready").status_code != 200:
                time.sleep(0.005)
            figures["start to /ready, s"] = time.perf_counter() - started
            server = psutil.Process(process.pid)
            server = next(iter(server.children()), server)
            memory = server.memory_info
            figures["memory before the first model, MB"] = memory().rss / 1e6
            files = {"file": CLIP.read_bytes()}
            reply = client.post("/v1/audio/transcriptions", files=files, data={"model": "nano"})
            assert reply.json()["text"] == "house left tree", reply.text
            figures["start to the first transcript, s"] = time.perf_counter() - started
            figures["memory with the first model, MB"] = memory().rss / 1e6
            figures["peak memory, MB"] = peak_mb(server.pid)
        process.terminate()
        assert process.wait() == 0
    return figures


def peak_mb(pid: int) -> float:
    """Return the high-water mark of the resident set; not a number where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--command", help="program to start instead of whisper_api_server.py")
    arguments = parser.parse_args()
    runs = arguments.runs
    program = [sys.executable, str(ROOT / "whisper_api_server.py")]
    if arguments.command:
        program = [str(Path(arguments.command).resolve())]
    with tempfile.TemporaryDirectory() as cache:
        start_once(cache, program)
        figures = [start_once(cache, program) for _ in range(runs)]
    print(f"| median of {runs} | | worst |\n| --- | --- | --- |")
    for name in figures[0]:
        values = [each[name] for each in figures]
        digits = 2 if name.endswith(" s") else 0
        print(f"| {name} | {statistics.median(values):.{digits}f} | {max(values):.{digits}f} |")


if __name__ == "__main__":
    main()
