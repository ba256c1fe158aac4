"""Model names: what they mean, and that a hostile one means nothing."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from whisper_server.core.config import Settings
from whisper_server.core.errors import ConfigError, ModelNotFound
from whisper_server.services.model_files.catalog import BUILT_IN, Catalog
from whisper_server.services.model_files.names import HOSTED


def catalog(**fields: Any) -> Catalog:
    return Catalog(Settings(_env_file=None, **fields))


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WHISPER_MODEL", raising=False)
    monkeypatch.delenv("WHISPER_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)


def test_built_in_names() -> None:
    found = {name: source.repo for name, source in catalog().names()}
    assert found == {**BUILT_IN, "whisper-1": "openai/whisper-tiny"}
    assert found["whisper-large"] == "openai/whisper-large-v3"


def test_whisper_1_is_whisper_tiny() -> None:
    names = catalog()
    assert names.default == "whisper-1"
    assert names.resolve("whisper-1") is names.resolve("whisper-tiny")
    assert names.resolve("whisper-1").name == "whisper-tiny"
    assert names.resolve("whisper-large").name == names.resolve("whisper-large-v3").name


def test_operator_names_win_over_built_in_ones(tmp_path: Path) -> None:
    (tmp_path / "nano").mkdir()
    names = catalog(models="whisper-1=./nano,mine=someone/whisper-mine@v2")
    assert names.resolve("whisper-1").folder == tmp_path / "nano"
    assert names.resolve("whisper-1").name == "whisper-1"
    assert names.resolve("whisper-tiny").repo == "openai/whisper-tiny"
    mine = names.resolve("mine")
    assert (mine.repo, mine.revision, mine.folder) == ("someone/whisper-mine", "v2", None)


def test_alias_follows_the_name_it_stands_for(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    names = catalog(models="whisper-tiny=./copy")
    assert names.resolve("whisper-1") is names.resolve("whisper-tiny")
    assert names.resolve("whisper-1").repo is None


def test_one_target_is_one_model_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    names = catalog(models="a=./real,b=real,c=link,d=./real/../real,e=openai/whisper-base")
    assert {names.resolve(name).name for name in "abcd"} == {"a"}
    assert names.resolve("e").name == "whisper-base"
    assert names.resolve("a") is not names.resolve("e")


def test_revisions_are_different_models() -> None:
    names = catalog(models="a=x/y,b=x/y@main,c=x/y@refs/pr/1")
    assert len({names.resolve(name).name for name in "abc"}) == 3


@pytest.mark.parametrize(
    "target", ["./m", "../m", "/srv/m", "~/m", "C:\\models\\m", "C:/models/m", "models\\m", ".hidden"]
)
def test_a_path_that_is_not_there_ends_the_start(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    with pytest.raises(ConfigError, match="WHISPER_MODELS: m: there is no folder"):
        catalog(models=f"m={target}")


def test_existing_folder_wins_over_a_repository_of_that_name(tmp_path: Path) -> None:
    assert catalog(models="m=models/nano").resolve("m").repo == "models/nano"
    (tmp_path / "models" / "nano").mkdir(parents=True)
    assert catalog(models="m=models/nano").resolve("m").folder == tmp_path / "models" / "nano"


@pytest.mark.parametrize(
    "target", ["nano", "a/b/c", "a/..", "a/b@", "https://x/y", "a b/c", "a/b@../c", "ä/b"]
)
def test_other_targets_end_the_start(target: str) -> None:
    with pytest.raises(ConfigError, match="WHISPER_MODELS: m="):
        catalog(models=f"m={target}")


def test_default_may_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub" / "nano-whisper").mkdir(parents=True)
    for text in ("sub/nano-whisper", "./sub/nano-whisper/", str(tmp_path / "sub" / "nano-whisper")):
        names = catalog(model=text)
        assert names.default == "nano-whisper"
        assert names.resolve("nano-whisper").folder == tmp_path / "sub" / "nano-whisper"


def test_default_is_a_name_before_it_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "whisper-1").mkdir()
    assert catalog().resolve("whisper-1").repo == "openai/whisper-tiny"


@pytest.mark.parametrize("model", ["nothing", "./nothing", "openai/whisper-large", "x" * 10_000, ""])
def test_default_that_names_nothing_ends_the_start(model: str) -> None:
    with pytest.raises(ConfigError, match="WHISPER_MODEL: ") as caught:
        catalog(model=model)
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_default_folder_must_not_shadow_the_operators_name(tmp_path: Path) -> None:
    (tmp_path / "sub" / "mine").mkdir(parents=True)
    with pytest.raises(ConfigError, match="WHISPER_MODEL: "):
        catalog(model="sub/mine", models="mine=x/y")


@pytest.mark.parametrize(
    "name",
    [
        "../..",
        "/etc/passwd",
        "C:\\Windows",
        "a\0b",
        "x" * 10_000,
        "",
        "someone/whisper-base",
        "\ud800",
        "a\nb\r\u2028c",
    ],
)
def test_unknown_names_are_404_and_touch_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = catalog()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("touched")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(Path, "is_dir", refuse)
    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(ModelNotFound) as caught:
        names.resolve(name)
    message = caught.value.message
    assert "whisper-1" in message
    assert "whisper-large-v3-turbo" in message
    assert len(message) < 700
    assert message.isprintable()
    message.encode("utf-8")


def test_without_aliases_names_are_exact() -> None:
    strict = catalog(aliases="none")
    assert strict.resolve("whisper-1").name == "whisper-tiny"
    assert strict.aliases() == []
    for name in ("Whisper-1", "tiny", "openai/whisper-base", "gpt-4o-transcribe"):
        with pytest.raises(ModelNotFound):
            strict.resolve(name)


def test_white_space_is_no_other_spelling() -> None:
    for name in (" whisper-1", "whisper-1 ", "whisper-1\n"):
        with pytest.raises(ModelNotFound):
            catalog().resolve(name)


@pytest.mark.parametrize("name", [*HOSTED, "GPT-4o-Transcribe", "openai/gpt-4o-transcribe"])
def test_names_of_hosted_models_mean_the_default_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "sub" / "mine").mkdir(parents=True)
    assert catalog(model="./sub/mine").resolve(name).folder == tmp_path / "sub" / "mine"
    assert catalog(model="whisper-small").resolve(name).name == "whisper-small"
    assert catalog().resolve(name).name == "whisper-tiny"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("openai/whisper-base", "whisper-base"),
        ("Systran/faster-whisper-small", "whisper-small"),
        ("whisper-large-v3", "whisper-large-v3"),
        ("large-v3", "whisper-large-v3"),
        ("large", "whisper-large-v3"),
        ("large-v3-turbo", "whisper-large-v3-turbo"),
        ("turbo", "whisper-large-v3-turbo"),
        ("ggml-medium.bin", "whisper-medium"),
        ("Whisper-Tiny", "whisper-tiny"),
        ("MINE", "mine"),
    ],
)
def test_other_spellings_of_a_model(name: str, model: str) -> None:
    names = catalog(models="mine=x/y,whisper-large-v3=openai/whisper-large-v3")
    expected = names.resolve(model)
    assert names.resolve(name) is expected
    assert catalog(model="whisper-base", models="mine=x/y").resolve(name) is not None


def test_spellings_follow_the_operators_model(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    assert catalog(models="whisper-base=./copy").resolve("base").folder == tmp_path / "copy"


def test_a_name_that_is_written_exactly_comes_first() -> None:
    names = catalog(models="Mine=x/y,mine=x/z,tiny=x/t")
    assert [names.resolve(name).repo for name in ("Mine", "mine", "MINE", "tiny")] == [
        "x/y",
        "x/z",
        "x/y",
        "x/t",
    ]


def test_the_operators_aliases() -> None:
    names = catalog(aliases="whisper-1=small, speech = mine", models="mine=x/y")
    assert names.resolve("whisper-1").name == "whisper-small"
    assert names.resolve(names.default).name == "whisper-small"
    assert names.resolve("gpt-transcribe").name == "whisper-small"
    assert names.resolve("SPEECH").repo == "x/y"
    assert (
        catalog(aliases="speech=whisper-base,none", model="speech").resolve("speech").name == "whisper-base"
    )
    assert catalog(model="large-v3-turbo").default == "whisper-large-v3-turbo"


@pytest.mark.parametrize("aliases", ["a=nothing", "none,a=small", "mine=whisper-base", "a=gpt-transcribe"])
def test_an_alias_of_nothing_ends_the_start(aliases: str) -> None:
    with pytest.raises(ConfigError, match="WHISPER_ALIASES: "):
        catalog(aliases=aliases, models="mine=x/y")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("whisper-smal", "whisper-small"),
        ("whisper-large-v2", "whisper-large-v3"),
        ("gpt-5-transcribe", "gpt-transcribe"),
    ],
)
def test_a_near_miss_is_told_the_name(wrong: str, meant: str) -> None:
    with pytest.raises(ModelNotFound, match=f"Did you mean '{meant}"):
        catalog().resolve(wrong)


def test_another_name_in_use_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "whisper_server.services.model_files.catalog")
    names = catalog(model="whisper-small")
    for name in ("gpt-transcribe", "GPT-transcribe", "gpt-transcribe", "whisper-small", "Small"):
        names.resolve(name)
    assert [record.getMessage().split(" is in use, which means ") for record in caplog.records] == [
        ["the model name gpt-transcribe", "whisper-small here (WHISPER_ALIASES)"],
        ["the model name small", "whisper-small here (WHISPER_ALIASES)"],
    ]
