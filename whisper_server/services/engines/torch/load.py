"""A Whisper folder in Hugging Face format -> transformers' modules on a device, as a plan says.

Reads safetensors only, from local files only, and runs no code of the folder. Also describes the device
to `plan`, which decides.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from whisper_server.core.errors import ModelUnavailable
from whisper_server.services.engines.checkpoint import language_ids, read_config, weight_files
from whisper_server.services.engines.torch.plan import DeviceFacts, Plan

_PACKAGES = ("flash_attn", "bitsandbytes", "accelerate", "triton")


def devices(wanted: str) -> list[str]:
    """Return what "auto", "cuda" or "cuda:1" means here: one name per device to load the model on.

    "cuda" is every GPU that PyTorch sees; CUDA_VISIBLE_DEVICES or a number leaves some out.

    Raises:
        ModelUnavailable: PyTorch cannot use the device.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_metal = torch.backends.mps.is_available()
    if wanted == "auto":
        wanted = "cuda" if n_gpus else "mps" if has_metal else "cpu"
    if wanted == "cuda" and n_gpus:
        return [f"cuda:{index}" for index in range(n_gpus)]
    known = {"cpu", *(f"cuda:{index}" for index in range(n_gpus)), *(["mps"] if has_metal else [])}
    if wanted not in known:
        raise ModelUnavailable(f"WHISPER_DEVICE: PyTorch has no {wanted} here, only {sorted(known)}.")
    return [wanted]


def facts_of(device: str) -> DeviceFacts:
    """Describe a device."""
    packages = frozenset(name for name in _PACKAGES if find_spec(name) is not None)
    if device.startswith("cuda"):
        free_bytes, _total = torch.cuda.mem_get_info(device)
        capability = torch.cuda.get_device_capability(device)
        return DeviceFacts(device, int(free_bytes), capability >= (8, 0), tuple(capability), packages)
    if device == "mps":
        free_bytes = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return DeviceFacts(device, max(0, int(free_bytes)), packages=packages)
    has_compiler = any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
    packages = packages if has_compiler else packages - {"triton"}
    return DeviceFacts(device, packages=packages)


def load_modules(folder: Path, plan: Plan) -> Any:
    """Return a WhisperForConditionalGeneration for inference on the plan's device; blocks.

    Raises:
        ModelUnavailable: the folder is no Whisper model in safetensors, or it does not fit the device.
    """
    read_config(folder)  # refuses other models, and code in the folder
    weight_files(folder)  # refuses pickled weights
    from transformers import WhisperForConditionalGeneration  # noqa: PLC0415  (seconds)
    from transformers.utils import logging as their_logging  # noqa: PLC0415

    their_logging.disable_progress_bar()
    options: dict[str, Any] = {}
    if plan.is_int8:
        from transformers import BitsAndBytesConfig  # noqa: PLC0415

        options = {
            "quantization_config": BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["proj_out"]),
            "device_map": {"": plan.device},
        }
    try:
        model = WhisperForConditionalGeneration.from_pretrained(
            str(folder),
            dtype=getattr(torch, plan.dtype),
            attn_implementation=plan.attention,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
        if not options:
            model.to(plan.device)
    except (RuntimeError, ValueError, OSError, ImportError, KeyError) as error:
        raise ModelUnavailable(
            f"The model {folder.name!r} cannot be loaded on {plan.device}: {error}"
        ) from error
    return model.eval().requires_grad_(requires_grad=False)


def bytes_of(model: Any) -> int:
    """Return the bytes of weights, each tensor once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def languages_of(tokenizer: Any, generation: Mapping[str, Any]) -> dict[str, int]:
    """Return language code -> token, as the conversion for CTranslate2 has them."""
    known = generation.get("lang_to_id")
    ids = sorted(known.values()) if known else language_ids(tokenizer)
    return {str(tokenizer.id_to_token(token)).strip("<|>"): token for token in ids}


def free_cached(device: str) -> None:
    """Give memory that nothing uses any more back to the device."""
    gc.collect()
    if device.startswith("cuda"):
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()
