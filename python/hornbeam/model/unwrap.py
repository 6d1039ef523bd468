"""The transformers model inside of what people wrap around one."""

from __future__ import annotations

from typing import Any

import torch

from hornbeam.errors import UnsupportedModel

__all__ = ["unwrapped"]


def unwrapped(model: Any) -> Any:
    """The model itself, out of ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and peft.

    Hornbeam runs the modules themselves, so nothing of these wrappers is lost, but what a wrapper computes in
    its own forward: that is refused.

    Raises:
        UnsupportedModel: a wrapper that adds to the forward pass, or one that is not known; the message names
            the attribute that holds the model.
    """
    while True:
        inner = _inner(model)
        if inner is None:
            return model
        model = inner


def _inner(model: Any) -> Any:
    kind = type(model)
    if kind.__module__.startswith("torch._dynamo.") and hasattr(model, "_orig_mod"):
        return model._orig_mod
    if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        return model.module
    if kind.__module__.partition(".")[0] == "peft" and hasattr(model, "get_base_model"):
        return _without_adapter_model(model)
    if isinstance(model, torch.nn.Module):
        _refuse_wrapper(model)
    return None


def _without_adapter_model(model: Any) -> Any:
    """The model that peft put its adapters into. Adapters that are layers of it stay; virtual tokens and
    the like are added by peft's own forward."""
    for name, config in model.peft_config.items():
        if getattr(config, "is_prompt_learning", False):
            raise UnsupportedModel(
                f"{type(model).__name__} has the adapter {name!r} of type "
                f"{getattr(config.peft_type, 'value', config.peft_type)}, which peft's own forward adds as "
                "virtual tokens, and hornbeam runs the layers themselves; expected adapters that are layers "
                "(LoRA and the like), or pass the model without it: get_base_model()"
            )
    return model.get_base_model()


def _refuse_wrapper(model: torch.nn.Module) -> None:
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and module.get_output_embeddings() is not None:
            raise UnsupportedModel(
                f"{type(model).__name__} is not a transformers model; pass the one that it holds: .{name}"
            )
