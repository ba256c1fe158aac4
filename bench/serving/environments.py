"""The peers' virtual environments, one each with pinned versions: `python -m bench.serving.environments
[PEER...]`.

They are made once, under build/bench/venvs, and never touch the environment that the server runs in. A
finished one has a copy of the list it was made from; a changed list makes it again. whisper.cpp is no Python
package: `build_whisper_cpp` compiles a source folder that the caller has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build" / "bench"

_WEB = ["fastapi==0.165.0", "uvicorn==0.54.0", "python-multipart==0.0.34", "av==18.1.0", "numpy==2.4.6"]
_TORCH = ["torch==2.13.0"]  # first and alone: without the pin pip may fetch gigabytes for graphics cards
# Each inner list is one call of pip. openai-whisper names triton, which only graphics cards use.
PINNED: dict[str, list[list[str]]] = {
    "faster-whisper": [[*_WEB, "faster-whisper==1.2.1", "ctranslate2==4.8.5", "onnxruntime==1.32.0"]],
    "openai-whisper": [
        _TORCH,
        ["--no-deps", "openai-whisper==20250625"],
        [*_WEB, "numba==0.68.1", "tiktoken==0.14.0", "more-itertools==11.2.1", "tqdm", "safetensors==0.8.0"],
    ],
    "transformers": [_TORCH, [*_WEB, "transformers==5.23.0", "safetensors==0.8.0"]],
}
_SHOWN = ("faster-whisper", "ctranslate2", "openai-whisper", "transformers", "torch")


def python(name: str, build: Path = BUILD) -> Path:
    """Return the interpreter of the peer's environment, made where it is missing; blocks, minutes."""
    folder = build / "venvs" / name
    interpreter = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    made_from, wanted = folder / "bench.json", json.dumps(PINNED[name])
    if made_from.is_file() and made_from.read_text() == wanted:
        return interpreter
    shutil.rmtree(folder, ignore_errors=True)
    print(f"making the environment of {name}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    for packages in PINNED[name]:
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", *packages], check=True)
    made_from.write_text(wanted)
    return interpreter


def versions(name: str, build: Path = BUILD) -> dict[str, str]:
    """Return the versions that matter for a report."""
    command = [str(python(name, build)), "-m", "pip", "list", "--format", "json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    found = {entry["name"].replace("_", "-"): entry["version"] for entry in listed}
    return {package: found[package] for package in _SHOWN if package in found}


def build_whisper_cpp(source: Path, build: Path = BUILD) -> Path:
    """Compile whisper.cpp's server for this machine's processor; return it. Needs cmake and a compiler."""
    folder = build / "whisper.cpp"
    binary = folder / "bin" / "whisper-server"
    if not binary.is_file():
        options = ["-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DWHISPER_BUILD_TESTS=OFF"]
        folder.mkdir(parents=True, exist_ok=True)
        make = ["cmake", "--build", str(folder), "-j", str(os.cpu_count() or 1)]
        with (folder / "bench.log").open("w") as log:  # thousands of warnings
            for command in (
                ["cmake", "-S", str(source), "-B", str(folder), *options],
                [*make, "--target", "whisper-server", "whisper-quantize"],
            ):
                subprocess.run(command, check=True, stdout=log, stderr=log)
    return binary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(PINNED))
    for name in parser.parse_args().peers or PINNED:
        print(name, versions(name))


if __name__ == "__main__":
    main()
