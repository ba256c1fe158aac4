"""With real weights: the words of a recording whose times people have measured."""

from __future__ import annotations

import statistics

import pytest

from tests.support.http_requests import form
from tests.support.in_process import client_of
from tests.support.real_models import real_recording
from whisper_server.core.config import Settings
from whisper_server.core.types import SAMPLE_RATE

pytestmark = pytest.mark.real

# The first and the last sample of each word of TIMIT's sentence SA1 by speaker FCJF0, from its SA1.WRD.
MEASURED = {
    "she": (3050, 5723),
    "had": (5723, 10337),
    "your": (9190, 11517),
    "dark": (11517, 16334),
    "suit": (16334, 21199),
    "in": (21199, 22560),
    "greasy": (22560, 28064),
    "wash": (28064, 33360),
    "water": (33754, 37556),
    "all": (37556, 40313),
    "year": (40313, 44586),
}


async def test_words_are_where_people_have_measured_them(base_settings: Settings) -> None:
    recording = real_recording("mozilla__DeepSpeech__LDC93S1.wav")
    async with client_of(base_settings) as client:
        asked = form(recording.read_bytes(), text=" ".join(MEASURED), language="en")
        body = (await client.post("/v1/audio/alignments", **asked)).json()
    (segment,) = body["segments"]
    assert [word["word"] for word in segment["words"]] == list(MEASURED)
    off_s = [
        abs(word[edge] - sample / SAMPLE_RATE)
        for word, samples in zip(segment["words"], MEASURED.values(), strict=True)
        for edge, sample in zip(("start", "end"), samples, strict=True)
    ]
    assert statistics.median(off_s) < 0.04
    assert max(off_s) < 0.15
