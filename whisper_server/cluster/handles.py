"""How a front reaches the replicas and the board through Ray Serve: calls, and what their failures mean."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from ray.exceptions import (
    ActorUnavailableError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError

from whisper_server.cluster.board import Totals
from whisper_server.cluster.messages import Failure, ModelCard, WindowCall
from whisper_server.cluster.remote_model import ReplicaLost, ReplicaUnreachable
from whisper_server.core.errors import EngineFailure, ModelUnavailable, Overloaded, Unavailable
from whisper_server.core.types import Decoded

_LOST = (RayActorError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
_FAILURES = (RayError, BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError)
_UNREACHABLE = (ActorUnavailableError, ReplicaUnavailableError)  # the first is a RayActorError too


class ReplicaHandles:
    """All replicas of one deployment of models; see `Replicas`."""

    def __init__(self, handle: Any, deployment: str, totals: Callable[[], Totals], model: str | None) -> None:
        """Take the deployment's handle; with `model`, replicas that have it in memory come first."""
        self._deployment = deployment
        self._totals = totals
        routed = handle.options(multiplexed_model_id=model) if model else handle
        self._decode = routed.options(method_name="decode")
        self._describe = routed.options(method_name="describe")

    @property
    def slots(self) -> int:
        """Windows that all replicas decode at once, as far as they have reported."""
        return self._totals().slots.get(self._deployment, 0)

    @property
    def streams(self) -> int:
        """Requests of all fronts that the slots are shared among."""
        return self._totals().streams.get(self._deployment, 0)

    async def decode(self, call: WindowCall) -> Decoded:
        """Decode a window on one of the replicas; raises as `Replicas.decode`."""
        answer = await _answer(self._decode.remote(call))
        assert isinstance(answer, Decoded)
        return answer

    def describe(self, name: str) -> ModelCard:
        """Have a model loaded, and return what it is; blocks, for as long as a download takes.

        Raises:
            ModelUnavailable: every replica that was asked was lost.
            WhisperServerError: what the replica says.
        """
        try:
            card = _raised(_translated(lambda: self._describe.remote(name).result()))
        except (ReplicaLost, ReplicaUnreachable) as error:
            raise ModelUnavailable(f"The replica that loads {name!r} was lost; try again.") from error
        assert isinstance(card, ModelCard)
        return card


async def _answer(response: Any) -> object:
    """Wait for a replica's answer; cancelled, so is the call. Raises as `Replicas.decode`."""
    try:
        return _raised(await response)
    except asyncio.CancelledError:
        response.cancel()
        raise
    except _FAILURES as error:
        raise _meaning(error) from error


def _translated(call: Callable[[], object]) -> object:
    try:
        return call()
    except _FAILURES as error:
        raise _meaning(error) from error


def _raised(answer: object) -> object:
    if isinstance(answer, Failure):
        raise answer.error()
    return answer


def _meaning(error: Exception) -> Exception:
    """Return what a failure of Ray's is for us."""
    first_line = str(error).partition("\n")[0]
    if isinstance(error, _UNREACHABLE):
        return ReplicaUnreachable(first_line)
    if isinstance(error, _LOST):
        return ReplicaLost(first_line)
    if isinstance(error, BackPressureError):
        return Overloaded("The model's replicas have as much to do as they take on; try again later.")
    if isinstance(error, DeploymentUnavailableError):
        return Unavailable("The model's replicas cannot be started; try again later.")
    if isinstance(error, RayTaskError):
        return EngineFailure("The engine failed on this audio.")
    return ReplicaUnreachable(first_line)
