"""Speech is found where it is, silence and noise are not speech, and nothing is cut or lost."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.audio_files import Clip, clips, noises, tone
from whisper_server.core.types import SAMPLE_RATE, WINDOW_SAMPLES, Span, VadOptions
from whisper_server.services.speech import silero
from whisper_server.services.speech.vad import MAX_FRAMES, SpeechGate, fixed, longest_pause, spans, steps

FRAME_S = 0.032
CLIPS = clips()


def blocks(samples: np.ndarray, size: int = 30 * SAMPLE_RATE) -> Iterator[np.ndarray]:
    for at in range(0, len(samples), size):
        yield samples[at : at + size]


def check_spans(found: list[Span], samples: np.ndarray) -> None:
    """Spans are in order, apart, at most 30 s, and hold exactly the file's samples."""
    last = 0
    for span in found:
        start = round(span.start_s * SAMPLE_RATE)
        assert start / SAMPLE_RATE == span.start_s
        assert start >= last
        assert 0 < len(span.samples) <= WINDOW_SAMPLES
        assert span.samples.dtype == np.float32
        np.testing.assert_array_equal(span.samples, samples[start : start + len(span.samples)])
        last = start + len(span.samples)
    assert last <= len(samples)


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: clip.path.stem)
def test_every_word_lies_within_a_span(clip: Clip) -> None:
    samples = clip.samples()
    found = list(spans(blocks(samples)))
    check_spans(found, samples)
    for word, start_s, end_s in clip.words:
        inside = [s for s in found if s.start_s <= start_s + 0.05 and end_s - 0.05 <= s.end_s]
        assert inside, (word, start_s, end_s, [(s.start_s, s.end_s) for s in found])


@pytest.mark.parametrize("kind", list(noises(0.1)))
@pytest.mark.parametrize("seed", [1, 2])
def test_silence_and_noise_have_no_voice(kind: str, seed: int) -> None:
    found = list(spans(blocks(noises(60, seed)[kind])))
    assert all(max(span.voice) < 0.5 for span in found)


@pytest.mark.parametrize("amplitude", [0.0, 1 / 32768, 5e-4])
def test_what_is_plainly_silent_costs_nothing(amplitude: float) -> None:
    noise = amplitude * np.random.default_rng(1).standard_normal(60 * SAMPLE_RATE).astype(np.float32)
    assert list(spans(blocks(noise))) == []


def test_sound_that_voice_detection_does_not_know_is_heard_all_the_same() -> None:
    quiet = np.zeros(5 * SAMPLE_RATE, np.float32)
    (span,) = spans([np.concatenate([quiet, tone(4.0), quiet])])
    assert 4.2 - 0.1 <= span.start_s <= 4.2 + 0.1
    assert 9.8 - 0.1 <= span.end_s <= 9.8 + 0.1


def test_every_frame_of_a_span_has_its_probability() -> None:
    pause = np.zeros(5 * SAMPLE_RATE + 77, np.float32)
    samples = np.concatenate([pause, CLIPS[0].samples(), pause, CLIPS[1].samples()])
    probabilities = [*(model := silero.Silero()).probabilities(samples), *model.finish()]
    found = list(spans(blocks(samples, 70_000)))
    assert len(found) == 2
    for span in found:
        first = round(span.start_s / FRAME_S)
        assert len(span.voice) == -(-len(span.samples) // 512)
        np.testing.assert_allclose(span.voice, probabilities[first : first + len(span.voice)], atol=1e-5)


def test_ten_minutes_of_silence_then_speech() -> None:
    clip = CLIPS[0]
    samples = np.concatenate([np.zeros(600 * SAMPLE_RATE, np.float32), clip.samples()])
    found = list(spans(blocks(samples)))
    check_spans(found, samples)
    assert found[0].start_s > 600 + clip.words[0][1] - VadOptions().speech_pad_ms / 1000 - 0.05
    for _, start_s, end_s in clip.words:
        assert any(s.start_s <= 600 + start_s + 0.05 and s.end_s >= 600 + end_s - 0.05 for s in found)


def test_pauses_split_and_short_ones_do_not() -> None:
    words = [clip.samples() for clip in CLIPS[:2]]
    pause = np.zeros(5 * SAMPLE_RATE, np.float32)
    found = list(spans([np.concatenate([words[0], pause, words[1]])]))
    assert len(found) == 2
    assert found[1].start_s - found[0].end_s > 3


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=8))
def test_spans_do_not_depend_on_the_blocks(sizes: list[int]) -> None:
    samples = np.concatenate([CLIPS[0].samples(), np.zeros(20_000, np.float32), CLIPS[1].samples()])
    cut = np.split(samples, np.minimum(np.cumsum(sizes), len(samples)))
    once, often = list(spans([samples])), list(spans(cut))
    assert [(s.start_s, len(s.samples)) for s in once] == [(s.start_s, len(s.samples)) for s in often]


