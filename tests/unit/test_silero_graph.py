"""The network in matrices says what the file's says, and a file that is not known is left as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.audio_files import clips, noises
from whisper_server.services import silero
from whisper_server.services.engines.onnx_tensors import float_tensors
from whisper_server.services.silero_graph import STATE, convolution_matrix, in_matrices

MODEL = silero.model_file().read_bytes()


@pytest.mark.parametrize("kind", ["speech", "silence", "noise", "loud", "one frame"])
def test_matrices_say_what_the_file_says(kind: str) -> None:
    speech = clips()[0].samples()
    samples = {
        "speech": speech,
        "silence": np.zeros(16_000, np.float32),
        "noise": noises(3)["white"].astype(np.float32),
        "loud": np.sign(speech),
        "one frame": speech[20_000:20_576],
    }[kind]
    assert in_matrices(MODEL) != MODEL
    file, matrices = silero.session_of(MODEL), silero.session_of(in_matrices(MODEL))
    state = {"h": np.zeros(STATE, np.float32), "c": np.zeros(STATE, np.float32)}
    for _ in range(2):  # the second time with the state that the first one left
        given_ = {"input": silero.frames(samples), **state}
        expected, found = file.run(None, given_), matrices.run(None, given_)
        for one, other in zip(expected, found, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
        state = {"h": expected[1], "c": expected[2]}


def test_the_format_is_onnxs() -> None:
    onnx.checker.check_model(in_matrices(MODEL), full_check=True)


def test_unknown_model_is_left_as_it_is() -> None:
    other = MODEL[:-1] + bytes([MODEL[-1] ^ 1])
    assert in_matrices(other) is other


def test_server_runs_the_network_in_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new release of the file would be run as it is, correctly and slower: this says so."""
    run: list[bytes] = []
    monkeypatch.setattr(silero, "session_of", run.append)
    silero._load_session.__wrapped__()
    assert in_matrices(MODEL) is not MODEL
    assert run == [in_matrices(MODEL)]


def test_weights_are_read_whole() -> None:
    weights = float_tensors(MODEL)
    assert weights["encoder.feature_extractor.forward_basis_buffer"].shape == (258, 1, 256)
    assert weights["onnx::LSTM_211"].shape == (1, 1024)
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in weights.values())
    n_bytes = sum(values.nbytes for values in weights.values())
    assert 0.95 * len(MODEL) < n_bytes < len(MODEL)


@given(st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_matrix_is_the_convolution(positions: int, n_in: int, n_out: int, stride: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    kernel = random.standard_normal((n_out, n_in, 3)).astype(np.float32)
    x = random.standard_normal((positions, n_in)).astype(np.float32)
    around = np.pad(x, ((1, 1), (0, 0)))
    expected = [
        sum(kernel[:, :, tap] @ around[place + tap] for tap in range(3))
        for place in range(0, positions, stride)
    ]
    found = convolution_matrix(kernel, positions, stride) @ x.reshape(-1)
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-5)
