"""What clients write into forms and JSON means the same, however it is encoded."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from whisper_server.api.requests.bodies import ServerVad, TranscriptionFields
from whisper_server.api.requests.form import from_form

VAD = ServerVad(type="server_vad", threshold=0.4)


def of_form(**fields: list[str]) -> TranscriptionFields:
    return TranscriptionFields.model_validate(from_form(fields))


@pytest.mark.parametrize(
    "form",
    [
        {"include[]": ["a", "b"]},
        {"include": ["a", "b"]},
        {"include[]": ["a", ""], "include": ["b"]},
        {"include[0]": ["a"], "include[1]": ["b"]},
    ],
)
def test_lists(form: dict[str, list[str]]) -> None:
    assert of_form(**form).include == ("a", "b")


@pytest.mark.parametrize("value", ["a", ["a"], ["a", ""], ("a",)])
def test_lists_in_json(value: Any) -> None:
    assert TranscriptionFields.model_validate({"include": value}).include == ("a",)


@pytest.mark.parametrize(
    "form",
    [
        {"chunking_strategy[type]": ["server_vad"], "chunking_strategy[threshold]": ["0.4"]},
        {
            "chunking_strategy": ["auto"],
            "chunking_strategy[threshold]": ["0.4"],
            "chunking_strategy[type]": ["server_vad"],
        },
        {
            "chunking_strategy[type]": ["server_vad"],
            "chunking_strategy[threshold]": ["0.4"],
            "chunking_strategy[prefix_padding_ms]": [""],
        },
        {"chunking_strategy": ['{"type": "server_vad", "threshold": 0.4}']},
    ],
)
def test_objects(form: dict[str, list[str]]) -> None:
    assert of_form(**form).chunking_strategy == VAD


@pytest.mark.parametrize("value", [None, "", "auto", " auto ", "null", '"auto"'])
def test_the_servers_own_strategy(value: Any) -> None:
    assert TranscriptionFields.model_validate({"chunking_strategy": value}).chunking_strategy is None


@pytest.mark.parametrize(
    "value",
    [
        "vad",
        "{",
        "3",
        "[" * 100_000,
        {},
        [],
        {"type": "semantic_vad"},
        {"type": "server_vad", "threshold": 1.5},
        {"type": "server_vad", "threshold": "nan"},
        {"type": "server_vad", "prefix_padding_ms": -1},
        {"type": "server_vad", "silence_duration_ms": 10**9},
    ],
)
def test_wrong_strategies(value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TranscriptionFields.model_validate({"chunking_strategy": value})
    assert caught.value.errors()[0]["loc"][0] == "chunking_strategy"


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("false", False), ("0", False)])
def test_booleans_as_text(text: str, value: bool) -> None:
    assert of_form(stream=[text]).stream is value


def test_empty_is_absent_unknown_is_ignored_and_the_last_of_several_counts() -> None:
    form = {"prompt": [""], "language": ["de", "fr"], "temperature": [""], "user[id]": ["7"], "x[]": ["1"]}
    assert of_form(**form) == TranscriptionFields(language="fr")
    nulls = dict.fromkeys(TranscriptionFields.model_fields)
    assert TranscriptionFields.model_validate(nulls) == TranscriptionFields()
