"""Settings about models: which there are, where they are kept, what runs them and how.

A part of `core.config`, which reads them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator

from whisper_server.core.settings.types import CommaList, default_cache_dir

ComputeType = Literal[
    "auto", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16", "float32"
]

_NO_ALIASES = "none"


class ModelSettings(BaseModel):
    """Models and engines, and the work around them."""

    model: str = Field(
        "whisper-1",
        alias="WHISPER_MODEL",
        description="Model for requests that name none: a name, or a model folder (named after the folder).",
    )
    models: CommaList = Field(
        (),
        alias="WHISPER_MODELS",
        description="Models added by the operator: `name=folder-or-repository`, comma-separated.",
    )
    aliases: CommaList = Field(
        (),
        alias="WHISPER_ALIASES",
        description="Other names of models: `name=model`, comma-separated. `none`: only names as they are "
        "written here; else names of hosted models mean `WHISPER_MODEL`, and usual spellings are understood.",
    )
    preload: CommaList = Field(
        (), alias="WHISPER_PRELOAD", description="Models to load at start, comma-separated names."
    )
    max_models: int = Field(
        2,
        alias="WHISPER_MAX_MODELS",
        ge=1,
        le=64,
        description="Models kept in memory; the least recently used one goes.",
    )
    max_model_memory_mb: int = Field(
        0,
        alias="WHISPER_MAX_MODEL_MEMORY_MB",
        ge=0,
        le=1024 * 1024,
        description="Memory for all models together, in MiB: their weights and what they work with at the "
        "busiest moment (bench/README.md has figures); the least recently used one goes. 0: no limit.",
    )
    idle_unload_s: float = Field(
        -1.0,
        alias="WHISPER_IDLE_UNLOAD_S",
        ge=-1,
        le=31 * 86400,
        allow_inf_nan=False,
        description="Seconds after which an unused model leaves the memory, preloaded ones too; "
        "0: at once, -1: never.",
    )
    cache_dir: Path = Field(
        default_factory=default_cache_dir,
        alias="WHISPER_CACHE_DIR",
        description="Folder for downloaded and converted models.",
    )
    allow_delete: bool = Field(
        False,
        alias="WHISPER_ALLOW_DELETE",
        description="Let `DELETE /v1/models/{id}` delete downloaded files too; else it only frees memory.",
    )
    offline: bool = Field(False, alias="WHISPER_OFFLINE", description="Never open a socket to the model hub.")

    engine: Literal["auto", "ctranslate2", "torch", "fake"] = Field(
        "auto",
        alias="WHISPER_ENGINE",
        description="Inference engine. `auto`: `ctranslate2` wherever it runs, `torch` (an extra) for "
        "Apple's GPU and for several GPUs. `fake` answers without a model, for tests.",
    )
    device: str = Field(
        "auto",
        alias="WHISPER_DEVICE",
        pattern=r"^(auto|cpu|mps|cuda|cuda:\d+(,\s*cuda:\d+)*)$",
        description="Where the model runs: `auto`, `cpu`, `cuda`, `mps`, or GPUs by number, "
        "`cuda:0,cuda:1`, each with a whole model (engine `torch`, whose `cuda` is all GPUs).",
    )
    compute_type: ComputeType = Field(
        "auto",
        alias="WHISPER_COMPUTE_TYPE",
        description="Number format of the computation: auto (what the device does best), int8, int8_float32, "
        "int8_float16, int8_bfloat16, int16, float16, bfloat16 or float32.",
    )
    compile: bool = Field(
        False,
        alias="WHISPER_COMPILE",
        description="Let the engine `torch` compile its decoder while a model loads, which takes minutes.",
    )
    threads: int = Field(
        0, alias="WHISPER_THREADS", ge=0, le=1024, description="CPU threads for the model; 0: all cores."
    )
    beam_size: int = Field(
        5, alias="WHISPER_BEAM_SIZE", ge=1, le=16, description="Beams of the search; 1 is greedy and faster."
    )
    audio_context: Literal["auto", "full"] = Field(
        "auto",
        alias="WHISPER_AUDIO_CONTEXT",
        description="What the encoder hears of a window that sound does not fill. `auto`: on a CPU and with "
        "models that were measured, the sound and some silence, which is faster; `full`: always 30 s.",
    )
    batch_timeout_s: float = Field(
        600.0,
        alias="WHISPER_BATCH_TIMEOUT_S",
        ge=0,
        le=86400,
        allow_inf_nan=False,
        description="Seconds after which a batch of windows counts as hung: its requests fail and the "
        "model is reloaded, which may take as long; 0: never.",
    )
    vad: bool = Field(
        True,
        alias="WHISPER_VAD",
        description="Find voices, which tell where to cut, what text over noise to believe, and what "
        "the model left out. Off: everything is decoded once and shown.",
    )
    language_switching: bool = Field(
        True,
        alias="WHISPER_LANGUAGE_SWITCHING",
        description="Let a file be of several languages: a part that is surely in another one is written in "
        "that. Off: one language for the whole file. A request may say otherwise.",
    )
    audio_threads: int = Field(
        2,
        alias="WHISPER_AUDIO_THREADS",
        ge=1,
        le=64,
        description="Threads for CPU work around the model: audio, voice detection, spectrograms.",
    )
    speaker_encoder: str = Field(
        "Wespeaker/wespeaker-voxceleb-resnet34-LM:voxceleb_resnet34_LM.onnx",
        alias="WHISPER_SPEAKER_ENCODER",
        description="The network that tells voices apart (docs/speakers.md): an ONNX file, or one of a "
        "repository, `owner/name:file` or `owner/name@revision:file`.",
    )
    speaker_segmentation: str = Field(
        "csukuangfj/sherpa-onnx-pyannote-segmentation-3-0:model.onnx",
        alias="WHISPER_SPEAKER_SEGMENTATION",
        description="The network that hears turns and voices at once, named as the one above. `none`: voice "
        "detection has to do, which is less exact and hears one voice at a time.",
    )
    speaker_threshold: float = Field(
        0.7045654963945799,
        alias="WHISPER_SPEAKER_THRESHOLD",
        gt=0,
        le=2,
        allow_inf_nan=False,
        description="How far apart two voices are that are two speakers, from 0 to 2; it belongs to the "
        "network that tells them apart.",
    )
    decoder_processes: int = Field(
        2,
        alias="WHISPER_DECODER_PROCESSES",
        ge=0,
        le=64,
        description="Processes in which libav decodes audio files, started when needed, so that a file that "
        "crashes it harms no other request. 0: it works in the server itself.",
    )

    @field_validator("device", "engine", "compute_type", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("models")
    @classmethod
    def _have_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            name, separator, target = entry.partition("=")
            if not (separator and name.strip() and target.strip()):
                raise ValueError(f"{entry!r} is not of the form name=folder-or-repository")
        return value

    @field_validator("aliases")
    @classmethod
    def _are_pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            name, _, target = entry.partition("=")
            if entry.lower() != _NO_ALIASES and not (name.strip() and target.strip()):
                raise ValueError(f"{entry!r} is neither of the form name=model nor {_NO_ALIASES}")
        return value

    @field_validator("cache_dir")
    @classmethod
    def _expand_home(cls, value: Path) -> Path:
        try:
            return value.expanduser()
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    @property
    def has_built_in_aliases(self) -> bool:
        """Whether names of hosted models and other spellings are understood."""
        return not any(entry.lower() == _NO_ALIASES for entry in self.aliases)

    @property
    def operator_aliases(self) -> dict[str, str]:
        """Other name -> name of a model, as the operator wrote them."""
        pairs = (entry.partition("=") for entry in self.aliases if "=" in entry)
        return {name.strip(): target.strip() for name, _, target in pairs}

    @property
    def operator_models(self) -> dict[str, str]:
        """Name -> folder or repository, as the operator wrote them."""
        pairs = (entry.partition("=") for entry in self.models)
        return {name.strip(): target.strip() for name, _, target in pairs}
