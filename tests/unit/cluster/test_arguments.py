"""What a Serve config file may say."""

from __future__ import annotations

import pytest

from whisper_server.cluster.arguments import (
    DEFAULT_GROUP,
    HOST,
    groups_of,
    loaded_at_start,
    parsed,
    settings_of,
    settings_of_front,
)
from whisper_server.core.errors import ConfigError
from whisper_server.services.model_files.catalog import Catalog


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


LARGE = {"models": [{"deployment": "Large", "names": ["large-v3"]}]}  # another spelling


def test_models_have_the_replicas_of_their_group_by_any_of_their_names() -> None:
    settings = settings_of({"WHISPER_PRELOAD": "whisper-small,whisper-large-v3"})
    catalog, args = Catalog(settings), parsed(LARGE)
    (name,) = groups_of(args, catalog)
    assert name == catalog.resolve("whisper-large-v3").name
    assert groups_of(args, catalog) == {name: "Large"}
    assert loaded_at_start(args, "Large", settings, catalog) == [name]
    assert loaded_at_start(args, DEFAULT_GROUP, settings, catalog) == ["whisper-small"]


def test_a_model_that_is_not_known_is_said() -> None:
    settings = settings_of({"WHISPER_PRELOAD": "no-such-model"})
    with pytest.raises(ConfigError, match="WHISPER_PRELOAD: The model 'no-such-model'"):
        loaded_at_start(parsed({}), DEFAULT_GROUP, settings, Catalog(settings))
    args = parsed({"models": [{"deployment": "A", "names": ["no-such-model"]}]})
    with pytest.raises(ConfigError, match=r"args\.models: The model 'no-such-model'"):
        groups_of(args, Catalog(settings))


def test_a_front_reckons_with_other_machines_unless_the_command_says_where_it_listens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WHISPER_SERVER_HOST", "127.0.0.1")  # of a server, which fronts are not
    assert settings_of_front(parsed({})).host == "0.0.0.0"
    assert settings_of_front(parsed({"settings": {HOST: "127.0.0.1"}})).host == "127.0.0.1"
