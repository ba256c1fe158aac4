"""Reads a Hugging Face Whisper folder without torch: config, tokenizer, and weights as NumPy arrays.

The library safetensors reads the files: it limits the header to 100 MB, and refuses tensors that overlap
or leave holes. bfloat16 is ml_dtypes' addition to NumPy. Files are mapped, so memory holds the tensors that
are in use and no more. Pickled weights are never opened: reading one can run code.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisper_server.core.errors import ModelUnavailable
from whisper_server.core.paths import without_paths
from whisper_server.core.types import SECONDS_PER_TIMESTAMP
from whisper_server.services.engines.model_bounds import check_config, check_tensors, check_tokens
from whisper_server.services.engines.vocabulary import MAX_TOKENS, Vocabulary

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Tensor = NDArray[np.floating[Any]]

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
_LANGUAGE_FENCE = ("<|startoftranscript|>", "<|translate|>")  # languages lie between, in every vocabulary
_DTYPES = ("F32", "F16", "BF16")
MAX_JSON_BYTES = 64 << 20  # of one file; the largest of a Whisper model is its tokenizer.json, 4 MB


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where one tensor lies."""

    path: Path
    file: Any  # safetensors.safe_open, one for all tensors of the file; its methods have no types
    name: str


class Checkpoint:
    """The tensors of a folder by their names in transformers' WhisperModel, "encoder.conv1.weight"."""

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            ModelUnavailable: a file is missing, cut short or not safetensors.
        """
        self._folder = folder
        self._tensors: dict[str, _Stored] = {}
        for path in weight_files(folder):
            self._tensors.update(_tensors_in(path))

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return sorted(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def check(self, config: dict[str, Any]) -> None:
        """Check that every tensor of a Whisper of these sizes is there, in its size; reads headers only.

        Raises:
            ModelUnavailable: one is not.
        """
        try:
            check_tensors(config, self._shape)
        except ValueError as error:
            raise broken(self._folder, f"{error}") from error

    def _shape(self, name: str) -> tuple[int, ...] | None:
        stored = self._tensors.get(name)
        return None if stored is None else tuple(stored.file.get_slice(stored.name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """Return a copy: float32, or float16 where it is stored so; bfloat16 is widened without loss.

        Raises:
            ModelUnavailable: the checkpoint has no such tensor, or one of a shape that no array has.
        """
        return self._read(name, lambda stored: stored.file.get_tensor(stored.name))

    def first_row(self, name: str) -> Tensor:
        """Return the first row of a tensor, and read no more; else as `tensor`."""
        return self._read(name, lambda stored: stored.file.get_slice(stored.name)[:1])

    def _read(self, name: str, read: Callable[[_Stored], Tensor]) -> Tensor:
        import ml_dtypes  # noqa: F401, PLC0415  (makes NumPy know bfloat16; only when a model is converted)
        import numpy as np  # noqa: PLC0415
        from safetensors import SafetensorError  # noqa: PLC0415

        stored = self._tensors.get(name)
        if stored is None:
            raise broken(self._folder, f"the weights lack {name}")
        try:
            tensor = read(stored)
        except (SafetensorError, ValueError) as error:  # ValueError: NumPy has no array of such a shape
            raise _unreadable(stored.path, error) from error
        return tensor if tensor.dtype == np.float16 else tensor.astype(np.float32, copy=False)


def broken(folder: Path, reason: str) -> ModelUnavailable:
    """Return the error for a model folder that cannot be used."""
    return ModelUnavailable(
        f"The model folder {folder.name!r} cannot be used: {without_paths(reason, folder)}."
    )


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a file of the folder, {} where the file is missing.

    Raises:
        ModelUnavailable: the file is no JSON object.
    """
    path = folder / name
    try:
        if not path.exists():
            return {}
        value = json.loads(_json_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise broken(folder, f"{name} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise broken(folder, f"{name} holds no object")
    return value


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a Whisper model in Hugging Face format.

    Raises:
        ModelUnavailable: it is another kind of model, or asks for code of its own.
    """
    config = read_json(folder, "config.json")
    if not config:
        raise broken(folder, "it has no config.json; a Whisper model in safetensors or CTranslate2 is needed")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if "auto_map" in read_json(folder, name):
            raise broken(folder, f"{name} asks for code from the model folder, which is never run")
    if config.get("model_type") != "whisper":
        raise broken(folder, f"its model_type is {str(config.get('model_type'))[:40]!r}, not 'whisper'")
    name = "config.json"
    try:
        check_config(config)
        name = "generation_config.json"
        check_tokens(read_json(folder, name), config["vocab_size"])
    except ValueError as error:
        raise broken(folder, f"in {name} {error}") from error
    return config


def _json_bytes(path: Path) -> bytes:
    """Return what is in a file; raises ValueError where that is no file, or a very large one."""
    if not path.is_file():  # a pipe would be waited for, and some devices never end
        raise ValueError("it is no file")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"it is larger than {MAX_JSON_BYTES >> 20} MiB")
    return path.read_bytes()


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that make up the model.

    Raises:
        ModelUnavailable: there are none, or the index names a file outside the folder.
    """
    if (folder / SINGLE_FILE).is_file():
        return [folder / SINGLE_FILE]
    shards = read_json(folder, INDEX_FILE).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        found = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED) or "no weights"
        reason = f"it has {found}; weights must be safetensors ({SINGLE_FILE}) or CTranslate2, never pickled"
        raise broken(folder, reason)
    names = sorted({str(name) for name in shards.values()})
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise broken(folder, f"{INDEX_FILE} names files that are not there: {missing[:3]}")
    return [folder / name for name in names]


def load_tokenizer(folder: Path) -> Any:
    """Return the folder's `tokenizers.Tokenizer`, built from vocab.json and merges.txt where it must be.

    Raises:
        ModelUnavailable: the files for it are missing or broken.
    """
    import tokenizers  # noqa: PLC0415  (only when a model is converted)

    has_json = (folder / "tokenizer.json").is_file()
    missing = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if missing and not has_json:
        raise broken(folder, f"to have a tokenizer it needs tokenizer.json or else {' and '.join(missing)}")
    _check_tokenizer_files(folder, "tokenizer.json" if has_json else "vocab.json")
    try:
        tokenizer = (
            tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            if has_json
            else _build_tokenizer(folder)
        )
    except ModelUnavailable:
        raise
    except Exception as error:  # the library raises plain Exception
        raise broken(folder, f"the tokenizer cannot be read: {error}") from error
    if (
        tokenizer.token_to_id("<|startoftranscript|>") is None
        or tokenizer.token_to_id("<|translate|>") is None
    ):
        raise broken(folder, "the tokenizer lacks Whisper's special tokens (added_tokens.json holds them)")
    return tokenizer


def language_ids(tokenizer: Any) -> list[int]:
    """Return the language tokens: those between the start of the transcript and the tasks."""
    start, end = map(tokenizer.token_to_id, _LANGUAGE_FENCE)
    return list(range(start + 1, end))


def vocabulary(tokenizer: Any, size: int) -> list[str]:
    """Return `size` tokens in order, with the timestamp tokens that many tokenizers leave out."""
    ids: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)[:size]
    return tokens + [f"<|{step * SECONDS_PER_TIMESTAMP:.2f}|>" for step in range(size - len(tokens))]


