"""The fuzzer's daily share; the long run is `python -m tests.fuzz --inputs 100000`."""

from __future__ import annotations

import signal

import pytest

from tests.fuzz import bad_target
from tests.fuzz.corpus import seeds
from tests.fuzz.mutate import mutated
from tests.fuzz.runner import run
from tests.fuzz.target import PROCESSOR, outcome
from tests.support.audio_files import NOT_MEDIA
from whisper_server.core.errors import InvalidAudio
from whisper_server.services.audio.decoder_process.pool import DecoderProcesses
from whisper_server.services.audio_processor import AudioProcessor


@pytest.mark.long
def test_three_thousand_inputs_do_no_harm() -> None:
    found = run(3_000, seed=20)
    assert found["findings"] == {}
    assert set(found["outcomes"]) <= {"audio", "InvalidAudio", "AudioTooLong"}
    assert found["outcomes"]["audio"] > 300  # the damage is not so great that nothing is left to decode


def test_every_kind_of_fault_is_found_and_the_rest_goes_on() -> None:
    found = run(20, seed=1, first=100, chunk=15, target="tests.fuzz.bad_target")
    findings = found["findings"]
    assert findings.pop(bad_target.MEMORY).endswith("MB more")
    assert findings == {
        bad_target.CRASH: f"crash by {signal.SIGSEGV.name}",
        bad_target.ERROR: "IndexError: list index out of range",
        bad_target.FINDING: "Finding: samples beyond full scale",
    }
    assert found["outcomes"] == {"audio": 17}  # of 20: a crash and two errors have no outcome


def test_the_corpus_has_every_container() -> None:
    audio = [data for data in seeds() if outcome(data, 0) == "audio"]
    assert len(audio) >= 36  # builds of libav differ by a few encoders
    assert len(seeds()) - len(audio) > len(NOT_MEDIA)


def test_an_input_is_the_same_again() -> None:
    assert mutated(seeds(), 7, 12) == mutated(seeds(), 7, 12)
    assert len({mutated(seeds(), 7, index) for index in range(300)}) > 280


def test_in_a_process_of_its_own_the_outcome_is_the_same() -> None:
    def decoded(processor: AudioProcessor, data: bytes) -> object:
        try:
            with processor.open(data) as stream:
                return [block.tobytes() for block in stream.blocks()]
        except InvalidAudio as error:
            return type(error), error.message

    pool = DecoderProcesses(1)
    remote = AudioProcessor(1 << 20, 60, pool.open)
    for index in range(300):
        data = mutated(seeds(), 30, index)
        assert decoded(remote, data) == decoded(PROCESSOR, data), index
    pool.close()
