"""Model folders of strangers, by the dozen, in one server that goes on serving a good one."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.attack.conftest import LIMIT_S, check_serves
from tests.conftest import NANO, Sample, StartServer
from tests.support.http_requests import URL, error_of, form
from tests.support.model_folders import edit, nano_copy, set_variable
from whisper_server.services.engines.ct2.convert import ensure_converted

UNAVAILABLE = {"param": "model", "code": "model_unavailable"}
NUMBERS: list[object] = [0, -1, 1.5, True, "7", None, [], {}, 2**31, 2**63, 10**30, 1e300]
FIELDS = (
    *("d_model", "vocab_size", "encoder_layers", "decoder_layers"),
    *("encoder_attention_heads", "decoder_attention_heads"),
)


def pipe(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def endless(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")


def large(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.truncate(1 << 40)


def nested(folder: Path, name: str) -> None:
    (folder / name).write_text('{"model_type": "whisper", "x": ' + "[" * 1_000_000)


def random_bytes(folder: Path, name: str) -> None:
    (folder / name).write_bytes(random.Random(1).randbytes(100_000))


FILES: dict[str, Callable[[Path, str], None]] = {
    each.__name__: each for each in (pipe, endless, large, nested, random_bytes)
}


def refused(url: str, speech: Sample, name: str) -> str:
    reply = httpx.post(f"{url}{URL}", timeout=LIMIT_S, **form(speech.data, model=name))
    return error_of(reply, 503, **UNAVAILABLE)


@pytest.mark.parametrize("field", FIELDS)
def test_numbers_that_are_none(start_server: StartServer, tmp_path: Path, speech: Sample, field: str) -> None:
    folders = {}
    for index, value in enumerate(NUMBERS):
        folders[f"bad{index}"] = nano_copy(tmp_path / f"folder {index}")
        edit(folders[f"bad{index}"], "config.json", **{field: value})
    server = start_server(
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_MODELS=",".join(f"{name}={folder}" for name, folder in folders.items()),
    )
    for name in folders:
        message = refused(server.url, speech, name)
        assert field in message
        assert str(tmp_path) not in message
    check_serves(server, speech)
    assert server.stop() == 0


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_files_that_are_none(start_server: StartServer, tmp_path: Path, speech: Sample, name: str) -> None:
    folders = {kind: nano_copy(tmp_path / kind) for kind in FILES}
    for kind, make in FILES.items():
        make(folders[kind], name)
    server = start_server(
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_MODELS=",".join(f"{kind}={folder}" for kind, folder in folders.items()),
    )
    for kind in folders:
        assert str(tmp_path) not in refused(server.url, speech, kind)
    check_serves(server, speech)
    assert list((tmp_path / "cache" / "converted").glob(".tmp-*")) == []
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("variable", "data"),
    [
        ("decoder/num_heads", b"\0\0"),
        ("encoder/num_heads", b"\0\0"),
        ("decoder/num_heads", b"\xff\xff"),
        ("decoder/num_heads", b"\x05\0"),
    ],
)
def test_a_folder_of_ctranslate2_that_traps(
    start_server: StartServer, nano_cache: Path, tmp_path: Path, speech: Sample, variable: str, data: bytes
) -> None:
    bad = shutil.copytree(ensure_converted(NANO, nano_cache, "int8"), tmp_path / "bad")
    set_variable(bad / "model.bin", variable, data)
    server = start_server(
        *("--model", str(NANO), "--threads", "1"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_MODELS=f"theirs={bad}",
    )
    assert "'bad'" in refused(server.url, speech, "theirs")
    check_serves(server, speech)
    assert server.stop() == 0


def test_weights_that_are_cut_while_they_are_converted(
    start_server: StartServer, tmp_path: Path, speech: Sample
) -> None:
    """Whatever the moment: the text, or a 503."""
    good = (NANO / "model.safetensors").read_bytes()
    server = start_server("--threads", "1", "--model", str(NANO), WHISPER_ENGINE="ctranslate2")
    check_serves(server, speech)
    folder = nano_copy(tmp_path / "cut")
    server = start_server("--threads", "1", "--model", str(folder), WHISPER_ENGINE="ctranslate2")
    moments = random.Random(2)
    for _ in range(8):
        (folder / "model.safetensors").write_bytes(good)
        cut = threading.Timer(moments.uniform(0.2, 1.5), os.truncate, (folder / "model.safetensors", 4096))
        cut.start()
        reply = httpx.post(f"{server.url}{URL}", timeout=LIMIT_S, **form(speech.data))
        cut.join()
        if reply.status_code != 200:
            assert str(tmp_path) not in error_of(reply, 503, **UNAVAILABLE)
        shutil.rmtree(tmp_path / "cache" / "converted")
        httpx.delete(f"{server.url}/v1/models/cut", timeout=LIMIT_S)
    assert json.loads(httpx.get(f"{server.url}/health").text)["status"] == "ok"
    assert server.stop() == 0


def test_three_busy_models_in_two_places(start_server: StartServer, tmp_path: Path, speech: Sample) -> None:
    names = {name: nano_copy(tmp_path / name) for name in ("one", "two", "three")}
    server = start_server(
        *("--model", str(NANO), "--threads", "1", "--max-models", "2"),
        WHISPER_ENGINE="ctranslate2",
        WHISPER_MODELS=",".join(f"{name}={folder}" for name, folder in names.items()),
    )
    replies: list[httpx.Response] = []

    def use(name: str) -> None:
        for _ in range(6):
            replies.append(  # noqa: PERF401
                httpx.post(f"{server.url}{URL}", timeout=4 * LIMIT_S, **form(speech.data, model=name))
            )

    users = [threading.Thread(target=use, args=(name,)) for name in (*names, "one", "two")]
    for each in users:
        each.start()
    for each in users:
        each.join()
    assert [reply.json().get("text") for reply in replies] == [speech.text] * 30
    assert server.stop() == 0
