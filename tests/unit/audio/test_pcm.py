"""Samples without a header: pulled as they are needed, whole whatever way they are cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.audio_files import wav_bytes
from whisper_server.core.errors import AudioTooLong, InvalidAudio
from whisper_server.services.audio.pcm import BYTES_PER_SECOND, PcmStream
from whisper_server.services.audio_processor import AudioProcessor


async def sent(chunks: Sequence[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def heard(stream: PcmStream) -> list[np.ndarray]:
    """Pull every block, waiting before each as the pipeline does."""
    found = []
    blocks = stream.blocks()
    while True:
        await stream.ready()
        block = next(blocks, None)
        if block is None:
            return found
        found.append(block)


def noise(seconds: float) -> bytes:
    rng = np.random.default_rng(0)
    return rng.integers(-8000, 8000, int(seconds * 16_000), dtype=np.int16).astype("<i2").tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 5_000), min_size=1, max_size=40))
def test_cut_anywhere_they_are_the_samples_of_the_file(cuts: list[int]) -> None:
    data = noise(2.3)
    edges = [0, *np.cumsum(cuts).tolist()]
    chunks = [data[a:b] for a, b in itertools.pairwise(edges) if data[a:b]] + [data[edges[-1] :]]
    stream = PcmStream(sent([chunk for chunk in chunks if chunk]), 60)
    found = np.concatenate(asyncio.run(heard(stream)))
    with AudioProcessor(1 << 24, 60).open(wav_bytes(data)) as file:
        np.testing.assert_array_equal(found, np.concatenate(list(file.blocks())))
    assert stream.position_s == pytest.approx(2.3)
    assert stream.levels().duration_s == stream.position_s


async def test_no_more_is_asked_for_than_the_next_block_needs() -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield noise(0.5)

    stream = PcmStream(endless(), 3600, block_s=1.0, look_ahead=3)
    blocks = stream.blocks()
    assert taken == 0
    await stream.ready()
    assert taken == 8  # one block and three ahead
    for pulled in range(1, 20):
        next(blocks)
        await stream.ready()
        assert taken == 8 + 2 * pulled


async def test_the_limit_is_seconds() -> None:
    assert len(await heard(PcmStream(sent([noise(1)] * 5), 5))) == 1
    with pytest.raises(AudioTooLong, match="MAX_AUDIO_SECONDS"):
        await heard(PcmStream(sent([noise(1)] * 5 + [b"\0\0"]), 5))


@pytest.mark.parametrize("data", [b"", b"\0", b"\0" * int(0.09 * BYTES_PER_SECOND)])
async def test_too_short(data: bytes) -> None:
    with pytest.raises(InvalidAudio, match="too short"):
        await heard(PcmStream(sent([data] if data else []), 5))


async def test_half_a_sample_at_the_end_is_left_out() -> None:
    (block,) = await heard(PcmStream(sent([noise(1) + b"\x01"]), 5))
    assert len(block) == 16_000
