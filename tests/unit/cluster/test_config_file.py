"""The example of a config file, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ROOT
from whisper_server.core.errors import ConfigError

pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt")

from whisper_server.cluster.command import main, notice_of_jobs, read_config

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning")

EXAMPLE = ROOT / "docs" / "cluster.yaml"


def changed(folder: Path, old: str, new: str) -> Path:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert old in text
    file = folder / "cluster.yaml"
    file.write_text(text.replace(old, new), encoding="utf-8")
    return file


def test_the_example_is_a_config_file() -> None:
    config = read_config(EXAMPLE)
    (application,) = config.applications
    assert application.args["settings"]["WHISPER_SERVER_HOST"] == "127.0.0.1"
    assert [each.name for each in application.deployments] == ["Front", "Models"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("host: 127.0.0.1", "host: 0.0.0.0", "WHISPER_API_KEY"),
        ("WHISPER_MODEL:", "WHISPER_MODLE:", "there is no setting WHISPER_MODLE"),
        ("      settings:  #", "      settings: null\n      models:  #", "args.settings"),
        ("deployments:build", "deployments:make", "import_path"),
        ("num_cpus: 4", "num_cpus: [", "cannot be used"),
        ("num_replicas: auto", "num_replicas: many", "cannot be used"),
    ],
)
def test_a_file_that_is_wrong_is_refused_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    file = changed(tmp_path, old, new)
    with pytest.raises(ConfigError, match=message) as found:
        read_config(file)
    assert "\n" not in str(found.value)
    assert main([str(file)]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        read_config(tmp_path / "none.yaml")


def test_jobs_of_several_fronts_want_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "WHISPER_JOB_STORE" in (notice_of_jobs(read_config(EXAMPLE)) or "")
    one = changed(tmp_path, "max_replicas: 4", "max_replicas: 1")
    assert notice_of_jobs(read_config(one)) is None
    monkeypatch.setenv("WHISPER_JOB_STORE", "none")
    assert notice_of_jobs(read_config(EXAMPLE)) is None
