"""What else people and programs call a model: the names of hosted models, and other spellings of its own.

Add a name here: a hosted one to `HOSTED`, another way to write a model of the catalog to `_SPELLINGS` or
`_SIZES`. What the operator adds is in WHISPER_MODELS and WHISPER_ALIASES; the catalog joins all of it.
"""

from __future__ import annotations

from collections.abc import Collection

# What clients of the hosted APIs send, by default or because their menu has nothing else. Each means the
# default model here. Sources: `AudioModel` of the official clients; LiveKit, pipecat and the AI SDK.
HOSTED = (
    "whisper-1",
    "gpt-transcribe",
    "gpt-live-transcribe",
    "gpt-realtime-whisper",
    "gpt-4o-transcribe",
    "gpt-4o-transcribe-diarize",
    "gpt-4o-mini-transcribe",
    "gpt-4o-mini-transcribe-2025-03-20",
    "gpt-4o-mini-transcribe-2025-12-15",
)

# Their replies always have `languages`, as their clients expect.
_TELL_LANGUAGES = frozenset({"gpt-transcribe", "openai/gpt-transcribe"})

# The name of one set of weights, without what stands before it -> its name in the catalog.
_SIZES = {
    "tiny": "whisper-tiny",
    "base": "whisper-base",
    "small": "whisper-small",
    "medium": "whisper-medium",
    "large-v3": "whisper-large-v3",
    "large-v3-turbo": "whisper-large-v3-turbo",
    "turbo": "whisper-large-v3-turbo",
}

# In which ways a size is written: as openai-whisper and faster-whisper do, as repositories that hold the same
# weights in the format of another library, and as whisper.cpp's files. Compared in lower case.
_SPELLINGS = (
    "{}",
    "whisper-{}",
    "openai/whisper-{}",
    "openai/{}",
    "faster-whisper-{}",
    "systran/faster-whisper-{}",
    "deepdml/faster-whisper-{}-ct2",
    "mobiuslabsgmbh/faster-whisper-{}",
    "mlx-community/whisper-{}",
    "mlx-community/whisper-{}-mlx",
    "onnx-community/whisper-{}",
    "xenova/whisper-{}",
    "ggml-{}",
    "ggml-{}.bin",
)


def spellings(names: Collection[str], default: str) -> dict[str, str]:
    """Return lower-case name -> name in the catalog, for all that the catalog does not say itself.

    `names` are the catalog's own, which are found in any case; `default` is what hosted names mean. `large`
    is the newest one, as for openai-whisper, but `openai/whisper-large` are the first one's weights.
    """
    found = {"large": "whisper-large", "faster-whisper-large": "whisper-large"}
    found |= {form.format(size): name for form in _SPELLINGS for size, name in _SIZES.items()}
    found = {spelling: name for spelling, name in found.items() if name in names}
    found |= {f"openai/{name}": name if name in names else default for name in HOSTED}
    found |= dict.fromkeys(HOSTED, default)
    return found | {name.lower(): name for name in reversed(tuple(names))}


def tells_languages(name: str) -> bool:
    """Whether replies to this name always say which language was heard."""
    return name.lower() in _TELL_LANGUAGES
