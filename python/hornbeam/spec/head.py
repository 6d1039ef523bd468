"""The network of a feature head: one decoder layer over the hidden states of its target.

Row ``i`` takes the embedding of token ``i + 1`` and the target's hidden states of token ``i``, and guesses
token ``i + 2``. Its output stands in for the features of the next row while that row's token is itself a
guess. The layer is EAGLE-3's idea (Li et al. 2025, arXiv:2503.01840: several tapped layers, trained on its
own outputs) in EAGLE's form (Li et al. 2024, arXiv:2401.15077: both inputs fused into the residual). The
logits are over a draft vocabulary of frequent tokens (FR-Spec, Zhao et al. 2025, arXiv:2502.14856), with
the target's own embeddings as output matrix, so that it need not be stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import embedding, rms_norm, silu

from hornbeam import cuda, ops
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.ops.linear import linear, max_native_rows
from hornbeam.spec.head_file import read_head

if TYPE_CHECKING:
    from hornbeam.lm import LM
    from hornbeam.tree import Branch, PrefixTree

__all__ = ["FORMAT", "SAMPLE_ROWS", "Head", "HeadFile", "output_matrix", "sample_of", "sample_rows"]

FORMAT = "hornbeam-feature-head-1"

# Rows of the target's output matrix that the file repeats, to be told from other models.
SAMPLE_ROWS = 16

# Rows of a prompt that are computed at once.
PREFILL_ROWS = 1024

LINEARS = ("features", "fuse", "q", "k", "v", "o", "gate", "up", "down")
NORMS = ("attention_norm", "mlp_norm", "output_norm")


@dataclass(frozen=True)
class HeadFile:
    """A head as it is stored: safetensors, nothing else.

    ``tensors``: the matrices ``features [H, taps * H]``, ``fuse [H, 2 H]``, ``q``, ``k``, ``v``, ``o``,
    ``gate``, ``up``, ``down`` under the name ``<name>.weight``; the vectors ``attention_norm``, ``mlp_norm``
    and ``output_norm``; ``draft_ids`` (int32, ascending) and ``target_sample``, some rows of the target's
    output matrix. ``settings``: the numbers that are not shapes.
    """

    path: Path
    tensors: dict[str, Tensor]
    settings: dict[str, Any]

    @classmethod
    def load(cls, path: Path) -> HeadFile:
        """Reads and checks a file; raises ArgumentError where it is no head."""
        tensors, settings = read_head(path, FORMAT)
        expected = {*(f"{name}.weight" for name in LINEARS), *NORMS, "draft_ids", "target_sample"}
        if set(tensors) != expected:
            raise ArgumentError(
                f"{path} lacks {sorted(expected - set(tensors))} and has {sorted(set(tensors) - expected)} "
                "beside what is expected"
            )
        return cls(path, tensors, settings)

    def check(self, lm: LM) -> None:
        """Raises UnsupportedModel unless the head was trained for this model."""
        if (reason := self.mismatch(lm)) is not None:
            raise UnsupportedModel(f"{reason}; expected weights that were trained for this model")

    def mismatch(self, lm: LM) -> str | None:
        """Why the head was not trained for this model, if it was not."""
        matrix = output_matrix(lm.model)
        own = {"vocabulary": matrix.shape[0], "hidden": matrix.shape[1], "layers": lm.runner.shape.num_layers}
        for name, size in own.items():
            if self.settings[name] != size:
                return (
                    f"the feature head {self.path.name} is for a target with {name} {self.settings[name]}, "
                    f"but this model's is {size}"
                )
        sample = self.tensors["target_sample"].float()
        rows = matrix[sample_rows(matrix.shape[0])].float().cpu()
        # Both were rounded to bfloat16 or finer.
        if not torch.allclose(rows, sample, rtol=2**-6, atol=2**-10):
            return (
                f"the feature head {self.path.name} was trained for a model with the same sizes but other "
                "weights"
            )
        return None


def output_matrix(model: Any) -> Tensor:
    """The matrix ``[V, H]`` that turns the target's last features into logits."""
    weight: Tensor = model.get_output_embeddings().weight.detach()
    return weight


def sample_rows(vocabulary: int) -> Tensor:
    """Which rows of the output matrix a file repeats: int64 ``[SAMPLE_ROWS]``, evenly spread."""
    return torch.linspace(0, vocabulary - 1, SAMPLE_ROWS).long()


def sample_of(model: Any) -> Tensor:
    """A few numbers of the output matrix, float32 ``[8 * SAMPLE_ROWS]`` on the CPU, to tell models apart."""
    matrix = output_matrix(model)
    return matrix[sample_rows(matrix.shape[0]).to(matrix.device), :8].flatten().float().cpu()


