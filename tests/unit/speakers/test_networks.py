"""Networks of the intended shapes load and run; everything else is refused when it is loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.accuracy import made_up_networks
from tests.support.speaker_networks import ENCODER
from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.types import SAMPLE_RATE
from whisper_server.services.onnx.writer import OnnxGraph
from whisper_server.services.speakers.clustering import SpeakerCount
from whisper_server.services.speakers.diarizer import Diarizer
from whisper_server.services.speakers.networks import WINDOW_SAMPLES, SegmentationNetwork, VoiceEncoder
from whisper_server.services.speakers.segmentation import NetworkSegmentation

NOISE = (np.random.default_rng(1).standard_normal(14 * SAMPLE_RATE) * 0.1).astype(np.float32)


@pytest.fixture(scope="module")
def intended(tmp_path_factory: pytest.TempPathFactory) -> tuple[SegmentationNetwork, VoiceEncoder]:
    """Networks of the layers of segmentation-3.0 and ResNet34."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "segmentation.onnx").write_bytes(made_up_networks.segmentation())
    (folder / "encoder.onnx").write_bytes(made_up_networks.encoder())
    return SegmentationNetwork(folder / "segmentation.onnx"), VoiceEncoder(folder / "encoder.onnx")


def test_the_intended_networks_run(intended: tuple[SegmentationNetwork, VoiceEncoder]) -> None:
    segmentation, encoder = intended
    voices = segmentation.voices(NOISE[:WINDOW_SAMPLES])
    assert voices.shape == (589, 3)
    assert voices.dtype == bool
    assert voices.sum(axis=1).max() <= 2
    voice = encoder.voice(NOISE[:SAMPLE_RATE])
    assert voice.shape == (256,)
    assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-5)
    assert encoder.voice(NOISE[:10]).shape == (256,)  # less than one frame
    diarizer = Diarizer(NetworkSegmentation(segmentation), encoder, 0.7, SpeakerCount(1, 3))
    for first in range(0, len(NOISE), 7_777):
        diarizer.add(NOISE[first : first + 7_777])
    diarizer.catch_up()
    turns = diarizer.turns()
    assert all(0 <= turn.start_s < turn.end_s <= 14.0 for turn in turns)


def test_an_encoder_of_samples_hears_pieces_of_its_size() -> None:
    encoder = VoiceEncoder(ENCODER)
    short, long = encoder.voice(NOISE[:8_000]), encoder.voice(NOISE[:60_000])
    assert short.shape == long.shape == (256,)
    assert np.linalg.norm(long) == pytest.approx(1, abs=1e-5)


def graph(inputs: dict[str, tuple[int | None, ...]]) -> bytes:
    writer = OnnxGraph()
    writer.rename(next(iter(inputs)), "out")
    return writer.encoded(inputs, {"out": tuple(next(iter(inputs.values())))})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04" + bytes(60), "pickled"),
        (b"\x80\x02}q\x00.", "pickled"),
        (b"not a network", "no ONNX file"),
        (b"", "no ONNX file"),
        (graph({"x": (None, None, None, None)}), "no voice encoder"),
        (graph({"x": (None, None, 40)}), "no voice encoder"),
        (graph({"x": (None, None, 80)}), "cannot be used"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "network.onnx").write_bytes(data)
    with pytest.raises(ModelUnavailable, match=reason):
        VoiceEncoder(tmp_path / "network.onnx")
    with pytest.raises(ModelUnavailable):
        SegmentationNetwork(tmp_path / "network.onnx")
    with pytest.raises(ModelUnavailable, match="cannot be read"):
        VoiceEncoder(tmp_path / "missing.onnx")
