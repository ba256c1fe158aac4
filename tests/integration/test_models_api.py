"""/v1/models: names with slashes, and DELETE."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from huggingface_hub.utils import WeakFileLock

from tests.conftest import NANO, Sample
from tests.support.http_requests import URL, error_of, form
from tests.support.in_process import OpenClient, client_of
from whisper_server.core.config import Settings
from whisper_server.core.errors import Unavailable
from whisper_server.core.types import ModelSource
from whisper_server.services.model_files.disk import remove_download
from whisper_server.services.model_files.hub import lock
from whisper_server.services.model_files.hub.cache import record, recorded

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SLASHED = ("org/model=owner/name", "org/old=owner/name@v1")


def download(cache_dir: Path, revision: str = "main", commit: str = COMMIT) -> Path:
    """Leave behind what a download and a conversion leave."""
    home = cache_dir / "hub" / "owner--name"
    (home / commit).mkdir(parents=True, exist_ok=True)
    (home / commit / "config.json").write_text("{}")
    record(home / f"{revision}.json", commit, {"config.json": 2})
    for name in (f"{commit}-int8-0011223344556677", "other-int8-0011223344556677"):
        (cache_dir / "converted" / name).mkdir(parents=True, exist_ok=True)
    return home / f"{revision}.json"


@pytest.mark.parametrize("path", ["org/model", "org%2Fmodel"])
async def test_a_name_with_a_slash(open_client: OpenClient, path: str) -> None:
    async with open_client(models=SLASHED) as client:
        body = (await client.get(f"/v1/models/{path}")).json()
        assert (body["id"], body["object"], body["owned_by"]) == ("org/model", "model", "owner")
        body = (await client.delete(f"/v1/models/{path}")).json()
        assert body == {"id": "org/model", "object": "model", "deleted": True}


async def test_delete_frees_the_memory(client: httpx.AsyncClient, speech: Sample) -> None:
    assert (await client.post(URL, **form(speech.data))).status_code == 200
    assert (await client.delete("/v1/models/whisper-1")).json()["id"] == "whisper-1"
    # Gone, or on its way out on a thread of its own.
    assert [model.state for model in client.app.state.services.models.loaded()] in ([], ["unloading"])
    assert (await client.delete("/v1/models/whisper-1")).status_code == 200  # it need not be loaded
    assert (await client.post(URL, **form(speech.data))).status_code == 200


async def test_idle_models_leave_the_memory(nano_settings: Settings, speech: Sample) -> None:
    async with client_of(nano_settings.model_copy(update={"idle_unload_s": 0.0})) as client:
        for _ in range(2):
            assert (await client.post(URL, **form(speech.data))).json()["text"] == speech.text
            # Gone, or on its way out on a thread of its own.
            assert [one["state"] for one in (await client.get("/health")).json()["models"]] in (
                [],
                ["unloading"],
            )


async def test_a_model_beyond_the_memory_limit_is_a_503_that_names_it(
    nano_settings: Settings, speech: Sample
) -> None:
    async with client_of(nano_settings.model_copy(update={"max_model_memory_mb": 1})) as client:
        for _ in range(2):
            reply = await client.post(URL, **form(speech.data))
            message = error_of(reply, 503, param="model", code="model_unavailable")
            assert "WHISPER_MAX_MODEL_MEMORY_MB" in message
            assert reply.headers["x-should-retry"] == "false"
        assert (await client.get("/health")).json()["models"] == []


async def test_what_runs_a_model_shows(client: httpx.AsyncClient, speech: Sample) -> None:
    assert "engine" not in (await client.get("/v1/models/whisper-1")).json()
    assert (await client.post(URL, **form(speech.data))).status_code == 200
    (health,) = (await client.get("/health")).json()["models"]
    expected = {
        "engine": "fake",
        "device": "cpu",
        "compute_type": "none",
        "max_batch": 4,
        "workers": 1,
        "weights_bytes": 0,
        "working_bytes": 0,
        "optimizations": [],
    }
    assert health["engine"] == expected
    assert (await client.get("/v1/models/whisper-1")).json()["engine"] == expected
    listed = {model["id"]: model.get("engine") for model in (await client.get("/v1/models")).json()["data"]}
    assert (listed["whisper-1"], listed["whisper-tiny"], listed["whisper-base"]) == (expected, expected, None)


async def test_delete_of_a_name_that_nobody_knows(client: httpx.AsyncClient) -> None:
    for path in ("nobody", "a%2Fb", "..%2F..%2Fetc"):
        error_of(await client.delete(f"/v1/models/{path}"), 404, param="model", code="model_not_found")


async def test_pages_of_friends_may_ask_to_delete(client: httpx.AsyncClient) -> None:
    asked = {"origin": "http://localhost:3000", "access-control-request-method": "DELETE"}
    assert (await client.options("/v1/models/whisper-1", headers=asked)).status_code == 200
    response = await client.delete("/v1/models/whisper-1", headers={"origin": "https://evil.example"})
    assert response.status_code == 403


@pytest.mark.parametrize("may", [False, True])
async def test_files_go_only_where_the_operator_allows_it(
    open_client: OpenClient, tmp_path: Path, may: bool
) -> None:
    cache_dir = tmp_path / "cache"
    marker = download(cache_dir)
    async with open_client(models=SLASHED, allow_delete=may) as client:
        assert (await client.delete("/v1/models/org/model")).status_code == 200
    assert (recorded(marker) is None) == may
    assert (marker.parent / COMMIT).exists() != may
    converted = [path.name.partition("-")[0] for path in (cache_dir / "converted").iterdir()]
    assert sorted(converted) == (["other"] if may else [COMMIT, "other"])


async def test_a_folder_of_the_operator_is_never_deleted(open_client: OpenClient, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.bin").write_text("x")
    async with open_client(models=(f"mine={folder}",), model=str(NANO), allow_delete=True) as client:
        for name in ("mine", "nano-whisper"):
            assert (await client.delete(f"/v1/models/{name}")).status_code == 200
    assert (folder / "model.bin").exists()
    assert (NANO / "model.safetensors").exists()


def test_files_that_another_revision_needs_stay(tmp_path: Path) -> None:
    main, old = download(tmp_path), download(tmp_path, "v1")
    assert remove_download(ModelSource("a", repo="owner/name"), tmp_path)
    assert recorded(main) is None
    assert recorded(old) is not None
    assert remove_download(ModelSource("a", repo="owner/name", revision="v1"), tmp_path)
    assert not (old.parent / COMMIT).exists()
    assert not remove_download(ModelSource("a", repo="owner/name"), tmp_path)


def test_a_damaged_record_deletes_nothing_but_itself(tmp_path: Path) -> None:
    marker = download(tmp_path)
    (tmp_path / "precious").mkdir()
    marker.write_text('{"commit": "../../precious"}')
    assert remove_download(ModelSource("a", repo="owner/name"), tmp_path)
    assert (tmp_path / "precious").exists()
    assert not marker.exists()


def test_a_download_on_its_way_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = download(tmp_path)
    monkeypatch.setattr(lock, "REMOVAL_TIMEOUT_S", 0.01)
    with WeakFileLock(marker.parent / ".lock"), pytest.raises(Unavailable, match="being downloaded"):
        remove_download(ModelSource("a", repo="owner/name"), tmp_path)
    assert recorded(marker) is not None
