"""What the `args` of a Serve config file say, and the settings of one process of the cluster.

Imports nothing of Ray.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from whisper_server.core.config import Settings, load_settings
from whisper_server.core.errors import ConfigError, ModelNotFound
from whisper_server.services.model_files.catalog import Catalog

DEFAULT_GROUP = "Models"
FRONT, BOARD = "Front", "Board"
HOST = "WHISPER_SERVER_HOST"  # a setting of the fronts, which the file's `http_options` decide
ANY_ADDRESS = "0.0.0.0"  # noqa: S104  (what a front must reckon with)

_FIELDS = {field.alias or name: name for name, field in Settings.model_fields.items()}


class ModelGroup(BaseModel):
    """Models with replicas of their own, which scale by themselves."""

    model_config = ConfigDict(extra="forbid")

    deployment: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")  # as the file's `deployments` name it
    names: tuple[str, ...] = Field(min_length=1)  # of models, as requests name them


class ClusterArgs(BaseModel):
    """The whole of `args`."""

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, str | int | float | bool] = {}  # variable -> value; they win over the environment
    models: tuple[ModelGroup, ...] = ()  # all others are served by the deployment `Models`
    multiplexed: bool = False  # whether a replica of `Models` keeps to the models that it has in memory

    @field_validator("settings")
    @classmethod
    def _are_known(cls, value: dict[str, Any]) -> dict[str, Any]:
        unknown = sorted(set(value) - set(_FIELDS))
        if unknown:
            raise ValueError(f"there is no setting {', '.join(unknown)} (docs/settings.md lists them)")
        return value

    @field_validator("models")
    @classmethod
    def _have_names_of_their_own(cls, value: tuple[ModelGroup, ...]) -> tuple[ModelGroup, ...]:
        names = [group.deployment for group in value]
        if len({*names, DEFAULT_GROUP, FRONT, BOARD}) < len(names) + 3:
            raise ValueError(f"each needs a deployment of its own, none of {DEFAULT_GROUP}, {FRONT}, {BOARD}")
        return value


def settings_of(values: dict[str, Any], *, threads: int = 0) -> Settings:
    """Return the settings of this process: its environment, and over it these values by variable.

    Where nothing says how many `threads` the model gets, it is these; 0 leaves it to the engine.

    Raises:
        ConfigError: a value is wrong.
    """
    settings = load_settings({_FIELDS[name]: value for name, value in values.items()})
    if settings.threads == 0 and threads > 0:
        settings = settings.model_copy(update={"threads": threads})
    return settings


def settings_of_front(args: ClusterArgs) -> Settings:
    """Return the settings of a front.

    The command has written there where the proxies listen. KubeRay has not, and a front cannot know: it
    reckons with being reached by other machines.

    Raises:
        ConfigError: a value is wrong.
    """
    return settings_of({HOST: ANY_ADDRESS, **args.settings})


def groups_of(args: ClusterArgs, catalog: Catalog) -> dict[str, str]:
    """Return the deployment of each model that has replicas of its own, by its canonical name.

    Raises:
        ConfigError: a group names a model that is not known here.
    """
    try:
        return {catalog.resolve(name).name: group.deployment for group in args.models for name in group.names}
    except ModelNotFound as error:
        raise ConfigError(f"args.models: {error}") from error


def loaded_at_start(args: ClusterArgs, group: str, settings: Settings, catalog: Catalog) -> list[str]:
    """Return the canonical names of the models that a replica of a group loads before it takes work.

    Raises:
        ConfigError: a name is not known here.
    """
    groups = groups_of(args, catalog)
    if group != DEFAULT_GROUP:
        return [name for name, deployment in groups.items() if deployment == group]
    try:
        wanted = dict.fromkeys(catalog.resolve(name).name for name in settings.preload)
    except ModelNotFound as error:
        raise ConfigError(f"WHISPER_PRELOAD: {error}") from error
    return [name for name in wanted if name not in groups]


def parsed(args: Any) -> ClusterArgs:
    """Check what a file says.

    Raises:
        ConfigError: one line that names what is wrong.
    """
    try:
        return ClusterArgs.model_validate(args or {})
    except ValidationError as error:
        raise ConfigError(reason(error, "args")) from error


def reason(error: ValidationError, *where: str) -> str:
    """Return in one line what is wrong first, and where."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in (*where, *first["loc"]))
    message = first["msg"].removeprefix("Value error, ").partition("\n")[0]
    return f"{place}: {message}" if place else message
