"""Clients that speak OpenAI's API in their own way, unmodified, and clients made from our document."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SAMPLES, Sample, Server, StartServer
from tests.contract.clients import KEY, NANO_NAME, client_package, wav_of
from tests.contract.document import document

openai = client_package("openai")

# How these packages use others is their business.
pytestmark = pytest.mark.filterwarnings("ignore")


def test_groq(nano: Server, speech: Sample) -> None:
    with client_package("groq").Groq(base_url=nano.url, api_key="any") as client:
        plain = client.audio.transcriptions.create(model="whisper-1", file=("a.flac", speech.data))
        assert plain.text
        verbose = client.audio.transcriptions.create(
            model=NANO_NAME, file=("a.flac", speech.data), response_format="verbose_json"
        )
        assert verbose.text == speech.text
        assert verbose.x_groq["id"].startswith("req_")
        assert NANO_NAME in [model.id for model in client.models.list().data]


def test_speech_recognition(nano: Server, speech: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its groq recognizer takes the address from the environment, as groq's client does."""
    package = client_package("speech_recognition")
    monkeypatch.setenv("GROQ_API_KEY", "any")
    monkeypatch.setenv("GROQ_BASE_URL", nano.url)
    with package.AudioFile(io.BytesIO(wav_of(speech))) as source:
        recorded = package.Recognizer().record(source)
    assert package.Recognizer().recognize_groq(recorded, model=NANO_NAME) == speech.text


def test_azure(start_contract_server: StartServer, speech: Sample) -> None:
    server = start_contract_server(WHISPER_API_KEY=KEY, WHISPER_ALIASES="my-deployment=whisper-base")
    options = {"azure_endpoint": server.url, "api_version": "2025-03-01-preview", "api_key": KEY}
    with openai.AzureOpenAI(**options) as client:
        raw = client.audio.transcriptions.with_raw_response.create(
            model="my-deployment", file=("a.flac", speech.data)
        )
        assert raw.parse().text
        assert raw.headers["x-whisper-model"] == "whisper-base"
        with pytest.raises(openai.NotFoundError):
            client.audio.transcriptions.create(model="yours", file=("a.flac", speech.data))
    with (
        openai.AzureOpenAI(**{**options, "api_key": "wrong"}) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.audio.transcriptions.create(model="my-deployment", file=("a.flac", speech.data))


@pytest.mark.parametrize(
    "base_url", ["{}", "{}/", "{}/v1/", "{}//v1", "{}/api/v1", "{}/v1/v1", "{}/openai/v1"]
)
def test_every_base_url(nano: Server, speech: Sample, base_url: str) -> None:
    with openai.OpenAI(base_url=base_url.format(nano.url), api_key="any") as client:
        assert (
            client.audio.transcriptions.create(model="gpt-4o-transcribe", file=speech.data).text
            == speech.text
        )
        assert NANO_NAME in [model.id for model in client.models.list()]


def test_segments_of_a_stream_are_typed(nano: Server, speech: Sample) -> None:
    with openai.OpenAI(base_url=f"{nano.url}/v1", api_key="any", _strict_response_validation=True) as client:
        events = list(
            client.audio.transcriptions.create(
                model="gpt-4o-transcribe-diarize",
                file=speech.data,
                response_format="verbose_json",
                stream=True,
            )
        )
    kinds = [type(event).__name__ for event in events]
    assert kinds == [
        "TranscriptionTextDeltaEvent",
        "TranscriptionTextSegmentEvent",
        "TranscriptionTextDoneEvent",
    ]
    assert (events[1].text, events[1].id) == (speech.text, events[0].segment_id)
    assert 0 <= events[1].start < events[1].end


@pytest.fixture
def litellm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, which asks for prices at GitHub when it is imported, unless it is told not to."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return client_package("litellm")


def test_litellm_streams(nano: Server, speech: Sample, litellm: Any) -> None:
    stream = litellm.transcription(
        model="openai/whisper-1",
        file=("a.wav", wav_of(speech)),
        api_base=f"{nano.url}/v1",
        api_key="any",
        stream=True,
    )
    assert speech.text in "".join(getattr(event, "delta", "") or "" for event in stream)


def test_litellm(nano: Server, speech: Sample, litellm: Any) -> None:
    for model in ("openai/whisper-1", "openai/gpt-4o-transcribe"):
        reply = litellm.transcription(
            model=model, file=("a.wav", wav_of(speech)), api_base=f"{nano.url}/v1", api_key="any"
        )
        assert reply.text == speech.text


# --- clients that are made from the document --------------------------------------------------------

CALL = """
import io, pathlib, sys
from made.api.default import create_transcription, list_models
from made.client import Client
from made.models import FormBody
from made.types import File

client = Client(base_url=sys.argv[1])
audio = File(payload=io.BytesIO(pathlib.Path(sys.argv[2]).read_bytes()), file_name="a.flac")
print(create_transcription.sync(client=client, body=FormBody(file=audio, language="en")).text)
verbose = FormBody(file=audio, response_format="verbose_json", timestamp_granularities=["word"])
audio.payload.seek(0)
print([word.word for word in create_transcription.sync(client=client, body=verbose).words])
print([model.id for model in list_models.sync(client=client).data])
"""


def test_the_document_is_valid() -> None:
    client_package("openapi_spec_validator").validate(json.loads(json.dumps(document())))


def test_a_python_client_made_from_the_document(nano: Server, speech: Sample, tmp_path: Path) -> None:
    client_package("openapi_python_client")
    (tmp_path / "openapi.json").write_text(json.dumps(document()), encoding="utf-8")
    made = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json"]
    subprocess.run(
        [*made, "--output-path", "made", "--meta", "none"], cwd=tmp_path, check=True, capture_output=True
    )
    done = subprocess.run(
        [sys.executable, "-c", CALL, nano.url, str(SAMPLES / speech.name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text, words, models = done.stdout.splitlines()
    assert text == speech.text
    assert words == str(speech.text.split())
    assert NANO_NAME in models


NODE = Path(__file__).parent / "node"


@pytest.mark.skipif(
    not (shutil.which("npx") and (NODE / "node_modules" / "openapi-typescript").is_dir()),
    reason="run npm ci in tests/contract/node to test these clients",
)
def test_a_typescript_client_made_from_the_document(nano: Server, speech: Sample, tmp_path: Path) -> None:
    """The types come from the document, the compiler holds calls to them, openapi-fetch makes the calls."""
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "node_modules").symlink_to(NODE / "node_modules")
    shutil.copy(NODE / "generated.ts", folder / "generated.ts")
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (folder / "openapi.json").write_text(json.dumps(document()), encoding="utf-8")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    tools = folder / "node_modules" / ".bin"
    run(
        str(tools / "openapi-typescript"), "openapi.json", "-o", "schema.d.ts", "--default-non-nullable=false"
    )
    options = [
        "--strict",
        "--skipLibCheck",
        "--module",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
    ]
    run(str(tools / "tsc"), *options, "generated.ts")
    replies = json.loads(run("node", "generated.js", nano.url, str(SAMPLES / speech.name)))
    assert replies["form"] == replies["json"] == speech.text
    assert NANO_NAME in replies["models"]