def _check_tokenizer_files(folder: Path, name: str) -> None:
    """Check the numbers of tokens, which the library takes as they are and allocates by."""
    try:
        document = json.loads(_json_bytes(folder / name))
        if name == "tokenizer.json":
            Vocabulary.of(document)
            return
        decoder = read_json(folder, "tokenizer_config.json").get("added_tokens_decoder", {})
        added = read_json(folder, "added_tokens.json")
        Vocabulary({**document, **added, **{entry["content"]: int(each) for each, entry in decoder.items()}})
    except ModelUnavailable:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = f"the numbers of tokens in {name} are none, or not from 0 to {MAX_TOKENS - 1}"
        raise broken(folder, f"the tokenizer cannot be read: {reason}") from error


def _build_tokenizer(folder: Path) -> Any:
    """Build GPT-2's byte-level BPE, which Whisper uses, with the folder's special tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    decoder = read_json(folder, "tokenizer_config.json").get("added_tokens_decoder", {})
    ids = {entry["content"]: int(number) for number, entry in decoder.items()}
    ids.update(read_json(folder, "added_tokens.json"))
    for is_time, run in itertools.groupby(sorted(ids, key=ids.__getitem__), _TIMESTAMP.fullmatch):
        tokens = [AddedToken(token, normalized=False, special=not is_time) for token in run]
        (tokenizer.add_tokens if is_time else tokenizer.add_special_tokens)(tokens)
    moved = [token for token, number in ids.items() if tokenizer.token_to_id(token) != number]
    if moved:
        raise broken(folder, f"vocab.json and added_tokens.json do not fit together: {moved[:3]}")
    return tokenizer


def _tensors_in(path: Path) -> dict[str, _Stored]:
    """Return the tensors of one file, name -> place."""
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (only when a model is converted)

    try:
        file: Any = safe_open(path, framework="numpy")
        names: list[str] = file.keys()
        dtypes = {name: file.get_slice(name).get_dtype() for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES:
            raise _unreadable(path, f"{name} is {dtype}, not F32, F16 or BF16")
    return {_plain_name(name): _Stored(path, file, name) for name in dtypes}


def _unreadable(path: Path, reason: object) -> ModelUnavailable:
    return broken(path.parent, f"{path.name} cannot be read as safetensors: {reason}")


def _plain_name(name: str) -> str:
    """Drop the prefix that WhisperForConditionalGeneration puts before WhisperModel's names."""
    return name.removeprefix("model.")