class Head:
    """A head over the prefix tree of its own keys and values.

    On the CPU its matrices stay in bfloat16 and its sums are float32: few rows are bound by how fast the
    weights stream, as the target's are. Elsewhere it computes in the target's type.
    """

    outlives_weights: ClassVar[bool] = False

    def __init__(self, file: HeadFile, lm: LM) -> None:
        from hornbeam.tree import PrefixTree

        file.check(lm)
        settings = file.settings
        self.taps: tuple[int, ...] = tuple(settings["taps"])
        self.eps: float = settings["eps"]
        self.num_heads: int = settings["heads"]
        self.num_kv_heads: int = settings["kv_heads"]
        self.head_dim: int = settings["head_dim"]
        self.device = lm.runner.shape.device
        self.on_cpu = self.device.type == "cpu"
        self.dtype = torch.float32 if self.on_cpu else lm.runner.shape.dtype
        stored = torch.bfloat16 if self.on_cpu else self.dtype
        matrices = {name: file.tensors[f"{name}.weight"].to(self.device, stored) for name in LINEARS}
        self.features, self.fuse = matrices["features"], matrices["fuse"]
        self.qkv = torch.cat([matrices[name] for name in "qkv"])
        self.o, self.down = matrices["o"], matrices["down"]
        self.gate_up = torch.cat([matrices["gate"], matrices["up"]])
        self.norms = {name: file.tensors[name].to(self.device, self.dtype) for name in NORMS}
        self.draft_ids = file.tensors["draft_ids"].to(self.device, torch.int64)
        self.vocab_size = lm.runner.shape.vocab_size
        self.vocabulary = output_matrix(lm.model)[self.draft_ids].to(stored).contiguous()
        self.embedding: Tensor = lm.model.get_input_embeddings().weight.detach()
        self.hidden_size = self.embedding.shape[1]
        #: Seconds that a row of a prompt takes, once one was read.
        self.row_seconds = 0.0
        exponents = torch.arange(0, self.head_dim, 2, device=self.device).float() / self.head_dim
        self.frequency = settings["rope_theta"] ** -exponents
        shape = lm.runner.shape
        self.tree: PrefixTree = PrefixTree(
            num_layers=1,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            device=self.device,
            page_tokens=lm.tree.page_tokens,
            # As many tokens as the target's cache, more or less.
            max_bytes=None
            if lm.tree.max_bytes is None
            else max(lm.tree.max_bytes // shape.num_layers, 1 << 24),
            slabs_per_chunk=64,
        )

    def recover(self) -> None:
        """Ends what an interrupted call has left open."""
        self.tree.recover()

    def forget(self) -> None:
        """Lets go of what was read of earlier prompts."""
        self.tree.clear()
        self.tree.trim()

    def read(self, hidden: Tensor) -> Tensor:
        """Features ``[n, H]`` of the target's hidden states ``[n, taps, H]``."""
        x = rms_norm(hidden.to(self.device, self.dtype), (self.hidden_size,), eps=self.eps)
        return self._linear(x.flatten(1), self.features)

    def forward(
        self, requests: Sequence[tuple[Branch, Sequence[int], Sequence[int]]], features: Tensor
    ) -> Tensor:
        """Appends rows to branches of the head's tree, and returns their outputs ``[rows, H]``.

        Args:
            requests: of each branch the labels of its new rows, by which they are found again, and the
                rows' tokens: the next ones.
            features: of the rows of all requests in turn, true or the outputs of rows before.
        """
        rows = [(branch, labels, None) for branch, labels, _ in requests]
        with torch.inference_mode(), self.tree.step(rows) as step:
            order = torch.cat([torch.as_tensor(own) for own in step.rows])
            tokens = torch.tensor([token for _, _, own in requests for token in own])
            # The step's rows lie in depth-first order of the tree.
            tokens = torch.empty_like(tokens).index_copy_(0, order, tokens).to(self.device)
            order = order.to(self.device)
            inputs = torch.empty_like(features).index_copy_(0, order, features)
            output = self._layer(tokens, inputs, step)[order]
            step.commit([range(len(labels)) for _, labels, _ in requests])
        return output

    def logits(self, output: Tensor) -> Tensor:
        """Over the target's vocabulary, ``[n, V]``, of outputs ``[n, H]``: minus infinity outside of the
        draft vocabulary."""
        with torch.inference_mode():
            own = self._linear(self._norm(output, "output_norm"), self.vocabulary)
            full = own.new_full((len(own), self.vocab_size), -torch.inf)
            return full.index_copy_(1, self.draft_ids, own)

    def _layer(self, tokens: Tensor, features: Tensor, step: Any) -> Tensor:
        count, size = len(tokens), (self.hidden_size,)
        token = embedding(tokens, self.embedding).to(self.dtype)
        both = torch.cat([rms_norm(token, size, eps=self.eps), rms_norm(features, size, eps=self.eps)], dim=1)
        residual = self._linear(both, self.fuse)
        qkv = self._linear(self._norm(residual, "attention_norm"), self.qkv).view(count, -1, self.head_dim)
        q, k, v = qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        angle = step.positions[:, None, None] * self.frequency
        cos, sin = angle.cos().to(self.dtype), angle.sin().to(self.dtype)
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        plan = step.plan
        if not self.on_cpu:
            plan = cuda.DevicePlan(
                plan, self.tree.chunks, num_heads=self.num_heads, num_kv_heads=self.num_kv_heads
            )
        chunks, kv_heads = self.tree.chunks, self.num_kv_heads
        ops.write_rows(k, v, chunks, plan, layer=0, num_kv_heads=kv_heads)
        mixed = torch.empty_like(q)
        ops.tree_attention(q, chunks, plan, layer=0, num_kv_heads=kv_heads, out=mixed)
        residual = residual + self._linear(mixed.view(count, -1), self.o)
        gate, up = self._linear(self._norm(residual, "mlp_norm"), self.gate_up).chunk(2, dim=1)
        return residual + self._linear(silu(gate) * up, self.down)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return rms_norm(x, (self.hidden_size,), self.norms[name], self.eps)

    def _linear(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.on_cpu and len(x) <= max_native_rows(weight.dtype):
            return linear(x, weight)
        return torch.nn.functional.linear(x, weight.to(x.dtype))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
