"""Of several audio tracks one is heard: the one asked for, or the file's own choice, unless it is silent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.audio_files import Sound, encode, film, tone, video
from whisper_server.core.errors import AudioTooLong, InvalidAudio, UnknownTrack
from whisper_server.core.language_tags import language_of_tag
from whisper_server.core.languages import NAMES
from whisper_server.core.types import SAMPLE_RATE, Track, TrackChoice
from whisper_server.services.audio.decoder import LibavDecoder
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio.tracks import listening_order
from whisper_server.services.audio_processor import MAX_TRIED, AudioProcessor

RATE = 48_000
QUIET = np.zeros(RATE, np.float32)
HZ = {"ger": 400.0, "eng": 700.0, "fre": 1000.0}


@pytest.fixture(params=["here", "in a process"])
def processor(request: pytest.FixtureRequest) -> Iterator[AudioProcessor]:
    pool = DecoderProcesses(1)
    yield AudioProcessor(32 << 20, 600, LibavDecoder if request.param == "here" else pool.open)
    pool.close()


def sound(language: str, *, is_default: bool = False, silent_s: float = 0.0) -> Sound:
    samples = np.concatenate([np.zeros(int(silent_s * RATE), np.float32), tone(1.0, RATE, HZ[language])])
    return Sound(samples, language=language, is_default=is_default)


def heard(processor: AudioProcessor, data: bytes, choice: TrackChoice | None = None) -> tuple[int, float]:
    """Return the number of the track, and the pitch that is heard, in Hz."""
    with processor.open(data, None, choice) as stream:
        samples = np.concatenate(list(stream.blocks()))
        second = samples[-SAMPLE_RATE:]
        return stream.info.track, float(np.abs(np.fft.rfft(second)).argmax()) * SAMPLE_RATE / len(second)


TWO = film(sound("ger"), sound("eng", is_default=True))


@pytest.mark.parametrize(
    ("choice", "language"),
    [
        (None, "eng"),
        (TrackChoice(0), "ger"),
        (TrackChoice(1, "de"), "eng"),
        (TrackChoice(language="de"), "ger"),
        (TrackChoice(language="fr"), "eng"),
    ],
)
@pytest.mark.parametrize("container", ["matroska", "mp4"])
def test_the_default_track_unless_another_is_asked_for(
    processor: AudioProcessor, choice: TrackChoice | None, language: str, container: str
) -> None:
    data = film(sound("ger"), sound("eng", is_default=True), container=container)
    assert heard(processor, data, choice) == (
        ["ger", "eng"].index(language),
        pytest.approx(HZ[language], abs=3),
    )


def test_the_next_track_where_one_is_silent(processor: AudioProcessor) -> None:
    data = film(Sound(QUIET, language="fre", is_default=True), Sound(QUIET), sound("ger"), sound("eng"))
    assert heard(processor, data) == (2, pytest.approx(400, abs=3))
    assert heard(processor, data, TrackChoice(language="fr"))[0] == 2
    assert heard(processor, data, TrackChoice(language="en"))[0] == 3


def test_a_track_that_was_named_is_heard_silent_or_not(processor: AudioProcessor) -> None:
    data = film(Sound(QUIET), sound("ger"))
    with processor.open(data, None, TrackChoice(0)) as stream:
        assert not np.concatenate(list(stream.blocks())).any()
        assert stream.info.track == 0


def test_where_all_are_silent_it_is_the_first_again(processor: AudioProcessor) -> None:
    data = film(Sound(QUIET), Sound(QUIET, is_default=True))
    with processor.open(data) as stream:
        assert not np.concatenate(list(stream.blocks())).any()
        assert stream.info.track == 1


def test_of_many_silent_tracks_only_the_first_ones_are_read(processor: AudioProcessor) -> None:
    data = film(*[Sound(QUIET)] * MAX_TRIED, sound("ger"), codec="pcm_s16le")
    assert heard(processor, data)[0] == 0
    assert heard(processor, data, TrackChoice(MAX_TRIED)) == (MAX_TRIED, pytest.approx(400, abs=3))


def test_a_track_that_begins_with_silence_is_whole(processor: AudioProcessor) -> None:
    data = film(sound("ger", silent_s=5.0), sound("eng"), codec="pcm_s16le")
    with processor.open(data) as stream:
        turns = sum(1 for _ in stream.settle())
        samples = np.concatenate(list(stream.blocks()))
    assert turns >= 4
    assert len(samples) == 6 * SAMPLE_RATE
    assert not samples[: 4 * SAMPLE_RATE].any()
    assert samples[-SAMPLE_RATE // 2 :].any()


def test_the_limit_holds_while_sound_is_looked_for() -> None:
    data = film(sound("ger", silent_s=5.0), sound("eng"))
    with AudioProcessor(1 << 20, 3).open(data) as stream, pytest.raises(AudioTooLong):
        list(stream.settle())


def test_a_stream_that_was_closed_is_not_opened_again() -> None:
    stream = AudioProcessor(1 << 20, 60).open(film(sound("ger", silent_s=5.0), sound("eng")))
    turns = stream.settle()
    next(turns)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        list(turns)


def test_side_by_side_and_one_channel_are_of_the_same_track(processor: AudioProcessor) -> None:
    stereo = Sound(np.stack([tone(1.0, RATE, 400), tone(1.0, RATE, 900)]))
    data = film(Sound(QUIET), stereo)
    with processor.open(data) as stream:
        assert {len(piece) for piece in stream.planes()} == {2}
        assert stream.info.channels == 2
    with processor.open(data, 1, TrackChoice(stream.info.track)) as stream:
        samples = np.concatenate(list(stream.blocks()))
    assert abs(int(np.abs(np.fft.rfft(samples[:SAMPLE_RATE])).argmax()) - 900) <= 3


@pytest.mark.parametrize("number", [2, -1, 10**30])
def test_a_wrong_number_says_how_many_there_are(processor: AudioProcessor, number: int) -> None:
    with pytest.raises(UnknownTrack, match="2 audio tracks, numbered from 0 to 1") as caught:
        processor.open(TWO, None, TrackChoice(number))
    assert caught.value.status == 400
    assert caught.value.param == "audio_track"
    with pytest.raises(UnknownTrack, match="one audio track, number 0"):
        processor.open(encode(tone(1.0)), None, TrackChoice(1))
    with pytest.raises(InvalidAudio, match="no audio track"):
        processor.open(video(), None, TrackChoice(0))


def test_what_the_header_says_of_the_tracks(processor: AudioProcessor) -> None:
    late = Sound(np.stack([QUIET, QUIET]), start_s=2.5, language="und")
    with processor.open(film(sound("ger", is_default=True), late, codec="pcm_s16le", picture_s=4)) as stream:
        first, second = stream.info.tracks
    assert first == Track(0, "pcm_s16le", "ger", True, 1, RATE, pytest.approx(0.0, abs=0.01))
    assert second == Track(1, "pcm_s16le", "", False, 2, RATE, pytest.approx(2.5, abs=0.01))
    with processor.open(encode(tone(1.0))) as stream:
        assert stream.info.tracks == (Track(0, "pcm_s16le", "", False, 1, SAMPLE_RATE, 0.0),)


# The rule.


def track(index: int, language: str = "", *, is_default: bool = False, codec: str = "aac") -> Track:
    return Track(index, codec, language, is_default, 1, RATE, 0.0)


def test_the_order_in_which_tracks_are_tried() -> None:
    tracks = [track(0, "deu"), track(1, "en", is_default=True), track(2, "ger"), track(3, codec=""), track(4)]
    assert listening_order(tracks, TrackChoice()) == [1, 0, 2, 4]
    assert listening_order(tracks, TrackChoice(language="de")) == [0, 2, 1, 4]
    assert listening_order(tracks, TrackChoice(4, "de")) == [4]
    with pytest.raises(UnknownTrack, match="Audio track 3 is in a codec"):
        listening_order(tracks, TrackChoice(3))
    with pytest.raises(InvalidAudio, match="cannot be decoded here"):
        listening_order([tracks[3]], TrackChoice())


@pytest.mark.parametrize(
    ("tag", "code"),
    [("ger", "de"), ("deu", "de"), ("de", "de"), ("de-AT", "de"), ("EN_us", "en"), ("chi", "zh"),
     ("cmn-Hans", "zh"), ("yue", "yue"), ("nob", "no"), ("nb", "no"), ("fil", "tl"), ("jav", "jw"),
     ("jv", "jw"), ("haw", "haw"), ("und", None), ("", None), ("mul", None),
     ("english", None), ("xx", None), ("tlh", None)],
)  # fmt: skip
def test_the_language_of_a_tag(tag: str, code: str | None) -> None:
    assert language_of_tag(tag) == code


def test_every_language_of_whisper_is_known_by_its_own_code() -> None:
    assert [code for code in NAMES if language_of_tag(code) != code] == []
