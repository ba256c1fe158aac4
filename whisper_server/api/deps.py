"""What routes ask for: the services of the app they belong to, and a place among those that are served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Request

from whisper_server.api.models import ErrorBody
from whisper_server.services.admission import Slot
from whisper_server.services.container import Services


async def get_services(request: Request) -> Services:
    """Return the services that the lifespan opened; a coroutine, or it would run on a thread per request."""
    services: Services = request.app.state.services
    return services


async def admitted(request: Request) -> AsyncIterator[Slot]:
    """Let the request in before its body is read, and out when its reply has been sent, streams too.

    Raises:
        Overloaded: the server has enough to do.
    """
    declared = request.headers.get("content-length", "")
    services = await get_services(request)
    with services.admission.enter(int(declared) if declared.isdecimal() else 0) as slot:
        yield slot


# Routes name the slot first of all: what they ask for is made ready in that order.
SlotDep = Annotated[Slot, Depends(admitted)]
ServicesDep = Annotated[Services, Depends(get_services)]

OVERLOADED: dict[int | str, dict[str, Any]] = {
    429: {"description": "The server has as much to do as it takes on.", "model": ErrorBody}
}
