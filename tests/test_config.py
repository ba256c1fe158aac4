"""Settings: where they come from, who wins, and what a wrong one says."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from whisper_server import __version__
from whisper_server.api.server.flags import parse_flags
from whisper_server.api.server.run import read_settings
from whisper_server.core.config import Settings, load_settings
from whisper_server.core.errors import ConfigError
from whisper_server.core.logging import LineFormatter, one_line
from whisper_server.core.settings.origins import DEFAULT_ORIGINS
from whisper_server.core.settings.types import default_cache_dir


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8089)
    assert settings.max_audio_bytes == 25 * 1024 * 1024 == 26_214_400
    assert settings.allowed_origins == DEFAULT_ORIGINS
    assert settings.allowed_hosts == ()
    assert settings.log_level == "INFO"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WHISPER_COMPUTE_TYPE", "int7"),
        ("WHISPER_SHUTDOWN_GRACE_S", "inf"),
        ("WHISPER_SHUTDOWN_GRACE_S", "nan"),
        ("WHISPER_CACHE_DIR", "~nobody-of-that-name/cache"),
        ("ALLOWED_ORIGINS", "localhost:3000"),
        ("ALLOWED_ORIGINS", "http://localhost:3000/path"),
    ],
)
def test_values_that_cannot_work(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable}: ") as caught:
        load_settings()
    assert "\n" not in str(caught.value)


def test_origins_are_as_browsers_write_them() -> None:
    settings = load_settings({"allowed_origins": "HTTP://App.local:3000/, *"})
    assert settings.allowed_origins == ("http://app.local:3000", "*")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    assert default_cache_dir().is_absolute()
    assert parse_flags([]) == {}


def test_flags_win_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("WHISPER_SERVER_PORT=1001\nLOG_LEVEL=error\nWHISPER_SERVER_HOST=::1\n")
    monkeypatch.setenv("WHISPER_SERVER_PORT", "1002")
    monkeypatch.setenv("LOG_LEVEL", "warning")
    settings = load_settings({"port": "1003"})
    assert (settings.port, settings.log_level, settings.host) == (1003, "WARNING", "::1")


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", "http://a.example, https://b.example ,")
    monkeypatch.setenv("WHISPER_MODELS", "mine=./folder,theirs=owner/name")
    settings = load_settings()
    assert settings.allowed_origins == ("http://a.example", "https://b.example")
    assert settings.operator_models == {"mine": "./folder", "theirs": "owner/name"}


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WHISPER_SERVER_PORT", "abc"),
        ("WHISPER_SERVER_PORT", "65536"),
        ("MAX_AUDIO_FILE_SIZE_MB", "0"),
        ("MAX_AUDIO_SECONDS", "-1"),
        ("LOG_LEVEL", "loud"),
        ("WHISPER_ENGINE", "steam"),
        ("WHISPER_MODELS", "no-target"),
        ("WHISPER_MAX_MODELS", "0"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message
    assert value.lower() in message.lower()


VARIABLES = sorted(field.alias or name for name, field in Settings.model_fields.items())
NUMBERS = sorted(
    field.alias or name for name, field in Settings.model_fields.items() if field.annotation in {int, float}
)


@pytest.mark.parametrize("value", ["9" * 20, "-" + "9" * 20, "9" * 400, "9" * 5000, "1e999", "0x10"])
@pytest.mark.parametrize("variable", NUMBERS)
def test_a_number_beyond_all_bounds_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=f"^{variable}: ") as caught:
        load_settings()
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("inside", ["\n", "\r\n", "\t", "\x00", "\x1b[2J", "\x7f", "\x85"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_a_control_character_in_a_value_is_one_line(tmp_path: Path, variable: str, inside: str) -> None:
    field = next(name for name, field in Settings.model_fields.items() if field.alias == variable)
    with pytest.raises(ConfigError, match=f"^{variable}: it has a line break, a NUL") as caught:
        load_settings({field: f"a{inside}b"})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("around", ["{} ", " {}", "{}\n", "{}\r\n", "\t{}\t"])
def test_white_space_around_a_value_does_not_count(monkeypatch: pytest.MonkeyPatch, around: str) -> None:
    for variable, value in [
        ("WHISPER_SERVER_HOST", "::1"),
        ("WHISPER_SERVER_PORT", "1234"),
        ("WHISPER_ENGINE", "fake"),
        ("WHISPER_DEVICE", "cpu"),
        ("WHISPER_OFFLINE", "true"),
        ("WHISPER_MODEL", "whisper-base"),
        ("WHISPER_CACHE_DIR", "/somewhere"),
        ("ALLOWED_ORIGINS", "http://a.example,http://b.example"),
        ("LOG_LEVEL", "debug"),
        ("WHISPER_IDLE_UNLOAD_S", "1.5"),
    ]:
        monkeypatch.setenv(variable, around.format(value))
    settings = load_settings()
    assert (settings.host, settings.port, settings.engine, settings.device) == ("::1", 1234, "fake", "cpu")
    assert (settings.offline, settings.model, settings.cache_dir) == (
        True,
        "whisper-base",
        Path("/somewhere"),
    )
    assert settings.allowed_origins == ("http://a.example", "http://b.example")
    assert (settings.log_level, settings.idle_unload_s) == ("DEBUG", 1.5)


@pytest.mark.parametrize("key", ["k1 ", " k1", "k1\n", "k1\r\n", "\tk1", "k1\u00a0", "\u2028k1", " ", "\n"])
def test_a_key_that_no_client_could_send_is_refused(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """`echo secret > file` adds a line break; without a word no key would ever be right."""
    monkeypatch.setenv("WHISPER_API_KEY", key)
    with pytest.raises(ConfigError, match=r"^WHISPER_API_KEY: it begins or ends with white space") as caught:
        load_settings()
    assert "k1" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_is_no_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_API_KEY", "k\udcff")
    with pytest.raises(ConfigError, match=r"^WHISPER_API_KEY: it is not UTF-8$"):
        load_settings()


@pytest.mark.parametrize("host", ["..", ".", "a..b", ".a", "a" * 64, "a." * 5_000, "é" * 300, "a\udcff"])
def test_what_is_no_host_is_one_line(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("WHISPER_SERVER_HOST", host)
    with pytest.raises(ConfigError, match=r"^WHISPER_SERVER_HOST: this is neither an address nor") as caught:
        load_settings()
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::", "::1", "fe80::1%eth0", "localhost", "a.example.", "bücher.example"]
)
def test_hosts(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("WHISPER_SERVER_HOST", host)
    assert load_settings().host == host


def test_the_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_API_KEY", "secret")
    assert "secret" not in repr(load_settings())


def test_every_setting_has_a_flag_a_variable_and_an_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_flags(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in text
        assert f"[{field.alias}" in text
        assert (field.description or "?").split()[0] in text
    assert "[WHISPER_SERVER_PORT, default 8089]" in text


def test_flags_given_and_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_flags([]) == {}
    assert parse_flags(["--max-audio-seconds", "7", "--offline"]) == {
        "max_audio_seconds": "7",
        "offline": True,
    }
    assert parse_flags(["--no-offline"]) == {"offline": False}
    with pytest.raises(SystemExit) as caught:
        parse_flags(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == __version__
    with pytest.raises(SystemExit) as caught:
        parse_flags(["--prot", "1"])
    assert caught.value.code == 2


def test_the_model_of_the_command_line_is_loaded_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert read_settings([]).preload == ()
    assert read_settings(["--model", str(folder), "--preload", "whisper-1"]).preload == (
        "whisper-1",
        "my-model",
    )


@pytest.mark.parametrize(
    ("flags", "variable"),
    [(["--preload", "nobody"], "WHISPER_PRELOAD"), (["--model", "nobody"], "WHISPER_MODEL")],
)
def test_a_model_that_nobody_configured_ends_the_start(flags: list[str], variable: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: .*nobody"):
        read_settings(flags)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_cache_has_the_platforms_place(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    folder = default_cache_dir()
    assert folder.name == "whisper-server"
    expected = {
        "linux": Path("/xdg"),
        "win32": Path("/local"),
        "darwin": Path("~/Library/Caches").expanduser(),
    }
    assert folder.parent == expected[platform]


def test_log_records_are_one_line_each() -> None:
    record = logging.LogRecord("name", logging.INFO, "", 1, "a\r\nb %s", ("\x1b[31m\u202e",), None)
    line = LineFormatter().format(record)
    assert line.endswith("INFO name a\\r\\nb \\x1b[31m\\u202e")
    assert one_line("Größe 5\u2028") == "Größe 5\\u2028"


def test_tracebacks_cannot_forge_a_line() -> None:
    try:
        int("x\n2026-01-01 INFO forged")
    except ValueError as error:
        record = logging.LogRecord(
            "n", logging.ERROR, "", 1, "m", (), (type(error), error, error.__traceback__)
        )
    _, *rest = LineFormatter().format(record).split("\n")
    assert rest
    assert all(line.startswith("    ") for line in rest)


def test_the_version_is_the_package_s() -> None:
    root = Path(__file__).parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    source = (root / project["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert f'\n__version__ = "{__version__}"' in source


# Settings that had another name in the release before.


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ({}, (2, 2)),
        ({"WHISPER_DECODE_WORKERS": "5"}, (5, 5)),
        ({"WHISPER_DECODE_WORKERS": "5", "WHISPER_AUDIO_THREADS": "3"}, (5, 3)),
        ({"WHISPER_DECODE_WORKERS": "5", "WHISPER_DECODER_PROCESSES": "1"}, (1, 5)),
        ({"WHISPER_DECODE_PROCESS": "true"}, (2, 2)),
        ({"WHISPER_DECODE_PROCESS": "false"}, (0, 2)),
        ({"whisper_decode_process": "No"}, (0, 2)),
        ({"WHISPER_DECODE_PROCESS": "false", "WHISPER_DECODE_WORKERS": "5"}, (0, 5)),
        ({"WHISPER_DECODE_PROCESS": "true", "WHISPER_DECODE_WORKERS": "5"}, (5, 5)),
        ({"WHISPER_DECODE_PROCESS": "false", "WHISPER_DECODER_PROCESSES": "1"}, (1, 2)),
    ],
)
def test_old_names_are_read_unless_the_new_ones_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, before: dict[str, str], expected: tuple[int, int]
) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in before.items()))
    settings = load_settings()
    assert (settings.decoder_processes, settings.audio_threads) == expected
    (tmp_path / ".env").unlink()
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.decoder_processes, settings.audio_threads) == expected
    old = [name for name in before if "DECODE_" in name.upper()]
    assert len(settings.notices) == len(old)
    for name in old:
        assert any(notice.startswith(f"{name.upper()} ") for notice in settings.notices)


def test_an_old_name_has_the_rank_of_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("WHISPER_AUDIO_THREADS=7\nWHISPER_DECODER_PROCESSES=7\n")
    monkeypatch.setenv("WHISPER_DECODE_WORKERS", "6")
    monkeypatch.setenv("WHISPER_AUDIO_THREADS", "5")
    settings = load_settings()
    assert (settings.decoder_processes, settings.audio_threads) == (6, 5)
    settings = load_settings(parse_flags(["--decode-workers", "4"]))
    assert (settings.decoder_processes, settings.audio_threads) == (4, 4)
    assert len(settings.notices) == 1
    settings = load_settings(parse_flags(["--decode-workers=4", "--no-decode-process", "--audio-threads=3"]))
    assert (settings.decoder_processes, settings.audio_threads) == (0, 3)


def test_a_bad_value_under_an_old_name_names_the_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER_DECODE_WORKERS", "many")
    with pytest.raises(ConfigError, match=r"^WHISPER_DECODE_WORKERS: .*'many'"):
        load_settings()


def test_a_bad_value_under_a_new_name_names_the_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WHISPER_DECODE_PROCESS", "true")
    (tmp_path / ".env").write_text("WHISPER_DECODER_PROCESSES=many\n")
    with pytest.raises(ConfigError, match=r"^WHISPER_DECODER_PROCESSES: .*'many'"):
        load_settings()


@pytest.mark.parametrize("value", ["5", "maybe", ""])
def test_a_bad_switch_under_an_old_name_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("WHISPER_DECODE_PROCESS", value)
    with pytest.raises(ConfigError, match=r"^WHISPER_DECODE_PROCESS: "):
        load_settings()


def test_a_server_with_an_old_name_says_once_what_to_use(start_server: StartServer) -> None:
    server = start_server(WHISPER_DECODE_WORKERS="1")
    assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
    server.stop()
    (line,) = [line for line in server.lines if "WHISPER_DECODE_WORKERS" in line]
    assert " WARNING " in line
    assert "WHISPER_DECODER_PROCESSES" in line
    assert "WHISPER_AUDIO_THREADS" in line


def test_old_flags_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_flags(["--help"])
    shown = capsys.readouterr().out
    assert "decode-workers" not in shown
    assert "--decoder-processes" in shown
