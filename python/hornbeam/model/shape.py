"""What hornbeam knows of a model before it drives it, or why it cannot.

The configuration rules out what is known not to fit; small forward passes show the rest.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hornbeam.errors import UnsupportedModel
from hornbeam.model.attention import Attention
from hornbeam.model.rows import probe_tokens, refuse_counted_positions, refuse_mixed_rows

__all__ = ["ModelShape", "Probe", "refuse_by_config", "shape_of"]

MOST_HEAD_DIM = 512

# What transformers may hand to an attention function without changing what a row sees.
HARMLESS_TENSORS = {"position_ids", "cache_position"}


@dataclass(frozen=True)
class ModelShape:
    """What the prefix tree and the driver need to know of a model, as its own forward pass showed it.

    ``scale`` is what attention multiplies scores by. ``full_layers`` are those whose rows see every key
    before
    them: they have no window, or one as long as the context.
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    vocab_size: int
    max_positions: int
    dtype: torch.dtype
    device: torch.device
    full_layers: frozenset[int]


class Probe:
    """Records what the layers hand to their attention, and answers as if every row saw itself alone."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[int, int, int]] = {}
        self.windows: dict[int, int] = {}
        self.scale: float | None = None

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        options: dict[str, Any],
    ) -> torch.Tensor:
        layer = getattr(module, "layer_idx", None)
        if not isinstance(layer, int):
            raise UnsupportedModel(f"{type(module).__name__} has no layer_idx")
        if layer in self.layers:
            raise UnsupportedModel(f"layer {layer} calls its attention more than once (cross attention?)")
        if not getattr(module, "is_causal", True):
            raise UnsupportedModel(f"layer {layer} ({type(module).__name__}) is not causal")
        if mask is not None:
            raise UnsupportedModel(
                f"layer {layer} ({type(module).__name__}) makes an attention mask of its own"
            )
        for name, value_ in options.items():
            known = name in HARMLESS_TENSORS or name == "s_aux"
            if isinstance(value_, torch.Tensor) and not known:
                raise UnsupportedModel(
                    f"layer {layer} hands {name!r} to its attention, which pages cannot honour"
                )
        if key.shape != value.shape:
            raise UnsupportedModel(
                f"layer {layer} has keys of shape {list(key.shape)} and values of {list(value.shape)}"
            )
        if query.shape[2] != key.shape[2]:
            raise UnsupportedModel(f"layer {layer} reads {key.shape[2]} keys for {query.shape[2]} rows")
        self.layers[layer] = (query.shape[1], key.shape[1], key.shape[3])
        if (window := options.get("sliding_window")) is not None:
            self.windows[layer] = int(window)
        self.scale = options.get("scaling")
        groups = query.shape[1] // key.shape[1]
        return value.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous()


def refuse_by_config(model: Any) -> None:
    """Raises UnsupportedModel where the model's class or configuration says that it cannot be driven."""
    from transformers import PreTrainedModel

    name = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModel(f"{name} is not a transformers model")
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder: cross attention does not go over pages")
    if model.get_output_embeddings() is None:
        raise UnsupportedModel(f"{name} has no language-model head")
    text = model.config.get_text_config()
    known = {"full_attention", "sliding_attention"}
    other = sorted(set(getattr(text, "layer_types", None) or ()) - known)
    if other:
        raise UnsupportedModel(
            f"{name} has layers of type {', '.join(other)}, expected {', '.join(sorted(known))}"
        )
    if not hasattr(text, "num_hidden_layers"):
        raise UnsupportedModel(f"{name} does not say how many layers it has")
    if not model._can_set_attn_implementation():
        raise UnsupportedModel(f"{name} does not use transformers' attention interface (custom code?)")


