"""openai-python's own tests of its resources, against a real server in place of its mock of the hosted API.

They are in the package's source distribution; OPENAI_PYTHON_TESTS names the folder where that is unpacked
(.ci/run does it). They are copied and changed in nothing but values: a mock takes any, a server does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.conftest import SAMPLES, Sample, Server

SOURCE = os.environ.get("OPENAI_PYTHON_TESTS", "")

pytestmark = pytest.mark.skipif(not SOURCE, reason="OPENAI_PYTHON_TESTS names no folder")

RESOURCES = (
    "tests/api_resources/audio/test_transcriptions.py",
    "tests/api_resources/audio/test_translations.py",
    "tests/api_resources/test_models.py",
)

# What the tests send -> what stands for it here, and why it cannot stay.
REAL_VALUES = {
    'b"Example data"': "REAL_AUDIO",  # no audio
    '"ft:gpt-4o-mini:acemeco:suffix:abc123"': '"whisper-1"',  # a model that nobody has
    '"gpt-6-astra"': '"whisper-1"',  # a model that hears nothing
    'language="language"': 'language="en"',  # no language
    'languages=["string"]': 'languages=["en", "de"]',  # no language
    'timestamp_granularities=["word"]': 'timestamp_granularities=["segment"]',  # words need verbose_json
}

MODEL_NOT_FOUND = "does not exist"
# What fails with the values as they are: what the error says, and why that is right.
EXPLAINED = {
    "Invalid file format": "'Example data' is no audio",
    "Word timestamps need response_format verbose_json": "the tests ask for them in json",
    MODEL_NOT_FOUND: "fine-tuned and chat models of the hosted API are not here",
}


def outcomes(folder: Path, server: Server) -> dict[str, str]:
    """Run the tests; return each one's name with the message of its failure, empty where it passed."""
    report = folder / "report.xml"
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("-o", "addopts=", f"--junitxml={report}", *RESOURCES),
        ],
        cwd=folder,
        env={**os.environ, "TEST_API_BASE_URL": f"{server.url}/v1", "PYTHONPATH": str(folder)},
        capture_output=True,
        check=False,
    )
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = [each for each in case if each.tag in {"failure", "error"}]
        found[f"{case.get('classname')}.{case.get('name')}"] = "".join(
            each.get("message", "") for each in wrong
        )
    return found


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The package's tests in a folder of the test's own, with its settings for pytest."""
    shutil.copytree(Path(SOURCE, "tests"), tmp_path / "own" / "tests")
    shutil.copy(Path(SOURCE, "pyproject.toml"), tmp_path / "own")
    return tmp_path / "own"


def test_with_real_values_all_pass(copied: Path, nano: Server, speech: Sample) -> None:
    path = str(SAMPLES / speech.name)
    real_audio = f'REAL_AUDIO = __import__("pathlib").Path({path!r}).read_bytes()\n'
    for name in RESOURCES:
        text = (copied / name).read_text(encoding="utf-8")
        for written, real in REAL_VALUES.items():
            text = text.replace(written, real)
        (copied / name).write_text(
            text.replace("base_url = os", f"{real_audio}\nbase_url = os", 1), encoding="utf-8"
        )
    found = outcomes(copied, nano)
    assert {name: message for name, message in found.items() if message} == {}
    assert len(found) > 100


def test_with_their_own_values_what_fails_is_explained(copied: Path, nano: Server) -> None:
    found = outcomes(copied, nano)
    unexplained = {
        name: message
        for name, message in found.items()
        if message and not any(sign in message for sign in EXPLAINED)
    }
    assert unexplained == {}
    for name, message in found.items():
        if MODEL_NOT_FOUND in message:  # never for a name of a model that hears
            assert "test_models" in name
