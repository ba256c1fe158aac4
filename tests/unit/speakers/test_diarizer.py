"""The work on one file: the same in any blocks, names that stay, and no memory that grows with sound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.speaker_networks import RATE, filter_bank_encoder, loudness_segmentation, stairs
from whisper_server.core.types import Turn
from whisper_server.services.speakers.clustering import SpeakerCount
from whisper_server.services.speakers.diarizer import Diarizer, KnownVoice
from whisper_server.services.speakers.networks import SegmentationNetwork, VoiceEncoder
from whisper_server.services.speakers.segmentation import NetworkSegmentation, VoiceSegmentation

THRESHOLD = 0.7


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationNetwork, VoiceEncoder]:
    folder: Path = tmp_path_factory.mktemp("networks")
    (folder / "segmentation.onnx").write_bytes(loudness_segmentation())
    (folder / "encoder.onnx").write_bytes(filter_bank_encoder())
    return SegmentationNetwork(folder / "segmentation.onnx"), VoiceEncoder(folder / "encoder.onnx")


def diarizer(networks: tuple[SegmentationNetwork, VoiceEncoder], *known: KnownVoice) -> Diarizer:
    count = SpeakerCount(3, 3)
    return Diarizer(NetworkSegmentation(networks[0]), networks[1], THRESHOLD, count, known)


def long_ones(turns: list[Turn]) -> list[tuple[str, int, int]]:
    """Turns of more than a moment, in whole seconds."""
    return [(t.speaker, round(t.start_s), round(t.end_s)) for t in turns if t.end_s - t.start_s > 0.1]


WHOLE = [("A", 0, 4), ("B", 4, 8), ("C", 8, 12), ("A", 12, 16)]


@pytest.mark.parametrize("size", [16 * RATE, 3 * RATE, 12_345, 160])
def test_blocks_of_any_size_are_one_file(
    networks: tuple[SegmentationNetwork, VoiceEncoder], size: int
) -> None:
    sound = stairs()
    one = diarizer(networks)
    for first in range(0, len(sound), size):
        one.add(sound[first : first + size])
    one.catch_up()
    assert one.position_s == 16.0
    assert long_ones(one.turns()) == WHOLE
    assert long_ones(one.turns(5.0, 9.0)) == [("B", 5, 8), ("C", 8, 9)]
    assert len(one._samples) <= 13 * RATE


def test_names_stay_while_more_is_heard(networks: tuple[SegmentationNetwork, VoiceEncoder]) -> None:
    sound = stairs()
    one = Diarizer(NetworkSegmentation(networks[0]), networks[1], THRESHOLD)
    seen = []
    for second in range(16):
        one.add(sound[second * RATE : (second + 1) * RATE])
        one.catch_up()
        turns = one.turns(second + 0.4, second + 0.6)
        seen += [turn.speaker for turn in turns]
    assert len(seen) == 16
    assert seen[0] == "A"
    assert len(set(seen[1:4])) == 1  # a speaker does not change names
    assert seen[13] == seen[14] == seen[15]


def test_a_known_voice(networks: tuple[SegmentationNetwork, VoiceEncoder]) -> None:
    sound = stairs()
    ada = KnownVoice("Ada", networks[1].voice(sound[5 * RATE : 7 * RATE]))
    one = diarizer(networks, ada)
    one.add(sound)
    one.catch_up()
    assert [name for name, *_ in long_ones(one.turns())] == ["A", "Ada", "B", "A"]


def test_silence_has_no_turns(networks: tuple[SegmentationNetwork, VoiceEncoder]) -> None:
    for segmentation in (NetworkSegmentation(networks[0]), VoiceSegmentation()):
        one = Diarizer(segmentation, networks[1], THRESHOLD)
        assert one.turns() == []
        one.add(np.zeros(12 * RATE, np.float32))
        one.catch_up()
        assert one.turns() == []
