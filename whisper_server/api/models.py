"""The shapes of replies about the server and its models, and of errors; those about audio are in `replies`.

They make the OpenAPI document right. Requests are in `requests.bodies`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EngineNotes(BaseModel):
    """What runs a model, and how."""

    engine: str = Field(description="ctranslate2 or torch.")
    device: str
    compute_type: str = Field(description="Number format of the computation.")
    max_batch: int = Field(description="Windows that one call takes.")
    workers: int = Field(description="Calls at once.")
    weights_bytes: int = Field(description="Memory that the weights take.")
    working_bytes: int = Field(description="Memory that calls take beside them, at most.")
    optimizations: list[str] = Field(description="Each: on, or off and why.")


class ModelHealth(BaseModel):
    """One model in memory or on its way."""

    name: str
    state: Literal["loading", "ready", "degraded", "unloading"]
    memory_bytes: int = Field(description="Weights and work, as counted for WHISPER_MAX_MODEL_MEMORY_MB.")
    engine: EngineNotes | None = Field(None, description="Absent while the model loads.")


class HealthReply(BaseModel):
    """The server lives; `stopping` says that it takes no new work and ends soon."""

    status: Literal["ok", "degraded", "stopping"]
    version: str
    uptime_s: float
    models: list[ModelHealth]


class QueueObject(BaseModel):
    """What is admitted, and how much may be."""

    requests: int = Field(description="Requests with audio, running and waiting.")
    max_requests: int
    audio_seconds: float = Field(description="What of their audio is still to be decoded, as far as known.")
    max_audio_seconds: float
    upload_bytes: int = Field(description="What of their bodies is held in memory.")
    max_upload_bytes: int


class ReadyReply(BaseModel):
    """The server takes work."""

    status: Literal["ready"]
    queue: QueueObject


class ModelObject(BaseModel):
    """One model, as OpenAI describes it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    alias_of: str | None = Field(
        None, description="The model that this name means, where it is another name."
    )
    engine: EngineNotes | None = Field(None, description="Of a model in memory; absent for others.")


class ModelList(BaseModel):
    """The models there are."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class DeletedModel(BaseModel):
    """A model is no longer in memory, nor on the disk where the settings allow to delete it."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class DownloadedModel(BaseModel):
    """A model is on the disk, ready to be loaded without a network."""

    id: str
    object: Literal["model"] = "model"
    pulled: Literal[True] = True


class RootReply(BaseModel):
    """What this is."""

    name: str
    version: str
    docs: str
    transcriptions: str
    models: str
    health: str


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error object."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "message": "The model 'whisper-9' does not exist.",
                        "type": "invalid_request_error",
                        "param": "model",
                        "code": "model_not_found",
                    }
                }
            ]
        }
    )

    error: ErrorDetail
