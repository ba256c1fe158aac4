"""Every benchmark can be started: `python -m bench.serving` and `python -m bench.experiments.<each>`."""

from __future__ import annotations

import importlib
import sys

import pytest

from tests.conftest import ROOT

EXPERIMENTS = sorted(path.stem for path in (ROOT / "bench" / "experiments").glob("*.py"))
COMMANDS = [
    "bench.grow",
    "bench.accuracy.__main__",
    "bench.serving.__main__",
    "bench.serving.real",
    *(f"bench.experiments.{name}" for name in EXPERIMENTS),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_it_says_what_it_takes(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(command)
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as end:
        module.main()
    assert end.value.code == 0
    assert "--help" in capsys.readouterr().out


def test_every_experiment_is_in_the_table() -> None:
    page = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    assert [name for name in EXPERIMENTS if f"`{name}`" not in page] == []
