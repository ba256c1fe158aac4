"""An application on a Ray cluster that this process is connected to: started, and watched until it runs."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client

from whisper_server.cluster.arguments import BOARD
from whisper_server.cluster.board import REPORT_S

if TYPE_CHECKING:
    from ray.serve.schema import ServeDeploySchema


def start(config: ServeDeploySchema) -> None:
    """Start Serve where it does not run yet, and have it deploy the applications."""
    options = HTTPOptions(**config.http_options.model_dump())
    serve.start(proxy_location=config.proxy_location, http_options=options)
    _get_global_client().deploy_apps(config)


def wait_until_running(config: ServeDeploySchema, stopping: threading.Event, look_s: float) -> str | None:
    """Wait until all applications run, or `stopping` is set; return what went wrong where one cannot.

    Loading a model may take as long as a download does, so this waits for as long as Serve tries.
    """
    names = {application.name for application in config.applications}
    while not stopping.wait(look_s):
        found = {name: one for name, one in serve.status().applications.items() if name in names}
        for name, one in found.items():
            if one.status == "DEPLOY_FAILED":
                return f"{name} cannot be started: {one.message}"
        if len(found) == len(names) and all(one.status == "RUNNING" for one in found.values()):
            return None
    return None


def drain(config: ServeDeploySchema, grace_s: float) -> None:
    """Let nothing new begin, and wait until what has begun is done, for so many seconds at most."""
    deadline = time.monotonic() + grace_s
    for application in config.applications:
        board = serve.get_deployment_handle(BOARD, application.name)
        board.drain.remote().result(timeout_s=grace_s)
        time.sleep(2 * REPORT_S)  # by then every front has heard of it, and reported once more
        while board.totals.remote().result(timeout_s=grace_s).requests and time.monotonic() < deadline:
            time.sleep(REPORT_S)
