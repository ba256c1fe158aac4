"""The realtime clients themselves, unmodified: openai, LiveKit's plugin, pipecat and openai-agents."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import numpy as np
import pytest

from tests.conftest import Sample, Server
from tests.contract.clients import KEY, NANO_NAME, client_package
from tests.support.realtime_client import pcm16

# How these packages use others is their business.
pytestmark = pytest.mark.filterwarnings("ignore")

TIMEOUT_S = 60
RATE_HZ = 24_000
SILENCE = bytes(2 * RATE_HZ * 2)  # 2 s: the end of a turn


def spoken(speech: Sample) -> bytes:
    """The clip and silence behind it, which detection takes for the end of a turn."""
    return pcm16(speech.data, RATE_HZ) + SILENCE


def all_words(said: list[str], speech: Sample) -> bool:
    """Whether as many words came as the clip has; it has pauses that may end a turn."""
    return len(" ".join(said).split()) >= len(speech.text.split())


def test_openai_python(nano: Server, speech: Sample) -> None:
    openai = client_package("openai")
    client = openai.OpenAI(base_url=f"{nano.url}/v1", api_key=KEY)
    with client.realtime.connect(model=NANO_NAME) as connection:
        connection.session.update(
            session={"type": "transcription", "audio": {"input": {"turn_detection": None}}}
        )
        connection.input_audio_buffer.append(audio=base64.b64encode(pcm16(speech.data)).decode())
        connection.input_audio_buffer.commit()
        for event in connection:
            assert event.type != "error"
            if event.type == "conversation.item.input_audio_transcription.completed":
                assert event.transcript == speech.text
                assert event.usage.seconds == pytest.approx(speech.duration_s, abs=0.05)
                return


def test_openai_python_with_a_key_that_says_what_the_session_is(locked: Server) -> None:
    openai = client_package("openai")
    owner = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY)
    secret = owner.realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={
            "type": "transcription",
            "audio": {"input": {"transcription": {"language": "de"}, "turn_detection": None}},
        },
    )
    assert secret.session.type == "transcription"
    visitor = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=secret.value)
    with visitor.realtime.connect(model="whisper-1") as connection:
        begun = connection.recv()
        assert begun.type == "session.created"
        assert begun.session.audio.input.transcription.language == "de"
        assert begun.session.audio.input.turn_detection is None
    with pytest.raises(openai.AuthenticationError):
        visitor.models.list()


async def test_livekit(nano: Server, speech: Sample) -> None:
    plugin, rtc = client_package("livekit.plugins.openai"), client_package("livekit.rtc")
    agents = client_package("livekit.agents")
    aiohttp = client_package("aiohttp")
    async with aiohttp.ClientSession() as http:
        stt = plugin.STT(model=NANO_NAME, use_realtime=True, base_url=f"{nano.url}/v1", api_key=KEY)
        stt._session = http  # else it wants to run inside a job of LiveKit's
        stream = stt.stream()
        data = spoken(speech)
        for first in range(0, len(data), 4_800):
            piece = data[first : first + 4_800]
            stream.push_frame(rtc.AudioFrame(piece, RATE_HZ, 1, len(piece) // 2))
        said: list[str] = []
        kinds = []
        async with asyncio.timeout(TIMEOUT_S):
            async for event in stream:
                kinds.append(event.type)
                if event.type == agents.stt.SpeechEventType.FINAL_TRANSCRIPT:
                    said.append(event.alternatives[0].text)
                    if all_words(said, speech):
                        break
        await stream.aclose()
    assert kinds[0] == agents.stt.SpeechEventType.START_OF_SPEECH
    assert agents.stt.SpeechEventType.END_OF_SPEECH in kinds


async def test_openai_agents(nano: Server, speech: Sample) -> None:
    voice = client_package("agents.voice")
    openai = client_package("openai")
    model = voice.OpenAISTTModel(NANO_NAME, openai.AsyncOpenAI(base_url=f"{nano.url}/v1", api_key=KEY))
    sound = voice.StreamedAudioInput()
    samples = np.frombuffer(spoken(speech), np.int16)
    for first in range(0, len(samples), 2_400):
        await sound.add_audio(samples[first : first + 2_400])
    await sound.add_audio(None)
    session = await model.create_session(
        sound, voice.STTModelSettings(), trace_include_sensitive_data=False,
        trace_include_sensitive_audio_data=False,
    )  # fmt: skip
    said = []
    async with asyncio.timeout(TIMEOUT_S):
        async for turn in session.transcribe_turns():
            said.append(turn)
            if all_words(said, speech):
                break
    await session.close()
    assert all_words(said, speech)


@pytest.mark.parametrize("turn_detection", [None, {"type": "server_vad"}])
async def test_pipecat(nano: Server, speech: Sample, turn_detection: dict[str, Any] | None) -> None:
    services = client_package("pipecat.services.openai.stt")
    frames = client_package("pipecat.frames.frames")
    pipeline, workers = client_package("pipecat.pipeline.pipeline"), client_package("pipecat.pipeline.worker")
    processors = client_package("pipecat.processors.frame_processor")
    runners = client_package("pipecat.workers.runner")
    service = services.OpenAIRealtimeSTTService(
        api_key=KEY,
        base_url=nano.url.replace("http", "ws", 1) + "/v1/realtime",
        turn_detection=turn_detection,
        settings=services.OpenAIRealtimeSTTService.Settings(model=NANO_NAME),
    )
    said: list[str] = []

    class Listener(processors.FrameProcessor):  # type: ignore[misc]
        """Behind the service; ends the pipeline when as many words have come as the clip has."""

        async def process_frame(self, frame: Any, direction: Any) -> None:
            await super().process_frame(frame, direction)
            if isinstance(frame, frames.TranscriptionFrame):
                said.append(frame.text)
                if all_words(said, speech):
                    await worker.queue_frame(frames.EndFrame())
            await self.push_frame(frame, direction)

    worker = workers.PipelineWorker(
        pipeline.Pipeline([service, Listener()]), cancel_on_idle_timeout=False, enable_rtvi=False
    )

    @worker.event_handler("on_pipeline_started")
    async def speak(_worker: Any, _frame: Any) -> None:
        data = spoken(speech)
        for first in range(0, len(data), 4_800):
            piece = data[first : first + 4_800]
            await worker.queue_frame(frames.InputAudioRawFrame(piece, RATE_HZ, 1))

    runner = runners.WorkerRunner()
    await runner.add_workers(worker)
    async with asyncio.timeout(TIMEOUT_S):
        await runner.run()
    assert all_words(said, speech)
