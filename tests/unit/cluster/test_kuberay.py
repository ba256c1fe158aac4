"""The manifest for KubeRay: applications that pass the command's checks, and what containers need."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from whisper_server.core.errors import ConfigError

pytest.importorskip("ray", reason="pip install -r requirements-cluster.txt")

import ray
import yaml

from whisper_server.cluster.arguments import parsed
from whisper_server.cluster.command import VARIABLES, read_config

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments:DeprecationWarning")

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    (found,) = yaml.safe_load_all((DOCS / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayService")
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.fixture(scope="module")
def groups(service: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = service["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.fixture
def file(service: dict[str, Any], tmp_path: Path) -> Path:
    made = tmp_path / "serve.yaml"
    made.write_text(service["serveConfigV2"], encoding="utf-8")
    return made


def containers(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for group in groups for each in group["template"]["spec"]["containers"]]


def test_it_has_the_applications_of_the_other_example(service: dict[str, Any]) -> None:
    example = yaml.safe_load((DOCS / "cluster.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(service["serveConfigV2"])
    assert config["applications"] == example["applications"]
    assert config["proxy_location"] == example["proxy_location"]
    assert config["http_options"] == {**example["http_options"], "host": "0.0.0.0"}


def test_the_command_would_take_its_config_with_a_key_alone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="WHISPER_API_KEY"):
        read_config(file)
    monkeypatch.setenv("WHISPER_API_KEY", "secret")
    (application,) = read_config(file).applications
    assert [each.name for each in application.deployments] == ["Front", "Models"]


def test_every_container_has_the_variables_of_the_page(groups: list[dict[str, Any]]) -> None:
    page = (DOCS / "cluster.md").read_text(encoding="utf-8")
    exported = dict(re.findall(r"^export (\w+)=(\S+)$", page, re.MULTILINE))
    assert exported == VARIABLES
    assert len(containers(groups)) == 2
    for each in containers(groups):
        values = {variable["name"]: variable.get("value") for variable in each["env"]}
        assert exported.items() <= values.items()
        assert {"WHISPER_API_KEY", "WHISPER_JOB_STORE", "WHISPER_CACHE_DIR", "ALLOWED_HOSTS"} <= set(values)
        assert values["WHISPER_API_KEY"] is None  # from the Secret


def test_probes_are_left_to_kuberay_and_find_the_port_by_its_name(
    service: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    port = yaml.safe_load(service["serveConfigV2"])["http_options"]["port"]
    for each in containers(groups):
        assert not [key for key in each if "probe" in key.lower()]
        assert {"name": "serve", "containerPort": port} in each["ports"]


def test_a_worker_has_room_for_what_is_to_run_there(
    service: dict[str, Any], groups: list[dict[str, Any]]
) -> None:
    (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    wanted = {each["name"]: each["ray_actor_options"]["num_cpus"] for each in application["deployments"]}
    head, worker = groups
    (container,) = worker["template"]["spec"]["containers"]
    logical = int(worker["rayStartParams"]["num-cpus"])
    assert logical == sum(wanted.values()) < int(container["resources"]["limits"]["cpu"])
    most = {each["name"]: each["autoscaling_config"]["max_replicas"] for each in application["deployments"]}
    assert worker["maxReplicas"] == most["Models"] >= most["Front"]
    assert head["rayStartParams"]["num-cpus"] == "0"


def test_ray_asks_for_a_token(service: dict[str, Any]) -> None:
    assert service["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_it_runs_the_version_of_ray_that_the_extra_installs(service: dict[str, Any]) -> None:
    named = service["rayClusterConfig"]["rayVersion"].split(".")
    assert named[:2] == ray.__version__.split(".")[:2]


@pytest.fixture
def _log_as_it_was() -> Iterator[None]:
    ours = logging.getLogger("whisper_server")
    before = ours.handlers, ours.propagate, ours.level
    yield
    ours.handlers, ours.propagate, ours.level = before


@pytest.mark.usefixtures("_log_as_it_was")
def test_a_front_without_a_key_does_not_start_where_nothing_says_who_can_reach_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from whisper_server.cluster.deployments import FrontService

    with pytest.raises(ConfigError, match="WHISPER_API_KEY"):
        FrontService(parsed({}), {}, None)
    FrontService(parsed({"settings": {"WHISPER_SERVER_HOST": "127.0.0.1"}}), {}, None)
    monkeypatch.setenv("WHISPER_API_KEY", "secret")
    FrontService(parsed({}), {}, None)
