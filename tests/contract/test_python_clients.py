"""Python programs on top of the official client: LangChain's parser and chat model, the `llm` command."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Sample, Server
from tests.contract.clients import NANO_NAME, client_package, wav_of
from tests.contract.document import needs_chat

# How these packages use others is their business.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def wav_file(tmp_path: Path, speech: Sample) -> Path:
    path = tmp_path / "speech.wav"
    path.write_bytes(wav_of(speech))
    return path


@pytest.mark.parametrize("response_format", [None, "text", "verbose_json"])
def test_langchain_whisper_parser(
    nano: Server, wav_file: Path, speech: Sample, response_format: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It cuts the file into MP3 parts with pydub, which looks for a program of this name.
    segments = client_package("pydub").AudioSegment
    monkeypatch.setattr(segments, "converter", client_package("imageio_ffmpeg").get_ffmpeg_exe())
    # A recording of 16 kHz would become MP3 of 24 kbit/s, in which the toy model hears other words.
    segments.from_file(wav_file).set_frame_rate(48_000).export(wav_file, format="wav").close()
    audio = client_package("langchain_community.document_loaders.parsers.audio")
    blobs = client_package("langchain_core.documents.base")
    parser = audio.OpenAIWhisperParser(
        api_key="any", base_url=f"{nano.url}/v1", model=NANO_NAME, response_format=response_format
    )
    documents = parser.parse(blobs.Blob.from_path(wav_file))
    assert [document.page_content.strip() for document in documents] == [speech.text]


@needs_chat
@pytest.mark.parametrize("is_streamed", [False, True])
def test_langchain_chat_model(nano: Server, speech: Sample, is_streamed: bool) -> None:
    langchain = client_package("langchain_openai")
    messages = client_package("langchain_core.messages")
    chat = langchain.ChatOpenAI(model=NANO_NAME, base_url=f"{nano.url}/v1", api_key="any", temperature=0)
    audio = {"data": base64.b64encode(wav_of(speech)).decode(), "format": "wav"}
    message = messages.HumanMessage(content=[{"type": "input_audio", "input_audio": audio}])
    if is_streamed:
        assert "".join(chunk.content for chunk in chat.stream([message])).strip() == speech.text
        return
    reply = chat.invoke([message])
    assert reply.content == speech.text
    assert reply.usage_metadata["total_tokens"] > 0
    assert reply.response_metadata["finish_reason"] == "stop"


@needs_chat
@pytest.mark.parametrize("options", [[], ["--no-stream"]], ids=["streamed", "plain"])
def test_llm_command(
    nano: Server, wav_file: Path, speech: Sample, tmp_path: Path, options: list[str]
) -> None:
    client_package("llm")
    done = _llm(tmp_path, nano, NANO_NAME, "", "-a", str(wav_file), *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == speech.text


@needs_chat
def test_llm_command_shows_the_error(nano: Server, wav_file: Path, tmp_path: Path) -> None:
    client_package("llm")
    done = _llm(tmp_path, nano, "whisper-9", "", "-a", str(wav_file))
    assert done.returncode != 0
    assert "404" in done.stderr
    assert "whisper-9" in done.stderr


def _llm(folder: Path, server: Server, model: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a configuration of its own that names the server's model."""
    home = folder / "llm"
    home.mkdir()
    entry = {"model_id": "local", "model_name": model, "api_base": f"{server.url}/v1", "audio": True}
    # A JSON document is a YAML document.
    (home / "extra-openai-models.yaml").write_text(json.dumps([entry]), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "llm", "-m", "local", *arguments, "--no-log"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LLM_USER_PATH": str(home)},
        check=False,
    )
