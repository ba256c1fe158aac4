"""What routes ask for: the services of their app, and a request that is admitted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, Request

from whisper_server.api.asgi import log_fields, reply_headers
from whisper_server.api.compat.addresses import address_of
from whisper_server.api.models import ErrorBody
from whisper_server.core.types import ModelSource
from whisper_server.services.admission import FORM_READING_FACTOR, READING_FACTOR, Slot
from whisper_server.services.container import Services

MODEL_HEADER = "x-whisper-model"  # of a reply: the model that answers


@dataclass(frozen=True, slots=True)
class Admitted:
    """One request that is admitted, and what its endpoint works with until the reply has been sent."""

    request: Request
    services: Services
    slot: Slot

    @property
    def log(self) -> dict[str, Any]:
        """What the request's line in the log says of the work; add to it."""
        return log_fields(self.request.scope)

    def model(self, asked: str) -> tuple[str, ModelSource]:
        """Return the model's name as the client has it, and what it means; the reply names that one.

        A deployment in the address counts before the field of the body, as for Azure; without either it is
        the default model.

        Raises:
            ModelNotFound: the name is not known.
        """
        catalog = self.services.catalog
        name = address_of(self.request.scope).deployment or asked or catalog.default
        source = catalog.resolve(name)
        # Names may have characters that headers cannot.
        reply_headers(self.request.scope)[MODEL_HEADER] = quote(source.name, safe="/@:+ ")
        return name, source


async def get_services(request: Request) -> Services:
    """Return the services that the lifespan opened; a coroutine, or it would run on a thread per request."""
    services: Services = request.app.state.services
    return services


async def admit(request: Request) -> AsyncIterator[Admitted]:
    """Give the request a slot before its body is read, and take it back after its reply, streams too.

    Raises:
        Overloaded: the server has enough to do.
    """
    services = await get_services(request)
    with services.admission.enter(declared_bytes(request), reading_factor(request)) as slot:
        yield Admitted(request, services, slot)


def reading_factor(request: Request) -> int:
    """Return how much more than the body reading it takes for a moment, by its kind."""
    is_form = request.headers.get("content-type", "").strip().lower().startswith("multipart/form-data")
    return FORM_READING_FACTOR if is_form else READING_FACTOR


def declared_bytes(request: Request) -> int:
    """Return the length of the body as the client declares it, 0 where it does not."""
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else 0


AdmittedDep = Annotated[Admitted, Depends(admit)]
ServicesDep = Annotated[Services, Depends(get_services)]

OVERLOADED: dict[int | str, dict[str, Any]] = {
    429: {"description": "The server has as much to do as it takes on.", "model": ErrorBody}
}
