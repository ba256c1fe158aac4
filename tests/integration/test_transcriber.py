"""Real words through the real engine: every container, rate and channel count, long files, crowds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import NANO_MODEL, SAMPLES, Sample, all_samples
from tests.support.audio_files import encode, noises
from tests.support.nano_clips import RATE, ROBUST, pcm, word_errors
from whisper_server.core.config import Settings
from whisper_server.core.errors import AudioTooLong, InvalidAudio, InvalidRequest, ModelNotFound, Overloaded
from whisper_server.core.types import AudioInfo, Segment, TrackChoice, TranscribeParams, Transcript
from whisper_server.services.audio.bounded_file import BoundedFile
from whisper_server.services.audio.budget import Budget
from whisper_server.services.audio.decoder import Decoder, LibavDecoder
from whisper_server.services.audio_processor import AudioProcessor
from whisper_server.services.container import Services, open_services
from whisper_server.services.transcriber import Transcriber
from whisper_server.services.transcription import Transcription

BY_NAME = {sample.name: sample for sample in all_samples()}
AUTO = TranscribeParams(NANO_MODEL)
FORMATS = {
    "wav": ("wav", "pcm_s16le"),
    "wav-24": ("wav", "pcm_s24le"),
    "wav-float": ("wav", "pcm_f32le"),
    "mp3": ("mp3", "libmp3lame"),
    "mp4": ("mp4", "aac"),
    "m4a": ("ipod", "aac"),
    "flac": ("flac", "flac"),
    "ogg": ("ogg", "flac"),  # the wheel writes no vorbis
    "opus": ("ogg", "libopus"),
    "webm": ("webm", "libopus"),
}


@pytest.fixture
async def services(nano_settings: Settings) -> AsyncIterator[Services]:
    async with open_services(nano_settings) as opened:
        yield opened


def resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    """Change the rate by cutting or padding the spectrum: no aliases, and no code under test."""
    size = round(len(samples) * rate / RATE)
    spectrum = np.fft.rfft(samples)
    bins = np.zeros(size // 2 + 1, spectrum.dtype)
    kept = min(len(bins), len(spectrum))
    bins[:kept] = spectrum[:kept]
    return (np.fft.irfft(bins, size) * rate / RATE).astype(np.float32)


async def heard(services: Services, data: bytes, params: TranscribeParams = AUTO) -> Transcript:
    return await services.transcriber.transcribe(data, params)


async def test_every_robust_sample_word_for_word_language_and_times(services: Services) -> None:
    wrong = {}
    for sample in ROBUST:
        params = TranscribeParams(NANO_MODEL, prompt=sample.prompt)
        transcript = await heard(services, sample.data, params)
        if (transcript.text, transcript.language) != (sample.text, sample.language):
            wrong[sample.name] = transcript.text
        assert transcript.duration_s == pytest.approx(sample.duration_s, abs=0.02)
        for left, right in zip(transcript.segments, transcript.segments[1:], strict=False):
            assert left.start_s <= left.end_s <= right.start_s
        assert transcript.segments[-1].end_s <= transcript.duration_s
    assert wrong == {}


async def test_dense_samples_within_the_reference_error(services: Services) -> None:
    dense = [sample for sample in all_samples() if sample.kind == "dense"]
    errors = sum([word_errors(s.text, (await heard(services, s.data)).text) for s in dense])
    words = sum(len(sample.text.split()) for sample in dense)
    assert errors / words < 0.10


@pytest.mark.parametrize("sample", [s for s in all_samples() if s.kind == "translate" and s.is_robust])
async def test_translation(services: Services, sample: Sample) -> None:
    clips = (SAMPLES / "clips.json").read_text(encoding="utf-8")
    params = TranscribeParams(NANO_MODEL, task="translate")
    transcript = await heard(services, sample.data, params)
    assert f'"translation": "{transcript.text}"' in clips
    assert transcript.text != sample.text
    assert transcript.language == sample.language


async def test_a_prompt_changes_how_digits_are_written(services: Services) -> None:
    sample = next(s for s in ROBUST if s.kind == "numerals" and s.language == "en")
    with_prompt = await heard(services, sample.data, TranscribeParams(NANO_MODEL, prompt=sample.prompt))
    without = await heard(services, sample.data)
    assert with_prompt.text == sample.text
    assert without.text != sample.text
    assert not any(character.isdigit() for character in without.text)


async def test_keywords_reach_every_window_and_a_prompt_the_first(services: Services) -> None:
    names = ("numerals-036", "plain-002", "plain-003", "plain-005", "plain-006", "numerals-036")
    pause = np.zeros(RATE, np.float32)
    data = encode(np.concatenate([part for name in names for part in (pcm(f"en-{name}.flac"), pause)]))
    found = {}
    for name, biased in {
        "keywords": TranscribeParams(NANO_MODEL, language="en", keywords=("4 0 2", "7 1 8")),
        "prompt": TranscribeParams(NANO_MODEL, language="en", prompt="4 0 2 7 1 8"),
        "none": TranscribeParams(NANO_MODEL, language="en"),
    }.items():
        transcription = await services.transcriber.open(data, biased)
        assert isinstance(transcription, Transcription)
        # Fallback draws lots, and this window is close to it.
        transcription.options = replace(transcription.options, temperatures=(0.0,))
        segments = (await transcription.collect()).segments
        windows = {segment.seek_frames for segment in segments}
        assert len(windows) >= 2
        found[name] = {
            any(char.isdigit() for char in "".join(s.text for s in segments if s.seek_frames == window))
            for window in windows
        }
    assert found == {"keywords": {True}, "prompt": {True, False}, "none": {False}}


async def test_languages_limit_the_detection(services: Services) -> None:
    sample = BY_NAME["de-plain-020.flac"]
    for languages, possible in [(("en", "de"), {"de"}), (("en", "fr"), {"en", "fr"}), (("fr",), {"fr"})]:
        transcript = await heard(services, sample.data, TranscribeParams(NANO_MODEL, languages=languages))
        assert transcript.language in possible


@pytest.mark.long
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("name", FORMATS)
async def test_every_container(services: Services, name: str, channels: int) -> None:
    container, codec = FORMATS[name]
    data = encode(resampled(pcm("en-plain-003.flac"), 48_000), 48_000, container, codec, channels)
    transcription = await services.transcriber.open(data, AUTO)
    # An MP4 with sound only is what people call m4a.
    assert transcription.info.format == name.partition("-")[0].replace("mp4", "m4a")
    transcript = await transcription.collect()
    assert transcript.text == BY_NAME["en-plain-003.flac"].text


@pytest.mark.long
@pytest.mark.parametrize("rate", [16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("container", ["wav", "flac"])
async def test_every_rate(services: Services, rate: int, container: str) -> None:
    codec = "flac" if container == "flac" else "pcm_s16le"
    data = encode(resampled(pcm("en-plain-003.flac"), rate), rate, container, codec)
    transcript = await heard(services, data)
    assert transcript.text == BY_NAME["en-plain-003.flac"].text
    assert transcript.duration_s == pytest.approx(BY_NAME["en-plain-003.flac"].duration_s, abs=0.02)


@pytest.mark.parametrize(
    ("rate", "name", "errors"), [(8_000, "en-plain-001.flac", 0), (11_025, "de-plain-020.flac", 1)]
)
async def test_low_rates(services: Services, rate: int, name: str, errors: int) -> None:
    # The nano model never heard telephone bands, which lack what tells its words apart: with most clips
    # it fails there, whatever decodes. These two it can do.
    data = encode(resampled(pcm(name), rate), rate)
    transcript = await heard(services, data, TranscribeParams(NANO_MODEL, language=name[:2]))
    assert word_errors(BY_NAME[name].text, transcript.text) <= errors


async def test_speech_in_one_channel_only(services: Services) -> None:
    left = pcm("en-plain-003.flac")
    data = encode(np.stack([left, np.zeros_like(left)]))
    assert (await heard(services, data)).text == BY_NAME["en-plain-003.flac"].text


@pytest.mark.parametrize("gain_db", [-40, -20, 0])
async def test_quiet_recordings_are_heard_as_well(services: Services, gain_db: int) -> None:
    quiet = pcm("en-plain-003.flac") * 10 ** (gain_db / 20)
    data = encode(quiet.astype(np.float32), codec="pcm_f32le")
    assert (await heard(services, data)).text == BY_NAME["en-plain-003.flac"].text


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(noises(1.0)))
async def test_noise_and_silence_give_an_empty_text(services: Services, name: str) -> None:
    data = encode(noises(12.0)[name])
    transcript = await heard(services, data)
    assert transcript.text == ""
    assert transcript.segments == ()
    assert transcript.duration_s == pytest.approx(12.0)


@pytest.mark.long
async def test_ten_minutes_of_silence_then_speech_at_the_right_time(services: Services) -> None:
    sample = BY_NAME["en-plain-003.flac"]
    quiet = np.zeros(600 * RATE, np.float32)
    data = encode(np.concatenate([quiet, pcm(sample.name)]), 16_000, "flac", "flac")
    transcript = await heard(services, data, TranscribeParams(NANO_MODEL, word_timestamps=True))
    assert transcript.text == sample.text
    # A segment may begin with the padding that voice detection leaves; its words do not.
    assert transcript.segments[0].words[0].start_s == pytest.approx(600.70, abs=0.05)
    assert transcript.segments[-1].end_s == pytest.approx(602.73, abs=0.25)


def words_kept(said: str, heard: str) -> int:
    """Return how many words of a sentence were heard, in its order."""
    blocks = SequenceMatcher(None, said.split(), heard.split(), autojunk=False).get_matching_blocks()
    return sum(block.size for block in blocks)


def around(transcript: Transcript, start_s: float, sample: Sample) -> str:
    """Return the text of the segments that overlap a clip at this place."""
    end_s = start_s + sample.duration_s
    return " ".join(s.text for s in transcript.segments if s.end_s > start_s and s.start_s < end_s)


@pytest.mark.long
async def test_a_long_file_keeps_every_sentence_in_order_and_in_place(services: Services) -> None:
    pieces, truth, position_s = [], [], 0.0
    for index, sample in enumerate([s for s in ROBUST if s.language == "en" and s.kind == "plain"] * 3):
        gap = np.zeros(int((0.5 + 3 * (index % 4)) * RATE), np.float32)
        truth.append((position_s, sample))
        for piece in (pcm(sample.name), gap):
            pieces.append(piece)
            position_s += len(piece) / RATE
    transcript = await heard(services, encode(np.concatenate(pieces), 16_000, "flac", "flac"))
    # Which words the nano model gets wrong where voices change hangs on where windows are cut, and on the
    # last bits of the arithmetic (bench/experiments/pauses.md). A lost sentence lacks all of its words.
    kept = [words_kept(sample.text, around(transcript, start_s, sample)) for start_s, sample in truth]
    assert all(kept)
    n_said = sum(len(sample.text.split()) for _, sample in truth)
    assert sum(kept) >= 0.85 * n_said
    assert len(transcript.text.split()) <= 1.15 * n_said  # nothing to speak of comes twice
    assert transcript.language == "en"
    starts = [segment.start_s for segment in transcript.segments]
    assert starts == sorted(starts)
    # Where the model heard a clip as one phrase, that phrase is where the clip is; each clip begins with up
    # to 0.8 s of silence. Which phrases it runs into one, at repeated words, hangs on the last bits.
    found = [
        min(
            abs(segment.start_s - start_s) for start_s, sample in truth if sample.text == segment.text.strip()
        )
        for segment in transcript.segments
        if any(sample.text == segment.text.strip() for _, sample in truth)
    ]
    assert len(found) >= len(truth) // 2
    assert sum(off_s < 1.0 for off_s in found) >= len(found) - 1


async def test_without_voice_activity_detection_the_words_are_the_same(nano_settings: Settings) -> None:
    sample = BY_NAME["en-plain-005.flac"]
    async with open_services(nano_settings.model_copy(update={"vad": False})) as services:
        assert (await heard(services, sample.data)).text == sample.text


@pytest.mark.long
async def test_alone_and_in_a_crowd_text_and_times_are_equal(services: Services) -> None:
    alone = [await heard(services, sample.data) for sample in ROBUST[:16]]
    crowd = await asyncio.gather(*(heard(services, sample.data) for sample in ROBUST[:16]))
    for one, other in zip(alone, crowd, strict=True):
        assert one.text == other.text
        assert [(s.start_s, s.end_s) for s in one.segments] == [(s.start_s, s.end_s) for s in other.segments]


@pytest.mark.long
async def test_segments_come_one_by_one_and_leaving_early_frees_everything(services: Services) -> None:
    clip = pcm("en-plain-005.flac")
    long = np.concatenate([np.concatenate([clip, np.zeros(3 * RATE, np.float32)])] * 8)
    transcription = await services.transcriber.open(encode(long, 16_000, "flac", "flac"), AUTO)
    async with contextlib.aclosing(transcription.segments()) as segments:
        first: Segment = await anext(segments)
        assert first.text.split()[0] == "always"
    assert [state.leases for state in services.models.loaded()] == [0]
    assert (await heard(services, BY_NAME["en-plain-000.flac"].data)).text == "house left tree"


async def test_a_cancelled_request_leaves_nothing_behind(services: Services) -> None:
    await heard(services, BY_NAME["en-plain-000.flac"].data)
    threads = threading.active_count()
    tasks = [asyncio.create_task(heard(services, BY_NAME["en-plain-005.flac"].data)) for _ in range(6)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert (await heard(services, BY_NAME["en-plain-000.flac"].data)).text == "house left tree"
    assert [state.leases for state in services.models.loaded()] == [0]
    assert threading.active_count() <= threads + services.settings.audio_threads


async def test_refusals_come_before_any_model_is_loaded(services: Services, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound):
        await heard(services, b"", TranscribeParams(services.catalog.resolve("../../etc/passwd")))
    with pytest.raises(InvalidAudio):
        await heard(services, b"this is no audio, whatever its name says" * 10)
    with pytest.raises(InvalidAudio, match="No such file"):
        await services.transcriber.transcribe(tmp_path / "missing.wav", AUTO)
    assert services.models.loaded() == []


async def test_audio_over_the_length_limit_names_it(nano_settings: Settings) -> None:
    short = nano_settings.model_copy(update={"max_audio_seconds": 2})
    async with open_services(short) as services:
        with pytest.raises(AudioTooLong, match="MAX_AUDIO_SECONDS"):
            await heard(services, BY_NAME["en-plain-005.flac"].data)
        assert [state.leases for state in services.models.loaded()] == [0]


async def test_a_language_that_the_model_lacks(services: Services) -> None:
    with pytest.raises(InvalidRequest, match="yue"):
        await heard(services, BY_NAME["en-plain-000.flac"].data, TranscribeParams(NANO_MODEL, language="yue"))


class CountedOpens:
    """Opens decoders in this process, and counts those that are open."""

    def __init__(self) -> None:
        self.opened = 0
        self.budgets: set[Budget] = set()
        self.closed: set[int] = set()

    def __call__(self, file: BoundedFile, max_seconds: float, choice: TrackChoice, budget: Budget) -> Decoder:
        decoder, number = LibavDecoder(file, max_seconds, choice, budget), self.opened
        self.budgets.add(budget)
        self.opened += 1
        close = decoder.close

        def closing() -> None:
            self.closed.add(number)
            close()

        decoder.close = closing  # type: ignore[method-assign]
        return decoder


@pytest.mark.parametrize(("speakers", "n_opened"), [(None, 1), ((), 1 + 2)], ids=["mixed", "by channel"])
async def test_a_file_is_admitted_once_and_not_opened_for_its_header_alone(
    services: Services, speakers: tuple[str, ...] | None, n_opened: int
) -> None:
    opens = CountedOpens()
    audio = AudioProcessor(1 << 30, 3600.0, opens)
    transcriber = Transcriber(audio, services.models, services.pool, services.speakers)
    left = pcm("en-plain-003.flac")
    data, params = encode(np.stack([left, left[::-1]])), replace(AUTO, speakers=speakers)
    admitted: list[AudioInfo] = []
    transcription = await transcriber.open(data, params, admitted.append)
    assert admitted == [transcription.info]
    await transcription.collect()
    assert len(admitted) == 1
    assert opens.opened == n_opened  # by channel: the survey, which reads it all, and then each channel
    assert opens.closed == set(range(n_opened))


@pytest.mark.parametrize("speakers", [None, ()], ids=["mixed", "by channel"])
async def test_what_is_not_admitted_is_closed_again(
    services: Services, speakers: tuple[str, ...] | None
) -> None:
    opens = CountedOpens()
    transcriber = Transcriber(
        AudioProcessor(1 << 30, 3600.0, opens), services.models, services.pool, services.speakers
    )

    def refuse(_: AudioInfo) -> None:
        raise Overloaded("too much")

    with pytest.raises(Overloaded):
        await transcriber.open(encode(pcm("en-plain-003.flac")), replace(AUTO, speakers=speakers), refuse)
    assert (opens.opened, opens.closed) == (1, {0})
    assert services.models.loaded() == []