def test_long_speech_is_cut_in_pauses_and_nothing_is_lost() -> None:
    dense = [clip for clip in CLIPS if "dense" in clip.path.stem]
    parts, words, at = [], [], 0
    for clip in dense * 2:
        samples = clip.samples()
        words += [(at / SAMPLE_RATE + a, at / SAMPLE_RATE + b) for _, a, b in clip.words]
        parts.append(samples)
        at += len(samples)
    samples = np.concatenate(parts)
    options = VadOptions(min_silence_ms=5_000)
    found = list(spans(blocks(samples), options))
    check_spans(found, samples)
    assert len(found) >= len(samples) / WINDOW_SAMPLES
    for start_s, end_s in words:
        assert any(s.start_s <= start_s + 0.05 and end_s - 0.05 <= s.end_s for s in found)
    assert sum(len(s.samples) for s in found) > 0.95 * len(samples)


def test_options_move_the_threshold() -> None:
    assert VadOptions(threshold=0.6).end_threshold == pytest.approx(0.45)
    assert VadOptions(neg_threshold=0.2).end_threshold == 0.2


def test_no_audio_has_no_speech() -> None:
    assert list(spans([])) == []
    assert list(fixed([])) == []


# The gate alone: probabilities in, regions out.


def gate(
    probabilities: list[float], sounds: list[bool] | None = None, **options: float
) -> list[tuple[int, int]]:
    defaults = {"min_speech_ms": 96, "min_silence_ms": 320, "speech_pad_ms": 64}
    machine = SpeechGate(VadOptions(**{**defaults, **options}), lambda _first, last: last - 10)
    return [*machine.feed(probabilities, sounds or [False] * len(probabilities)), *machine.finish()]


def test_a_region_is_padded_and_kept_within_the_file() -> None:
    assert gate([0] * 20 + [1] * 10 + [0] * 20) == [(18, 32)]
    assert gate([1] * 10) == [(0, 10)]
    assert gate([0, 1, 1, 1, 1, 0]) == [(0, 6)]


def test_hysteresis_bridges_what_is_between_the_thresholds() -> None:
    assert gate([1] * 5 + [0.4] * 30 + [1] * 5 + [0] * 20) == [(0, 42)]
    assert gate([0.4] * 50) == []


def test_short_silence_joins_long_silence_splits() -> None:
    assert gate([1] * 5 + [0] * 9 + [1] * 5 + [0] * 20) == [(0, 21)]
    assert gate([1] * 5 + [0] * 10 + [1] * 5 + [0] * 20) == [(0, 7), (13, 22)]


def test_a_click_is_dropped() -> None:
    assert gate([0] * 5 + [1] * 2 + [0] * 20) == []


def test_padding_of_neighbours_never_overlaps() -> None:
    regions = gate([1] * 5 + [0] * 10 + [1] * 5 + [0] * 20, speech_pad_ms=1000)
    assert regions[0][1] <= regions[1][0]


def test_a_long_region_is_cut_in_the_longest_late_pause() -> None:
    speech = [1.0] * 1200
    speech[600:603] = [0.0] * 3
    speech[700:708] = [0.0] * 8
    speech[900:902] = [0.0] * 2
    (first, cut), (start, end) = gate(speech)
    assert (first, start, end) == (0, cut, 1200)
    assert 700 < cut < 708


def test_sound_without_a_voice_is_a_region_and_goes_on_with_one() -> None:
    assert gate([0] * 40, [False] * 10 + [True] * 10 + [False] * 20) == [(8, 22)]
    assert gate([0] * 10 + [1] * 5 + [0] * 25, [False] * 15 + [True] * 5 + [False] * 20) == [(8, 22)]


def test_voice_alone_says_where_to_cut_running_sound() -> None:
    speech = [1.0] * 1200
    speech[700:708] = [0.0] * 8
    (_, cut), (start, end) = gate(speech, [True] * 1200)
    assert (start, end) == (cut, 1200)
    assert 700 < cut < 708


def test_sound_without_any_voice_is_cut_late_where_it_is_quiet() -> None:
    regions = gate([0.0] * 1200, [True] * 1200)
    assert regions == [(0, MAX_FRAMES - 10), (MAX_FRAMES - 10, 1200)]


def test_without_a_pause_it_is_cut_where_it_is_quiet() -> None:
    assert gate([1.0] * 1200) == [(0, MAX_FRAMES - 10), (MAX_FRAMES - 10, 1200)]


