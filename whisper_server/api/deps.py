"""What routes ask for: the services of the app they belong to."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from whisper_server.services.container import Services


def get_services(request: Request) -> Services:
    """Return the services that the lifespan opened."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]
