"""Model folders with what would run if somebody let it: pickles and scripts that leave a trace."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.model_folders import edit, nano_copy
from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.base import EngineSpec
from whisper_server.services.engines.registry import load_engine

PICKLES = (
    "pytorch_model.bin",
    "model.bin",
    "model.pt",
    "training_args.bin",
    "optimizer.pth",
    "tokenizer.pkl",
)
SCRIPTS = ("modeling_whisper.py", "__init__.py", "sitecustomize.py")
ENGINES = [
    "ctranslate2",
    pytest.param(
        "torch",
        marks=[
            pytest.mark.torch,
            pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of transformers, not ours
            pytest.mark.filterwarnings("ignore::FutureWarning"),
        ],
    ),
]


class _Trap:
    """What makes a folder when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._trace),)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """The folder that a trap makes."""
    return tmp_path / "trace"


def set_trap(folder: Path, name: str, trace: Path) -> Path:
    path = folder / name
    if name in SCRIPTS:
        path.write_text(f"import os\nos.mkdir({str(trace)!r})\n", encoding="utf-8")
    else:
        path.write_bytes(pickle.dumps({"model": _Trap(trace)}))
    return path


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling_whisper.py"])
def test_the_traps_work(tmp_path: Path, trace: Path, name: str) -> None:
    path = set_trap(tmp_path, name, trace)
    program = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    command = [str(path)] if name in SCRIPTS else ["-c", program, str(path)]
    subprocess.run([sys.executable, "-W", "ignore", *command], check=True)
    assert trace.is_dir()


def load(folder: Path, engine: str) -> None:
    if engine == "torch":
        pytest.importorskip("torch")
        pytest.importorskip("transformers")
    load_engine(folder, EngineSpec(engine, "cpu", threads=1), folder.parent / "cache").close()


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_beside_good_weights_is_run(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """The folder is the working directory, too, where Python looks for modules first."""
    folder = nano_copy(tmp_path / "model")
    for name in (*PICKLES, *SCRIPTS):
        if name != "model.bin":  # is taken for a folder of CTranslate2
            set_trap(folder, name, trace)
    monkeypatch.chdir(folder)
    load(folder, engine)
    assert not trace.exists()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_no_weights(tmp_path: Path, trace: Path, engine: str, name: str) -> None:
    folder = nano_copy(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    set_trap(folder, name, trace)
    with pytest.raises(ModelUnavailable, match="'model'"):
        load(folder, engine)
    assert not trace.exists()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_code_that_a_folder_names_is_not_run(tmp_path: Path, trace: Path, engine: str, script: str) -> None:
    folder = nano_copy(tmp_path / "model")
    set_trap(folder, script, trace)
    edit(folder, "config.json", auto_map={"AutoModel": f"{Path(script).stem}.Model"})
    with pytest.raises(ModelUnavailable, match="code from the model folder, which is never run"):
        load(folder, engine)
    assert not trace.exists()
