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
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding, rms_norm, silu

from hornbeam import cuda, ops
from hornbeam.errors import ArgumentError, UnsupportedModel
from hornbeam.ops.linear import linear, max_native_rows
from hornbeam.speculation.head_file import check_tensors, counts, matrix_size, read_head
from hornbeam.speculation.target_matrices import (
    SAMPLE_ROWS,
    input_matrix,
    matrices_of,
    output_matrix,
    sample_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hornbeam.cache.tree import Branch, PrefixTree
    from hornbeam.speculation.protocols import Target

__all__ = [
    "FORMAT",
    "TAIL_ROWS",
    "Head",
    "HeadFile",
    "Rows",
    "Tail",
    "labels_of",
]

FORMAT = "hornbeam-feature-head-1"

# Rows of a prompt that are computed at once.
PREFILL_ROWS = 1024

# Labels of rows are below this prime, which is the largest that a tree takes as a token id.
LABELS = (1 << 31) - 1

# Ends of texts whose states are kept, and the most tokens that one of them has.
TAILS, TAIL_ROWS = 64, 32

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
        """Reads and checks a file, or takes it from memory if it is as it was; raises ArgumentError where it
        is no head."""
        state = path.stat() if path.exists() else None
        return cls._load(path, state and (state.st_mtime_ns, state.st_size, state.st_ino))

    @classmethod
    @lru_cache(maxsize=2)
    def _load(cls, path: Path, _state: tuple[int, int, int] | None) -> HeadFile:
        tensors, settings = read_head(path, FORMAT)
        _check(path, tensors, settings)
        return cls(path, tensors, settings)

    def check(self, target: Target) -> None:
        """Raises UnsupportedModel unless the head was trained for this model."""
        if (reason := self.mismatch(target)) is not None:
            raise UnsupportedModel(f"{reason}; expected weights that were trained for this model")

    def mismatch(self, target: Target) -> str | None:
        """Why the head cannot draft for this model, if it cannot."""
        try:
            matrix, _ = matrices_of(target)
        except UnsupportedModel as error:
            return str(error)
        shape = target.runner.shape
        own = {"vocabulary": matrix.shape[0], "hidden": matrix.shape[1], "layers": shape.num_layers}
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


def _check(path: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Raises ArgumentError unless the settings are complete and the tensors have the shapes they tell."""
    hidden, vocabulary, layers = counts(path, settings, "hidden", "vocabulary", "layers")
    heads, kv_heads, size = counts(path, settings, "heads", "kv_heads", "head_dim")
    taps = settings.get("taps")
    if not isinstance(taps, list) or not taps or not all(tap in range(layers + 1) for tap in taps):
        raise ArgumentError(f"{path}: setting taps is {taps!r}, expected a list of layers from 0 to {layers}")
    for name in ("eps", "rope_theta"):
        if not isinstance(value := settings.get(name), int | float) or not value > 0:
            raise ArgumentError(f"{path}: setting {name} is {value!r}, expected a number above 0")
    inner = matrix_size(tensors, "gate.weight", 0)
    linears = {
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
    shapes: dict[str, tuple[int | None, ...]] = {f"{name}.weight": linears[name] for name in LINEARS}
    shapes |= {
        **dict.fromkeys(NORMS, (hidden,)),
        "draft_ids": (None,),
        "target_sample": (SAMPLE_ROWS, hidden),
    }
    check_tensors(path, tensors, shapes)
    ids = tensors["draft_ids"].long()
    if not len(ids) or int(ids[0]) < 0 or int(ids[-1]) >= vocabulary or not bool((ids.diff() > 0).all()):
        raise ArgumentError(
            f"{path}: draft_ids are not ascending ids, expected some of 0 to {vocabulary - 1}"
        )


def labels_of(tokens: Sequence[int] | NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    """What the rows of a text are found by in the head's tree: int64 ``[len(tokens) - 1]``. A row is made of
    its token's states and the token after it, so its label names both."""
    own = np.asarray(tokens, dtype=np.int64)
    return (own[:-1] * vocab_size + own[1:]) % LABELS


@dataclass(frozen=True)
class Rows:
    """New rows of a branch of the head's tree: their labels (:func:`labels_of`), the tokens *after* theirs,
    and how many positions of the text lie before the rows without having one in the branch."""

    branch: Branch
    labels: Sequence[int]
    tokens: Sequence[int]
    gap: int = 0


@dataclass(frozen=True)
class Tail:
    """The end of a text whose rows were not made: its tokens, and the target's states of them."""

    tokens: list[int]
    states: Tensor


class Head:
    """A head over the prefix tree of its own keys and values.

    On the CPU its matrices stay in bfloat16 and its sums are float32: few rows are bound by how fast the
    weights stream, as the target's are. Elsewhere it computes in the target's type.
    """

    outlives_weights: ClassVar[bool] = False

    def __init__(self, file: HeadFile, target: Target) -> None:
        from hornbeam.cache.tree import PrefixTree

        file.check(target)
        settings = file.settings
        self.taps: tuple[int, ...] = tuple(settings["taps"])
        self.eps: float = settings["eps"]
        self.num_heads: int = settings["heads"]
        self.num_kv_heads: int = settings["kv_heads"]
        self.head_dim: int = settings["head_dim"]
        self.device = target.runner.shape.device
        self.on_cpu = self.device.type == "cpu"
        self.dtype = torch.float32 if self.on_cpu else target.runner.shape.dtype
        stored = torch.bfloat16 if self.on_cpu else self.dtype
        matrices = {name: file.tensors[f"{name}.weight"].to(self.device, stored) for name in LINEARS}
        self.features, self.fuse = matrices["features"], matrices["fuse"]
        self.qkv = torch.cat([matrices[name] for name in "qkv"])
        self.o, self.down = matrices["o"], matrices["down"]
        self.gate_up = torch.cat([matrices["gate"], matrices["up"]])
        self.norms = {name: file.tensors[name].to(self.device, self.dtype) for name in NORMS}
        self.draft_ids = file.tensors["draft_ids"].to(self.device, torch.int64)
        self.vocab_size = target.runner.shape.vocab_size
        self.vocabulary = output_matrix(target.model)[self.draft_ids].to(stored).contiguous()
        self.embedding: Tensor = input_matrix(target.model)
        self.hidden_size = self.embedding.shape[1]
        #: Seconds that a row of a prompt takes, once one was read.
        self.row_seconds = 0.0
        #: Ends of texts, by how many rows lie before them, and the hash of their tokens and one more.
        self.tails: dict[tuple[int, int], Tail] = {}
        exponents = torch.arange(0, self.head_dim, 2, device=self.device).float() / self.head_dim
        self.frequency = settings["rope_theta"] ** -exponents
        shape = target.runner.shape
        self.tree: PrefixTree = PrefixTree(
            num_layers=1,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            device=self.device,
            page_tokens=target.tree.page_tokens,
            # As many tokens as the target's cache, more or less.
            max_bytes=None
            if target.tree.max_bytes is None
            else max(target.tree.max_bytes // shape.num_layers, 1 << 24),
            slabs_per_chunk=64,
        )

    def recover(self) -> None:
        """Ends what an interrupted call has left open."""
        self.tree.recover()

    def forget(self) -> None:
        """Lets go of what was read of earlier prompts."""
        self.tree.clear()
        self.tree.trim()
        self.tails.clear()

    def remember(self, begin: int, text: Sequence[int], states: Tensor) -> None:
        """Keeps the states ``[n, taps, H]`` of a text's tokens from ``begin`` on, for a longer text."""
        key = (begin, hash(tuple(text[: begin + 1])))
        self.tails.pop(key, None)
        self.tails[key] = Tail(list(text[begin:]), states)
        while len(self.tails) > TAILS:
            del self.tails[next(iter(self.tails))]

    def tail(self, begin: int, text: Sequence[int]) -> Tensor | None:
        """The states ``[n, taps, H]`` of a text's tokens from ``begin`` on, as far as they were kept."""
        if (found := self.tails.get((begin, hash(tuple(text[: begin + 1]))))) is None:
            return None
        own = text[begin : begin + len(found.tokens)]
        same = [a == b for a, b in zip(own, found.tokens, strict=False)]
        return found.states[: (*same, False).index(False)]

    def read(self, hidden: Tensor) -> Tensor:
        """Features ``[n, H]`` of the target's hidden states ``[n, taps, H]``."""
        x = rms_norm(hidden.to(self.device, self.dtype), (self.hidden_size,), eps=self.eps)
        return self._linear(x.flatten(1), self.features)

    def forward(self, requests: Sequence[Rows], features: Tensor) -> Tensor:
        """Appends rows to branches of the head's tree, and returns their outputs ``[rows, H]``.

        Args:
            requests: the new rows, of each branch at most once.
            features: of the rows of all requests in turn, true or the outputs of rows before.

        Raises:
            OutOfPages: the head's memory does not hold the rows; nothing was changed.
        """
        rows = [(request.branch, request.labels, None) for request in requests]
        with torch.inference_mode(), self.tree.step(rows) as step:
            order = torch.cat([torch.as_tensor(own) for own in step.rows])
            tokens = torch.tensor([token for request in requests for token in request.tokens])
            gaps = torch.tensor([request.gap for request in requests for _ in request.tokens])
            # The step's rows lie in depth-first order of the tree.
            tokens = torch.empty_like(tokens).index_copy_(0, order, tokens).to(self.device)
            gaps = torch.empty_like(gaps).index_copy_(0, order, gaps).to(self.device)
            order = order.to(self.device)
            inputs = torch.empty_like(features).index_copy_(0, order, features)
            output = self._layer(tokens, inputs, step, step.positions + gaps)[order]
            step.commit([range(len(request.labels)) for request in requests])
        return output

    def logits(self, output: Tensor) -> Tensor:
        """Over the target's vocabulary, ``[n, V]``, of outputs ``[n, H]``: minus infinity outside of the
        draft vocabulary."""
        with torch.inference_mode():
            own = self._linear(self._norm(output, "output_norm"), self.vocabulary)
            full = own.new_full((len(own), self.vocab_size), -torch.inf)
            return full.index_copy_(1, self.draft_ids, own)

    def _layer(self, tokens: Tensor, features: Tensor, step: Any, positions: Tensor) -> Tensor:
        count, size = len(tokens), (self.hidden_size,)
        token = embedding(tokens, self.embedding).to(self.dtype)
        both = torch.cat([rms_norm(token, size, eps=self.eps), rms_norm(features, size, eps=self.eps)], dim=1)
        residual = self._linear(both, self.fuse)
        qkv = self._linear(self._norm(residual, "attention_norm"), self.qkv).view(count, -1, self.head_dim)
        q, k, v = qkv.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        angle = positions[:, None, None] * self.frequency
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
