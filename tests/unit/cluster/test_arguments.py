"""What a Serve config file may say."""

from __future__ import annotations

import pytest

from whisper_server.cluster.arguments import group_of, parsed, settings_of
from whisper_server.core.errors import ConfigError


def test_settings_of_the_file_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_BEAM_SIZE", "3")
    monkeypatch.setenv("WHISPER_MAX_MODELS", "7")
    settings = settings_of(parsed({"settings": {"WHISPER_BEAM_SIZE": 2}}).settings, threads=4)
    assert (settings.beam_size, settings.max_models, settings.threads) == (2, 7, 4)


def test_threads_that_are_set_stay() -> None:
    assert settings_of({"WHISPER_THREADS": 3}, threads=8).threads == 3
    assert settings_of({}, threads=0).threads == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"settings": {"WHISPER_BEAMS": 2}}, "args.settings: there is no setting WHISPER_BEAMS"),
        ({"models": [{"deployment": "Front", "names": ["a"]}]}, "args.models: each needs a deployment"),
        ({"models": [{"deployment": "A", "names": []}]}, "args.models.0.names: "),
        ({"replicas": 3}, "args.replicas: "),
        ([1], "args: "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(args: object, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        parsed(args)
    assert str(found.value).startswith(message)
    assert "\n" not in str(found.value)


def test_a_value_of_a_setting_is_checked() -> None:
    with pytest.raises(ConfigError, match="WHISPER_BEAM_SIZE"):
        settings_of({"WHISPER_BEAM_SIZE": 99})


def test_models_have_the_replicas_of_their_group() -> None:
    args = parsed({"models": [{"deployment": "Large", "names": ["whisper-large-v3"]}]})
    assert group_of(args, "whisper-large-v3") == "Large"
    assert group_of(args, "whisper-small") == "Models"
