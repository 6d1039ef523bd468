"""A feature head for training: dense attention over whole sequences, under autograd.

:class:`hornbeam.speculation.draft.head_network.Head` is the same network over a prefix tree; both have one
file format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from hornbeam.speculation.draft.head_network import FORMAT, HeadFile
from hornbeam.speculation.target_matrices import sample_rows
from hornbeam.tensor_file import replace_tensors
from hornbeam.training.target import HeadTarget, matrix_of, scale_of

__all__ = ["DenseHead", "save", "unrolled"]

# The head's matrices, and where in a layer those are that they begin as.
ORIGINS = (
    ("features", None, ""),
    ("fuse", None, ""),
    ("q", "self_attn", "q_proj"),
    ("k", "self_attn", "k_proj"),
    ("v", "self_attn", "v_proj"),
    ("o", "self_attn", "o_proj"),
    ("gate", "mlp", "gate_proj"),
    ("up", "mlp", "up_proj"),
    ("down", "mlp", "down_proj"),
)


class DenseHead(nn.Module):
    """The head with dense attention, for whole sequences under autograd.

    Args:
        target: the model that it is for.
        taps: layers whose hidden states it reads.
        draft_ids: the tokens that it can guess, int64, ascending.
        inner: width of the feed-forward layer.
    """

    def __init__(self, target: HeadTarget, taps: tuple[int, ...], draft_ids: Tensor, inner: int) -> None:
        super().__init__()
        hidden = target.hidden_size
        self.target = target
        self.taps = taps
        self.draft_ids = draft_ids
        self.heads, self.kv_heads, self.head_dim = target.heads, target.kv_heads, target.head_dim

        def linear(inputs: int, outputs: int) -> nn.Linear:
            return nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)

        self.features = linear(len(taps) * hidden, hidden)
        self.fuse = linear(2 * hidden, hidden)
        self.q = linear(hidden, self.heads * self.head_dim)
        self.k = linear(hidden, self.kv_heads * self.head_dim)
        self.v = linear(hidden, self.kv_heads * self.head_dim)
        self.o = linear(self.heads * self.head_dim, hidden)
        self.gate = linear(hidden, inner)
        self.up = linear(hidden, inner)
        self.down = linear(inner, hidden)
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.mlp_norm = nn.Parameter(torch.ones(hidden))
        self.output_norm = nn.Parameter(target.scale.clone())
        self.vocabulary = target.output[draft_ids]
        self.frequency = target.rope_theta ** (-torch.arange(0, self.head_dim, 2).float() / self.head_dim)

    @classmethod
    def load(cls, file: HeadFile, target: HeadTarget) -> DenseHead:
        """A stored head.

        Args:
            file: the head, which was found to be for the model.
            target: of the model.
        """
        settings = file.settings
        own = {name: settings[name] for name in ("heads", "kv_heads", "head_dim", "rope_theta", "eps")}
        inner = file.tensors["gate.weight"].shape[0]
        head = cls(replace(target, **own), tuple(settings["taps"]), file.tensors["draft_ids"].long(), inner)
        with torch.no_grad():
            for name, value in head.named_parameters():
                value.copy_(file.tensors[name])
        return head

    @torch.no_grad()
    def begin(self, generator: torch.Generator) -> None:
        """Attention and feed-forward begin as those of the target's last layer, where it has matrices of
        these names and sizes, and else at random."""
        layer = self.target.layer
        for name, block, its in ORIGINS:
            own = getattr(self, name).weight
            found = None if block is None else matrix_of(layer, block, its)
            if found is not None and found.shape == own.shape:
                own.copy_(found)
            else:
                own.normal_(std=own.shape[1] ** -0.5, generator=generator)
        for norm, its in (
            (self.attention_norm, "input_layernorm"),
            (self.mlp_norm, "post_attention_layernorm"),
        ):
            scale = scale_of(getattr(layer, its, None), len(norm))
            if scale is not None:
                norm.copy_(scale)

    def rms(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        return functional.rms_norm(x, x.shape[-1:], weight, self.target.eps)

    def read(self, hidden: Tensor) -> Tensor:
        """The features ``[..., H]`` of hidden states ``[..., taps, H]``."""
        return self.features(self.rms(hidden.float()).flatten(-2))

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x [B, N, heads, D]`` at ``positions [B, N]``."""
        angle = positions[..., None].float() * self.frequency
        cos, sin = angle.cos()[:, :, None], angle.sin()[:, :, None]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def prepare(
        self, tokens: Tensor, features: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The residual, and the queries, keys and values of rows ``[B, N]``."""
        residual = self.fuse(torch.cat([self.rms(self.target.embedding[tokens]), self.rms(features)], dim=-1))
        x = self.rms(residual, self.attention_norm)
        shape = (*tokens.shape, -1, self.head_dim)
        q, k, v = self.q(x).view(shape), self.k(x).view(shape), self.v(x).view(shape)
        return residual, self.rotate(q, positions), self.rotate(k, positions), v

    def finish(self, residual: Tensor, mixed: Tensor) -> Tensor:
        """The output features, from the residual and the attention's result ``[B, N, heads * D]``."""
        residual = residual + self.o(mixed)
        x = self.rms(residual, self.mlp_norm)
        return residual + self.down(functional.silu(self.gate(x)) * self.up(x))

    def logits(self, features: Tensor) -> Tensor:
        """Over the draft vocabulary."""
        return self.rms(features, self.output_norm) @ self.vocabulary.T

    def first(self, tokens: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows on true features: ``tokens [B, N]`` are the next ones. Returns outputs, keys, values."""
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        residual, q, k, v = self.prepare(tokens, self.read(hidden), positions)
        mixed = functional.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return self.finish(residual, mixed.transpose(1, 2).flatten(2)), k, v

    def further(
        self,
        tokens: Tensor,
        features: Tensor,
        rows: Tensor,
        step: int,
        true: tuple[Tensor, Tensor],
        own: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """One more step for each of ``rows [B, M]``, which sees the true rows up to its own, and its own
        earlier guesses, which are ``own``: keys and values ``[B, M, kv heads, D]``
        a step. This step's are added there."""
        residual, q, k, v = self.prepare(tokens, features, rows + step)
        own.append((k, v))
        groups = self.heads // self.kv_heads
        batch, count = rows.shape
        q = q.view(batch, count, self.kv_heads, groups, self.head_dim) / math.sqrt(self.head_dim)
        scores = torch.einsum("bmkgd,bnkd->bmkgn", q, true[0])
        hidden_keys = torch.arange(true[0].shape[1]) > rows[:, :, None]
        scores = scores.masked_fill(hidden_keys[:, :, None, None], -torch.inf)
        recent = torch.stack([torch.einsum("bmkgd,bmkd->bmkg", q, key) for key, _ in own], dim=-1)
        weights = torch.cat([scores, recent], dim=-1).softmax(dim=-1)
        mixed = torch.einsum("bmkgn,bnkd->bmkgd", weights[..., : scores.shape[-1]], true[1])
        values = torch.stack([value for _, value in own], dim=-1)
        mixed = mixed + torch.einsum("bmkgs,bmkds->bmkgd", weights[..., scores.shape[-1] :], values)
        return self.finish(residual, mixed.reshape(batch, count, -1))


def unrolled(
    head: DenseHead,
    tokens: Tensor,
    hidden: Tensor,
    lengths: Tensor,
    steps: int,
    count: int,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step the outputs of the head, flat, and where each one's truth stands, as an index into
    ``tokens`` flattened: the hidden state there is the target's for the same guess."""
    batch, width = tokens.shape
    inputs = tokens[:, 1:]
    outputs, keys, values = head.first(inputs, hidden[:, :-1])
    place = torch.arange(width - 1).expand(batch, -1)
    # Row i guesses token i + 2, and the target does so at i + 1, whose state is known to lengths - 2.
    good = place + 1 <= lengths[:, None] - 2
    base = torch.arange(batch)[:, None] * width
    yield outputs[good], (base + place + 1)[good]
    if steps == 1:
        return
    order = torch.rand(good.shape, generator=generator).masked_fill(~good, -1.0)
    rows = order.topk(max(min(count, width - steps - 1), 1), dim=1).indices
    taken = rows[:, :, None].expand(-1, -1, outputs.shape[-1])
    features = outputs.gather(1, taken)
    own: list[tuple[Tensor, Tensor]] = []
    for step in range(1, steps):
        place = (rows + step).clamp(max=width - 2)
        features = head.further(inputs.gather(1, place), features, rows, step, (keys, values), own)
        good = rows + step + 1 <= lengths[:, None] - 2
        yield features[good], (base + rows + step + 1)[good]


def save(head: DenseHead, file: Path) -> None:
    """Writes the head as :class:`hornbeam.speculation.draft.head_network.HeadFile` reads it, whole or not at
    all."""
    target = head.target
    tensors = {name: value.detach().bfloat16().contiguous() for name, value in head.named_parameters()}
    tensors["draft_ids"] = head.draft_ids.to(torch.int32)
    tensors["target_sample"] = target.output[sample_rows(target.vocab_size)].bfloat16()
    settings = {
        "taps": list(head.taps),
        "heads": head.heads,
        "kv_heads": head.kv_heads,
        "head_dim": head.head_dim,
        "rope_theta": target.rope_theta,
        "eps": target.eps,
        "vocabulary": target.vocab_size,
        "hidden": target.hidden_size,
        "layers": target.num_layers,
    }
    replace_tensors(file, tensors, {"format": FORMAT, "settings": json.dumps(settings)})
