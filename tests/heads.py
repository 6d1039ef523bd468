"""Feature heads and acceptance heads with random weights for tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import hornbeam as hb
from hornbeam.speculation.draft.head_network import FORMAT
from hornbeam.speculation.protocols import Run
from hornbeam.speculation.stop import acceptance_head
from hornbeam.speculation.target_matrices import output_matrix, sample_rows
from tests import models


def drawing_draft(kind: str, model: Any, shape: Any, folder: Path) -> Any:
    """A draft for ``model`` that draws from logits: ``small``, ``layer_skip`` or ``feature_head``."""
    if kind == "small":
        return hb.spec.SmallModel(hb.LM(models.llama(layers=1)), shape)
    if kind == "layer_skip":
        return hb.spec.LayerSkip(exit_layer=1, shape=shape)
    return hb.spec.FeatureHead(random_head(folder, model), shape)


def random_head(
    folder: Path, model: Any, *, taps: tuple[int, ...] = (1, 2), draft_ids: Any = range(256), seed: int = 0
) -> Path:
    """A file for ``model``; three query heads of 32 to each of two key heads, whatever the model has."""
    matrix = output_matrix(model)
    vocabulary, hidden = matrix.shape
    heads, kv_heads, size, inner = 6, 2, 32, 40
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "features": (hidden, len(taps) * hidden),
        "fuse": (hidden, 2 * hidden),
        "q": (heads * size, hidden),
        "k": (kv_heads * size, hidden),
        "v": (kv_heads * size, hidden),
        "o": (hidden, heads * size),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
    }
    tensors = {
        f"{name}.weight": (torch.randn(shape, generator=generator) * 0.2).bfloat16()
        for name, shape in shapes.items()
    }
    for name in ("attention_norm", "mlp_norm", "output_norm"):
        tensors[name] = (1 + 0.1 * torch.randn(hidden, generator=generator)).bfloat16()
    tensors["draft_ids"] = torch.tensor(sorted(draft_ids), dtype=torch.int32)
    tensors["target_sample"] = matrix[sample_rows(vocabulary)].bfloat16()
    settings = {
        "taps": list(taps),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": size,
        "rope_theta": 10000.0,
        "eps": 1e-5,
        "vocabulary": vocabulary,
        "hidden": hidden,
        "layers": model.config.num_hidden_layers,
    }
    file = folder / f"head-{seed}.safetensors"
    save_file(tensors, file, {"format": FORMAT, "settings": json.dumps(settings)})
    return file


def acceptance_weights(hidden, *, width=8, blocks=2, seed=0, bias=1.0):
    """Random weights of an acceptance head over states of a size."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"in.weight": torch.randn(width, hidden, generator=generator)}
    for block in range(blocks):
        weights[f"{block}.weight"] = torch.randn(width, width, generator=generator) / 3
        weights[f"{block}.bias"] = torch.randn(width, generator=generator)
    weights["out.weight"] = torch.randn(1, width, generator=generator) / 8
    weights["out.bias"] = torch.tensor([bias])
    return weights


def write_acceptance_head(path, draft, lm, weights):
    """A file of such weights for a draft of ``lm``; its path."""
    proposer = draft.open(Run(lm, hb.Warp(), 0, "coupled"))
    blocks = sum(name.endswith(".bias") for name in weights) - 1
    tensors = weights | {"signature": proposer.signature()}
    save_file(tensors, path, {"format": acceptance_head.FORMAT, "settings": json.dumps({"blocks": blocks})})
    return path
