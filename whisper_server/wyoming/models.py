"""What `describe` is answered with: the models of the catalog, as Home Assistant wants them."""

from __future__ import annotations

from wyoming.info import AsrModel, AsrProgram, Attribution, Info

from whisper_server import __version__
from whisper_server.core.languages import NAMES
from whisper_server.core.types import ModelSource
from whisper_server.services.container import Services

ENGLISH_ONLY = ".en"  # how the names of such models end

_OWN = Attribution("whisper-server", "")


def info_of(services: Services) -> Info:
    """Return the one program there is and its models, the server's default first.

    Home Assistant offers the languages of models that are installed. A model that is not on the disk yet is
    downloaded by its first use, so all are.
    """
    default = services.catalog.default
    names = sorted(services.catalog.names(), key=lambda named: named[0] != default)
    program = AsrProgram(
        name="whisper-server",
        attribution=_OWN,
        installed=True,
        description="Whisper",
        version=__version__,
        models=[_model(name, source) for name, source in names],
        supports_transcript_streaming=True,
    )
    return Info(asr=[program])


def _model(name: str, source: ModelSource) -> AsrModel:
    target = source.repo or name
    address = f"https://huggingface.co/{source.repo}" if source.repo else ""
    return AsrModel(
        name=name,
        attribution=Attribution(target.partition("/")[0], address) if source.repo else _OWN,
        installed=True,
        description=target,
        version=source.revision,
        languages=["en"] if target.endswith(ENGLISH_ONLY) else list(NAMES),
    )
