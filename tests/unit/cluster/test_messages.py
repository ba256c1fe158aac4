"""What travels comes back as it was."""

from __future__ import annotations

import pickle

import pytest

from tests.conftest import NANO
from whisper_server.cluster.messages import Failure
from whisper_server.core.errors import (
    EngineFailure,
    InvalidRequest,
    NoRoomForModel,
    Overloaded,
    PayloadTooLarge,
    WhisperServerError,
)
from whisper_server.services.engines.fake import build_tokenizer
from whisper_server.services.engines.tokenizer import Tokenizer


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("Bad.", param="language", code="no"),
        Overloaded("Later.", retry_after_s=7),
        NoRoomForModel("Full."),
        PayloadTooLarge(5, 6),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_on_the_other_side(error: WhisperServerError) -> None:
    there = pickle.loads(pickle.dumps(Failure.of(error))).error()
    assert type(there) is type(error)
    assert str(there) == str(error)
    for name in ("status", "type", "message", "param", "code", "retry_after_s", "retry_helps"):
        assert getattr(there, name) == getattr(error, name)


def test_an_error_of_another_version_is_a_failure() -> None:
    assert isinstance(Failure("NewKind", "?", None, None, None).error(), EngineFailure)


@pytest.mark.parametrize(
    "tokenizer",
    [Tokenizer.from_file(NANO / "tokenizer.json", is_multilingual=True), build_tokenizer()],
    ids=["of a file", "of the library"],
)
def test_a_tokenizer_needs_no_file_on_the_other_side(tokenizer: Tokenizer) -> None:
    there = pickle.loads(pickle.dumps(tokenizer))
    tokens = tokenizer.encode(" house left tree")
    assert tokens
    assert there.encode(" house left tree") == tokens
    assert there.text(tokens) == " house left tree"
    assert there.languages == tokenizer.languages
    assert there.start_sequence("en", "transcribe") == tokenizer.start_sequence("en", "transcribe")
