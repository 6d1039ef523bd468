"""Names a model, so that work which was saved is gone on with by the same model alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from hornbeam.model.state import parts_of

__all__ = ["fingerprint"]

#: Numbers of a weight that are taken as they stand; of all others the sum.
SAMPLES = 256

# What a configuration says of its file and of the program that reads it.
_PASSING = ("transformers_version", "dtype", "torch_dtype", "attn_implementation", "use_cache")
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32}


def fingerprint(model: Any, tokenizer: Any) -> dict[str, str | None]:
    """Digests of a model's ``config``, of the ``defaults`` of its generation, of its ``weights`` and of its
    tokenizer's ``vocabulary`` (None without one).

    All bits of all weights count, and for :data:`SAMPLES` of each their place too: it takes one pass over the
    weights, on their device. Buffers that no file holds do not count.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, if it has one.
    """
    generation = getattr(model, "generation_config", None)
    return {
        "config": _of_settings(model.config.to_dict()),
        "defaults": None if generation is None else _of_settings(generation.to_dict()),
        "weights": _of_weights(model),
        "vocabulary": None if tokenizer is None else _digest(sorted(tokenizer.get_vocab().items())),
    }


def _of_settings(settings: dict[str, Any]) -> str:
    lasting = {
        name: value for name, value in settings.items() if not name.startswith("_") and name not in _PASSING
    }
    return _digest(lasting)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _of_weights(model: Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in _lasting(model):
        digest.update(f"{name} {type(tensor).__name__} {tensor.dtype} {list(tensor.shape)}\n".encode())
        for part in parts_of(tensor):
            flat = part.detach().contiguous().reshape(-1)
            bits = flat.view(_BITS.get(flat.element_size(), torch.int64))
            digest.update(f"{int(bits.sum(dtype=torch.int64))}\n".encode())
            digest.update(bits[:: max(len(bits) // SAMPLES, 1)].cpu().numpy().tobytes())
    return digest.hexdigest()


def _lasting(model: Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers that files hold, by name, each once."""
    seen = set()
    for prefix, module in model.named_modules():
        passing = module._non_persistent_buffers_set
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and name not in passing and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}", tensor