def test_silence_after_a_cut_is_not_a_region() -> None:
    regions = gate([1.0] * 930 + [0.0] * 100)
    assert len(regions) == 1
    assert 930 <= regions[0][1] <= 937


def test_a_cut_in_a_pause_that_has_begun_leaves_no_empty_region() -> None:
    # The region is cut behind the beginning of its last silence, which then lies before the new one.
    regions = gate([0.9] * 881 + [0.1] * 55 + [0.4] + [0.1] * 20, min_silence_ms=2000, speech_pad_ms=800)
    assert all(start < end for start, end in regions)
    assert [start for start, _ in regions] == sorted(start for start, _ in regions)


def test_every_block_gives_others_a_turn() -> None:
    silence = [np.zeros(SAMPLE_RATE, np.float32) for _ in range(20)]
    assert list(steps(iter(silence))) == [None] * 20


def test_longest_pause_prefers_the_later_of_equals() -> None:
    probabilities = [1.0] * 900
    probabilities[500:504] = probabilities[800:804] = [0.0] * 4
    assert longest_pause(probabilities, 0.35) == (800, 804)
    assert longest_pause([1.0] * 900, 0.35) is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0]), st.integers(1, 500)), max_size=15),
    st.sampled_from([0.0, 100.0, 700.0, 3000.0]),
    st.sampled_from([0.0, 64.0, 300.0, 900.0]),
)
def test_regions_are_in_order_bounded_and_hold_all_speech(
    runs: list[tuple[float, int]], silence_ms: float, pad_ms: float
) -> None:
    probabilities = [p for p, n in runs for _ in range(n)]
    regions = gate(probabilities, min_silence_ms=silence_ms, speech_pad_ms=pad_ms, min_speech_ms=0)
    assert all(start < end for start, end in regions)
    edges = [edge for region in regions for edge in region]
    assert edges == sorted(edges)
    covered = np.zeros(len(probabilities), dtype=bool)
    for start, end in regions:
        assert 0 < end - start <= MAX_FRAMES
        covered[start:end] = True
    assert covered[np.array([p >= 0.5 for p in probabilities], dtype=bool)].all()


# Without VAD.


@pytest.mark.parametrize("seconds", [0.5, 29.9, 30.0, 30.1, 95.0])
@pytest.mark.parametrize("size", [30 * SAMPLE_RATE, 100_000, 700_000])
def test_fixed_spans_are_the_whole_file(seconds: float, size: int) -> None:
    samples = np.random.default_rng(3).standard_normal(int(seconds * SAMPLE_RATE)).astype(np.float32)
    found = [span for span in fixed(blocks(samples, size)) if span is not None]
    check_spans(found, samples)
    np.testing.assert_array_equal(np.concatenate([s.samples for s in found]), samples)


def test_fixed_spans_are_cut_at_the_quietest_point() -> None:
    samples = tone(70.0)
    samples[27 * SAMPLE_RATE : 27 * SAMPLE_RATE + 4000] = 0
    first, *_ = (span for span in fixed(blocks(samples)) if span is not None)
    assert 27.0 <= first.end_s <= 27.25


# Bounds.


def test_memory_does_not_grow_with_the_file() -> None:
    """Ten minutes of speech, made on the fly: at most span, block and their copies are alive."""
    import tracemalloc

    speech = np.resize(CLIPS[5].samples(), 30 * SAMPLE_RATE)
    list(spans([speech]))  # the model is loaded outside of the measurement
    tracemalloc.start()
    try:
        n_samples = sum(len(span.samples) for span in spans(speech.copy() for _ in range(5)))
        first_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        n_samples += sum(len(span.samples) for span in spans(speech.copy() for _ in range(15)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert n_samples > 0.5 * 20 * len(speech)
    assert peak < 40e6
    assert peak < 1.2 * first_peak + 1e6


def test_one_session_serves_all_threads() -> None:
    silero._load_session.cache_clear()
    sessions: list[object] = []
    results: list[list[tuple[float, int]]] = []
    barrier = threading.Barrier(4)
    samples = CLIPS[4].samples()

    def work() -> None:
        barrier.wait()
        sessions.append(silero.load_network())
        results.append([(s.start_s, len(s.samples)) for s in spans([samples])])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(session) for session in sessions}) == 1
    assert results == [results[0]] * 4


def test_only_the_runtime_is_imported_and_only_for_the_first_block() -> None:
    code = (
        "import sys, numpy as np; from whisper_server.services.speech import vad; "
        "assert 'onnxruntime' not in sys.modules; "
        "list(vad.spans([np.zeros(16000, np.float32)])); "
        "assert 'onnxruntime' in sys.modules; "
        "assert 'ctranslate2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