def shape_of(model: Any, run: Callable[[torch.Tensor, torch.Tensor, Attention], Any]) -> ModelShape:
    """The shape that small forward passes show.

    Args:
        model: a transformers causal LM that :func:`refuse_by_config` let pass.
        run: a forward pass of the whole model: token ids and positions, ``[num_rows]``, and what answers
            its layers' calls of attention.

    Raises:
        UnsupportedModel: it cannot be driven over pages.
    """
    name = type(model).__name__
    parameter = next(model.parameters())
    if parameter.device.type == "meta":
        raise UnsupportedModel(f"{name} has its weights on the meta device; load them first")
    probes: list[Probe] = []

    def logits_of(tokens: torch.Tensor) -> torch.Tensor:
        probes.append(Probe())
        tokens = tokens.to(parameter.device)
        logits: torch.Tensor = run(tokens, torch.zeros_like(tokens), probes[-1]).logits[0]
        return logits

    try:
        logits = logits_of(probe_tokens(model)[0])
    except UnsupportedModel:
        raise
    except Exception as error:
        raise UnsupportedModel(f"{name} does not run over pages: {error}") from error
    probe = probes[0]
    text = model.config.get_text_config()
    num_layers = text.num_hidden_layers
    missing = sorted(set(range(num_layers)) - set(probe.layers))
    if missing:
        raise UnsupportedModel(
            f"{name}: layers {missing} of {num_layers} do not call transformers' attention interface "
            "(state-space or linear attention, custom code, or a forward put on them that leads back to "
            "the original modules)"
        )
    _refuse_lost_windows(model, text, probe)
    shapes = set(probe.layers.values())
    if len(shapes) != 1:
        raise UnsupportedModel(f"{name}: layers differ in (heads, kv heads, head size): {sorted(shapes)}")
    num_heads, num_kv_heads, head_dim = shapes.pop()
    if head_dim > MOST_HEAD_DIM:
        raise UnsupportedModel(f"{name}: head size is {head_dim}, expected at most {MOST_HEAD_DIM}")
    refuse_mixed_rows(model, logits, logits_of)
    refuse_counted_positions(model, logits_of)
    max_positions = _max_positions(text)
    full = (layer for layer in probe.layers if probe.windows.get(layer, max_positions) >= max_positions)
    return ModelShape(
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5 if probe.scale is None else float(probe.scale),
        vocab_size=logits.shape[1],
        max_positions=max_positions,
        dtype=parameter.dtype,
        device=parameter.device,
        full_layers=frozenset(full),
    )


def _refuse_lost_windows(model: Any, text: Any, probe: Probe) -> None:
    """Raises UnsupportedModel where a window is in the masks that a model makes for its layers, and they do
    not hand it to their attention, as Phimoe's do not: pages take no masks."""
    if not isinstance(window := getattr(text, "sliding_window", None), int):
        return
    if kinds := getattr(text, "layer_types", None):
        sliding = {layer for layer, kind in enumerate(kinds) if kind == "sliding_attention"}
    else:
        try:
            source = inspect.getsource(sys.modules[type(model).__module__])
        except (OSError, TypeError, KeyError):  # defined where no file is, as in a notebook
            return
        sliding = set(probe.layers) if "create_sliding_window_causal_mask" in source else set()
    if lost := sorted(sliding & probe.layers.keys() - probe.windows.keys()):
        raise UnsupportedModel(
            f"{type(model).__name__}: layers {lost} have a window of {window} in their masks and do not hand "
            "it to their attention, and pages take no masks"
        )


def _max_positions(config: Any) -> int:
    """How many positions a sequence may have. Rotary embeddings whose frequencies change with the
    longest sequence in the batch (``dynamic``, ``longrope``) are exact only up to the original length,
    since the rows of one step belong to sequences of different lengths."""
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        raise UnsupportedModel(f"max_position_embeddings is {limit!r}, expected a positive integer")
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
    for kind in kinds:
        if kind.get("rope_type") in ("dynamic", "longrope"):
            original = kind.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            limit = min(limit, int(original or limit))
    return limit
