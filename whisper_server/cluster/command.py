"""`cluster FILE`: the API on a Ray cluster, as a Serve config file describes it, until a signal ends it.

Without `--address` the cluster is this machine alone, and ends with the command.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from whisper_server.api.server.run import BAD_SETTING, CANNOT_START, check_exposure
from whisper_server.cluster.arguments import FRONT, HOST, parsed, reason, settings_of
from whisper_server.core.errors import ConfigError
from whisper_server.core.system.process import ensure_streams, leave

if TYPE_CHECKING:
    from ray.serve.schema import ServeDeploySchema

# What Ray has to know before it is imported; on other machines the environment of `ray start` says it.
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing reports home
    # What Serve's proxies put around the fronts.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "whisper_server.cluster.retry:middlewares",
    # Else all requests that reach one machine would be the work of its fronts, and those of others idle.
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
}
IMPORT_PATH = "whisper_server.cluster.deployments:build"
LOOPBACK = "127.0.0.1"
LOOK_S = 0.5  # between two looks at how far the start is


def run(argv: Sequence[str]) -> None:
    """Be the command, and end the process."""
    ensure_streams()
    leave(main(argv))


def main(argv: Sequence[str]) -> int:
    """Start the application, and stay until a signal comes; return the exit code."""
    arguments = _parser().parse_args(argv)
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        config = read_config(Path(arguments.file))
    except ConfigError as error:
        return _fail(str(error), BAD_SETTING)
    return _serve(config, arguments.address, stays=not arguments.detach)


def read_config(path: Path) -> ServeDeploySchema:
    """Read and check a config file; the host that it serves on becomes a setting of the fronts.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    try:
        import yaml  # noqa: PLC0415
        from ray.serve.schema import ServeDeploySchema  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"this command needs `pip install 'whisper-server[cluster]'`: {error}") from error
    try:
        config = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise ConfigError(f"{path} cannot be used: {reason(error)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be used: {' '.join(str(error).split())}") from error
    ours = [each for each in config.applications if each.import_path == IMPORT_PATH]
    if len(ours) != len(config.applications) or not ours:
        raise ConfigError(f"{path}: `import_path` has to be {IMPORT_PATH}")
    for application in ours:
        settings = {**parsed(application.args).settings, HOST: config.http_options.host}
        application.args = {**application.args, "settings": settings}
        try:
            check_exposure(settings_of(settings))
        except OSError as error:  # the host has no address
            raise ConfigError(f"http_options.host: {config.http_options.host!r}: {error}") from error
    return config


def notice_of_jobs(config: ServeDeploySchema) -> str | None:
    """Return what to say where fronts on several machines would have jobs that others know nothing of."""
    for application in config.applications:
        if settings_of(parsed(application.args).settings).job_store:
            continue
        for each in application.deployments:
            scaling = each.autoscaling_config
            most = scaling.get("max_replicas", "auto") if isinstance(scaling, dict) else each.num_replicas
            if each.name == FRONT and most not in (1, None):
                return (
                    "WHISPER_JOB_STORE is not set: each machine has jobs of its own (docs/cluster.md, Jobs)"
                )
    return None


def _serve(config: ServeDeploySchema, address: str | None, *, stays: bool) -> int:
    import ray  # noqa: PLC0415  (seconds, which a wrong file need not cost)
    from ray import serve  # noqa: PLC0415

    from whisper_server.cluster.start import start, wait_until_running  # noqa: PLC0415

    try:
        # Ray would listen on every address: a client that reaches its ports can run code here.
        own: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": LOOPBACK}
        # Without an address Ray would wait for the cluster that was here last, be it gone or not.
        ray.init(address=address or "local", namespace="serve", **({} if address else own))
    except (ConnectionError, RuntimeError, ValueError) as error:
        return _fail(f"the Ray cluster cannot be used: {error}", CANNOT_START)
    if address and (notice := notice_of_jobs(config)):
        sys.stderr.write(f"{notice}\n")
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # after Ray, which has handlers of its own
        signal.signal(number, lambda *_: stopping.set())
    start(config)
    problem = wait_until_running(config, stopping, LOOK_S)
    if problem is not None:
        serve.shutdown()
        return _fail(problem, CANNOT_START)
    if is_running := not stopping.is_set():
        host, port = config.http_options.host, config.http_options.port
        sys.stderr.write(f"listening on http://{host}:{port}\n")
    if stays:
        stopping.wait()
        for number in (signal.SIGINT, signal.SIGTERM):  # a second signal ends it at once
            signal.signal(number, signal.SIG_DFL)
        if is_running:
            _drain(config)
        serve.shutdown()
    ray.shutdown()
    return 0


def _drain(config: ServeDeploySchema) -> None:
    """Wait for the requests there are, as long as the settings of the first application give them."""
    from whisper_server.cluster.start import drain  # noqa: PLC0415

    grace_s = settings_of(parsed(config.applications[0].args).settings).shutdown_grace_s
    try:
        drain(config, grace_s)
    except Exception as error:  # noqa: BLE001  (whatever Ray says now, the end goes on)
        sys.stderr.write(f"the requests there are cannot be waited for: {error}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whisper-api-server cluster",
        description="Start the API on a Ray cluster, with fronts and model replicas that scale apart.",
    )
    parser.add_argument("file", help="a Serve config file; docs/cluster.yaml is one")
    parser.add_argument("--address", help="of a Ray cluster that runs (`auto`: this machine's); else its own")
    parser.add_argument(
        "--detach", action="store_true", help="return once it runs, and leave it on the cluster (--address)"
    )
    return parser


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code
